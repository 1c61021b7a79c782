"""The records that a study leaves as JSON, each written and read by one class.

`NAME.plan.json` is a `PlanRecord`, `NAME.declared.json` a `DeclarationsRecord`, `NAME.json` a
`StudyRecord`. All have a field `format`, as in `layermix.runs.schema`.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_serializer, model_validator

from layermix.evaluation.verdicts import Outcome
from layermix.runs.schema import FORMAT, Matrix, Notes, Part, Record, ScoresBySplit
from layermix.studies.plan import Cell, Plan
from layermix.studies.spec import MOST_CELLS, StudyConfig, arms_of

Pair = tuple[str, str, str]
"""Task, first arm, second arm."""


# -- NAME.plan.json --------------------------------------------------------------------------------


CellName = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
"""The name of a cell, and so of its folder: never a path."""


class PlannedCell(Part):
    """One distillation of a study: the name of its folder, and where it belongs."""

    name: CellName
    task: str
    arm: str
    seed: int = Field(ge=0, lt=2**31)


class PlanRecord(Record):
    """A study and its cells as they were run, for readers without the study's own file.

    Attributes:
        study: What the study's file says.
        cells: In the order in which they are run.
    """

    study: StudyConfig
    cells: tuple[PlannedCell, ...] = Field(max_length=MOST_CELLS)

    @model_validator(mode="after")
    def _numbers_are_finite(self) -> Self:
        # Settings are checked where they are run; a plan is read without that.
        try:
            json.dumps(self.study.model_dump(), allow_nan=False)
        except ValueError:
            raise ValueError("found an infinite number or NaN, wanted finite ones") from None
        return self

    @model_validator(mode="after")
    def _belong_to_the_study(self) -> Self:
        places = {(task, arm) for task in self.study.tasks for _, arm, _ in arms_of(self.study)}
        for cell in self.cells:
            if (cell.task, cell.arm) not in places:
                raise ValueError(f"cell {cell.name}: no arm {cell.arm!r} of a task {cell.task!r}")
        return self

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """The record of a plan."""
        cells = tuple(
            PlannedCell(name=cell.name, task=cell.task, arm=cell.arm, seed=cell.seed)
            for cell in plan.cells
        )
        return cls(format=FORMAT, study=plan.study, cells=cells)

    def plan(self) -> Plan:
        """A plan to read results by, not to run: its cells have no content and no config.

        Names of cells depend on the defaults of the version that ran them, so they are kept.
        """
        cells = tuple(
            Cell(cell.name, cell.task, cell.arm, cell.seed, content={}, config=None, teacher=None)
            for cell in self.cells
        )
        return Plan(self.study, cells)

    @field_serializer("study")
    def _changed_fields(self, study: StudyConfig) -> dict[str, Any]:
        return study.model_dump(mode="json", exclude_defaults=True)


# -- NAME.declared.json ----------------------------------------------------------------------------


class JudgedPair(Part):
    """A comparison that gets a verdict.

    Attributes:
        task: Where the arms are compared.
        arms: First and second arm.
        cells: Names of the cells of both arms, which stand for their seeds and settings.
    """

    task: str
    arms: tuple[str, str]
    cells: tuple[str, ...]


class Judged(Part):
    """What gets verdicts: the reported epoch, the rows and the pairs."""

    report: str
    split: str
    pairs: tuple[JudgedPair, ...]


class Declaration(Part):
    """What was declared at one time.

    Attributes:
        written: ISO 8601, UTC.
        finished_cells: How many cells were finished by then, so that their scores were known.
        judged: What gets verdicts.
    """

    written: str
    finished_cells: int
    judged: Judged


class DeclarationsRecord(Record):
    """Every declaration of a study, the oldest first; format 0 is a bare list of them."""

    declarations: tuple[Declaration, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The record in a JSON text.

        Raises:
            ValidationError: If it is not what `to_json` writes, in this version or an older one.
        """
        if text.lstrip().startswith("["):
            text = f'{{"declarations": {text}}}'
        return super().from_json(text)


# -- NAME.json -------------------------------------------------------------------------------------


class CellCounts(Part):
    """Numbers of cells."""

    planned: int
    finished: int

    @property
    def complete(self) -> bool:
        """Whether every planned cell is finished."""
        return self.finished == self.planned


class AlphaRecord(Part):
    """A learned α over the seeds of an arm; distances are total variations, mean over rows.

    Attributes:
        mean: Mean over seeds, (student layers, teacher layers).
        moved: Distance from the start by row, as a share of the largest possible one; None where
            there is one teacher layer.
        reachable: The share of the largest distance that the learning rate allowed; None if the
            start was not uniform, or too few learning rates were logged.
        between_seeds: Distance between two seeds, mean over pairs; None with one seed.
    """

    mean: Matrix
    moved: tuple[float, ...] | None = None
    reachable: float | None = None
    between_seeds: float | None = None


class AgreementRecord(Part):
    """How often students of an arm give their teacher's answer.

    Attributes:
        mean: Share of the rows, mean over seeds.
        low: Lower end of the 95 % t interval of the mean; None with one seed.
        high: Upper end.
        correlation: True if it is not a share but the correlation of two numbers.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    correlation: bool | None = None


class ArmScores(Part):
    """The scores of one arm on one task.

    Attributes:
        seeds: Of the finished cells.
        values: The compared score of each seed.
        mean: Mean over seeds.
        sd: Standard deviation; None with one seed.
        low: Lower end of the 95 % t interval of the mean; None if there is none.
        high: Upper end.
        of_teacher: Mean over the mean score of the teachers; None if that is not above 0.
        agreement: None where answers are not classes, or no teacher was asked.
        best_on_dev: Score of each seed's best epoch, if the last epochs are compared.
        optimism: How much higher the best epoch scores than the compared one, mean over seeds.
        by_epoch: Score after each epoch, mean over seeds; None if seeds have unlike epochs.
        alpha: None if α is not learned.
        gradient_shares: Part of the loss -> its share of the gradient in the first steps; None if
            it was not measured.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    of_teacher: float | None = None
    agreement: AgreementRecord | None = None
    best_on_dev: tuple[float, ...] | None = None
    optimism: float | None = None
    by_epoch: tuple[float, ...] | None = None
    alpha: AlphaRecord | None = None
    gradient_shares: dict[str, float] | None = None


class TaskScores(Part):
    """The arms on one task.

    Attributes:
        metric: The score.
        teacher: That of every teacher that taught them.
        arms: By name.
        baselines: That of models without a neural network, if they were asked for.
    """

    metric: str
    teacher: tuple[float, ...]
    arms: dict[str, ArmScores]
    baselines: dict[str, float] | None = None


class BaselinesRecord(Record):
    """NAME.baselines.json: scores of models without a neural network.

    Attributes:
        tasks: Task -> name of the model -> its scores.
    """

    tasks: dict[str, dict[str, ScoresBySplit]]


class BootstrapRecord(Part):
    """First minus second arm, its 95 % interval over seeds and examples, and a two-sided p."""

    difference: float
    low: float
    high: float
    p: float


Preliminary = Literal["seeds", "family"]
"""Why a verdict may still change: seeds of its own are missing, or other comparisons are."""


class ComparisonRecord(Part):
    """Two arms on a task.

    Attributes:
        task: Where the arms are compared.
        first: The arm that a positive difference speaks for.
        second: The other arm.
        differences: First minus second, seed by seed.
    """

    task: str
    first: str
    second: str
    differences: tuple[float, ...]


class VerdictRecord(ComparisonRecord):
    """A verdict on a comparison of the primary family.

    Attributes:
        mean: Mean difference.
        interval: 95 % t interval of the mean; None where there is none.
        p: Of the sign-flip test.
        adjusted_p: After Holm over the family.
        bootstrap: None if the arms were not scored on the same rows.
        stochastic_order: ε_min of almost stochastic order; None with fewer than two seeds.
        outcome: Of the first arm against the second.
        preliminary: None if the verdict is final; unknown in format 0.
        sentence: All this for people.
    """

    mean: float
    interval: tuple[float | None, float | None]
    p: float
    adjusted_p: float
    bootstrap: BootstrapRecord | None = None
    stochastic_order: float | None = None
    outcome: Outcome
    preliminary: Preliminary | None = None
    sentence: str


class DescriptionRecord(ComparisonRecord):
    """A comparison outside the family: a sentence without a verdict."""

    sentence: str


class OwnScore(Part):
    """Your score beside a published one.

    Attributes:
        mean: Mean over seeds.
        single_run: Where one more run would lie in 95 of 100 cases; None if that is unknown.
        within: Whether the published score lies there.
    """

    mean: float
    single_run: tuple[float, float] | None = None
    within: bool | None = None


class PublishedScore(Part):
    """A published score beside yours, by the best epoch on dev and by the last one."""

    task: str
    arm: str
    metric: str
    published: float
    best_on_dev: OwnScore | None = None
    last: OwnScore | None = None


class StudyRecord(Record):
    """What the finished cells of a study show.

    Attributes:
        title: Of the study.
        report: The epoch whose scores are compared.
        split: The rows whose scores are compared.
        cells: How many are finished.
        tasks: Scores by task.
        alpha_between_tasks: Arm -> distance of the mean learned α of two tasks.
        family: Verdicts.
        not_yet: Pairs of the family without a seed that both arms have finished.
        descriptive: Comparisons without a verdict.
        published: Published scores beside yours.
        notes: What to know before reading the tables.
    """

    title: str
    report: str
    split: str
    cells: CellCounts
    tasks: dict[str, TaskScores]
    alpha_between_tasks: dict[str, float]
    family: tuple[VerdictRecord, ...]
    not_yet: tuple[Pair, ...]
    descriptive: tuple[DescriptionRecord, ...]
    published: tuple[PublishedScore, ...]
    notes: Notes = ()
