"""The records that a search leaves as JSON: `NAME.search.json`, and `measured.json` beside it."""

from typing import Any, Literal

from pydantic import Field

from layermix.runs.schema import Notes, Part, Record

SUFFIX = ".search.json"
"""The end of the name of a search's record."""
ANSWERS = ".answers.parquet"
"""The end of the name of the file with what int8 files answered, if they were judged."""
MEASURED = "measured.json"
"""Sizes and times, which all searches of a folder share."""


class Measured(Part):
    """What a model costs before it is trained.

    Attributes:
        bytes: Of its weights, or of its int8 file.
        milliseconds: For one text of the data, the median.
        parameters: How many it has.
    """

    bytes: int
    milliseconds: float
    parameters: int


class MeasuredRecord(Record):
    """measured.json: content of a student, and how and where it runs -> what it costs."""

    models: dict[str, Measured] = Field(default_factory=dict)


class RoundScores(Part):
    """The scores of a student in one round, on held-out rows.

    Attributes:
        round: From 1.
        epochs: For which it was trained.
        scores: One for each seed.
    """

    round: int
    epochs: int
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return sum(self.scores) / len(self.scores)


Refused = Literal["too slow", "too large", "too slow and too large"]


class CandidateRecord(Part):
    """A student that the search looked at.

    Attributes:
        name: Its values on the axes.
        changes: What it changes in the base.
        cost: None if it could not be made.
        refused: Why it was not trained.
        failed: The error, if it could not be made or run, or its training failed.
        rounds: Those that it was trained in.
    """

    name: str
    changes: dict[str, Any]
    cost: Measured | None = None
    refused: Refused | None = None
    failed: str | None = None
    rounds: tuple[RoundScores, ...] = ()


class TeacherRecord(Part):
    """The teacher of a search.

    Attributes:
        score: On the validation rows.
        reference: The score from which points are counted on the held-out rows.
        held_out: Whether that is its own score on these rows; else it may have been trained on
            them, and its score on the validation rows stands for it.
        cost: Of it, run as the students are.
    """

    score: float
    reference: float
    held_out: bool
    cost: Measured


class PowerRecord(Part):
    """How probable it was, before the last comparison, that it would show the floor is kept.

    Attributes:
        if_equal: If the student is as good as its teacher.
        if_as_found: If it is as far below as on the held-out rows.
        sd: Standard deviation over seeds that was expected, as a score.
        error: Standard error over validation rows that was expected, as a score.
    """

    if_equal: float
    if_as_found: float
    sd: float
    error: float


class FloorVerdict(Part):
    """A one-sided test of non-inferiority, of fresh seeds on the validation rows, in points.

    Attributes:
        metric: The score.
        floor: Points that the student may be below its teacher.
        teacher: The teacher's score.
        scores: Those of the students, one for each fresh seed.
        below: Points below the teacher, mean over seeds; negative if above.
        limit: Upper end of the one-sided 95 % interval of `below`.
        p: One-sided.
        shown: Whether `limit` is within the floor.
        rows: Number of validation rows.
        int8: Whether the students were run as int8 files.
        int8_cost: Points that int8 costs, mean over seeds; None without it.
    """

    metric: str
    floor: float
    teacher: float
    scores: tuple[float, ...]
    below: float
    limit: float
    p: float
    shown: bool
    rows: int
    int8: bool = False
    int8_cost: float | None = None


class InputsRecord(Part):
    """Which teacher and data a search has, whatever their places: hashes of their content.

    Attributes:
        teacher: Of its weights.
        data: Of texts and labels of all splits.
        validation: Of those of the validation rows alone.
    """

    teacher: str
    data: str
    validation: str


class Look(Part):
    """One judgement on the validation rows.

    Attributes:
        student: Its name.
        cells: The names of its trainings.
        int8: Whether int8 files were judged.
    """

    student: str
    cells: tuple[str, ...]
    int8: bool = False

    def __str__(self) -> str:
        """In words."""
        return f"{self.student}{' in int8' * self.int8} with {len(self.cells)} seeds"


class SearchSettings(Part):
    """What a search was asked for.

    Attributes:
        floor: Points of the main score that the student may be below its teacher.
        ms: Most milliseconds for one text.
        mb: Most megabytes of its weights.
        int8: Whether size, time and the last score are those of an int8 file.
        smallest: What the search makes small, within the budgets: `mb` or `ms`.
        seeds: Fresh seeds of the last comparison.
        axes: Field -> values that were tried.
        base: The distillation that candidates change, as written.
        baselines: Whether models without a teacher are scored as well.
    """

    floor: float
    ms: float | None = None
    mb: float | None = None
    int8: bool = False
    smallest: Literal["mb", "ms"] = "mb"
    seeds: int = 5
    axes: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    base: dict[str, Any] = Field(default_factory=dict)
    baselines: bool = False

    @property
    def name(self) -> str:
        """The begin of the names of its files: searches of one folder differ in it."""
        budgets = {"floor": self.floor, "ms": self.ms, "mb": self.mb}
        parts = [f"{name}-{_exact(most)}" for name, most in budgets.items() if most is not None]
        parts += ["int8"] * self.int8 + ["fast"] * (self.smallest == "ms")
        return "-".join(parts)


def _exact(number: float) -> str:
    """A number with as many digits as it needs, so that no two have one name."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(float(number))


class SearchRecord(Record):
    """What a search did and found.

    Attributes:
        status: `unfinished` until there is a verdict.
        settings: What it was asked for.
        inputs: Which teacher and data it had; None if not on record.
        metric: The score.
        higher_is_better: Whether more of it is.
        held_out_rows: On which students were compared.
        validation_rows: On which the chosen one was judged.
        validation_groups: Of these rows; None if they are independent of each other.
        teacher: None until it was measured.
        candidates: In the order of the axes.
        chosen: The name of the smallest student that was good enough on the held-out rows.
        within: Whether it was; else it is the best one.
        power: None until there is a choice.
        verdict: None until it was judged.
        looks: All judgements of this search on the validation rows, the last one included.
        baselines: Name -> score of a model without a teacher on the validation rows.
        baselines_held_out: The same on the held-out rows, of linear models.
        notes: What to know before using the result.
    """

    status: Literal["ok", "unfinished"] = "unfinished"
    settings: SearchSettings
    inputs: InputsRecord | None = None
    metric: str = ""
    higher_is_better: bool = True
    held_out_rows: int = 0
    validation_rows: int = 0
    validation_groups: int | None = None
    teacher: TeacherRecord | None = None
    candidates: tuple[CandidateRecord, ...] = ()
    chosen: str | None = None
    within: bool | None = None
    power: PowerRecord | None = None
    verdict: FloorVerdict | None = None
    looks: tuple[Look, ...] = ()
    baselines: dict[str, float] = Field(default_factory=dict)
    baselines_held_out: dict[str, float] = Field(default_factory=dict)
    notes: Notes = ()

    def candidate(self, name: str) -> CandidateRecord:
        """The candidate of a name."""
        return next(one for one in self.candidates if one.name == name)
