"""Searches for the smallest student within a floor: measures, trains by halves, and judges one.

All training is done as cells of studies in one folder, so a search that was stopped continues, and
searches with other floors or budgets share what they have in common.
"""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layermix.atomic import whole_folder, write_text
from layermix.config import DistillConfig, merge
from layermix.console import Reporter, Terminal
from layermix.data.splits import labels_of, texts_of
from layermix.data.texts import TextData, load_texts
from layermix.data.tokenization import Collator, choose_max_length, tokenize_split
from layermix.errors import ConfigError, LayermixError, ModelError, Note, RunExistsError, StudyError
from layermix.evaluation.linear import Values
from layermix.evaluation.noninferiority import non_inferiority, power
from layermix.evaluation.predictions import Predictions, combine
from layermix.evaluation.tfidf import tfidf_values
from layermix.evaluation.weighted_scores import WEIGHTED
from layermix.hardware.cpu_kernels import prepare_process
from layermix.models.encoder import Classifier, blocks_of, fingerprint
from layermix.models.inference import logits_of
from layermix.models.loading import load_classifier, problem_of_model
from layermix.models.narrowing import check_narrowable
from layermix.runs.baseline import STATIC, TFIDF, baseline_of, static_embeddings
from layermix.runs.pipeline import HOLDOUT_WARNING, holds_out_the_same_rows, make_student
from layermix.runs.prepare import choose_rows
from layermix.runs.reader import reason_of
from layermix.runs.schema import FORMAT, read_text
from layermix.search.halving import (
    Standing,
    choice,
    epochs_of,
    going_on,
    noise,
    round_sizes,
)
from layermix.search.measure import measure, read_measured, write_int8, write_measured
from layermix.search.schema import (
    MEASURED,
    SUFFIX,
    CandidateRecord,
    FloorVerdict,
    Measured,
    PowerRecord,
    Refused,
    RoundScores,
    SearchRecord,
    SearchSettings,
    TeacherRecord,
)
from layermix.search.space import Candidate, candidates, default_axes
from layermix.search.text import candidate_line, choice_text, plan_text
from layermix.serving.predictor import ONNX_FILES, open_predictor
from layermix.studies.analysis import analyse
from layermix.studies.cells import Arm, gather
from layermix.studies.control import CONTROL, LABELS_ALONE
from layermix.studies.declarations import declare
from layermix.studies.folder import Study
from layermix.studies.plan import Plan, make_plan
from layermix.studies.scheduler import Scheduler
from layermix.studies.schema import PlanRecord
from layermix.studies.spec import StudyConfig
from layermix.studies.text import write

TASK = "task"
"""The name of the only task of a search's studies."""
LAST_SEEDS = 2
"""Seeds of each student in the last round, so that one lucky seed does not choose."""
FRESH = 1000
"""Added to the base's seed: the seeds of the last comparison are none that chose the student."""


@dataclass
class Search:
    """One search in a folder.

    Args:
        settings: What is asked for.
        out: Its folder, which may hold other searches of the same students.
        jobs: Number of trainings at once.
        console: Where the progress of trainings is shown.
        reporter: Where all else is shown.
    """

    settings: SearchSettings
    out: Path
    jobs: int
    console: Terminal
    reporter: Reporter
    record: SearchRecord = field(init=False)
    earlier: SearchRecord | None = field(init=False, default=None)
    writes: bool = field(init=False, default=False)
    candidates: Mapping[str, Candidate] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.settings.int8:
            _check_onnx()
        self.record = SearchRecord(format=FORMAT, settings=self.settings)
        self._check_earlier()

    @property
    def file(self) -> Path:
        """The search's record."""
        return self.out / f"{self.settings.name}{SUFFIX}"

    @property
    def student(self) -> Path:
        """The folder of the student that is chosen."""
        return self.out / f"{self.settings.name}-student"

    def run(self, *, dry: bool = False) -> SearchRecord:
        """Search, and write the record after each step.

        Args:
            dry: Only say what would be done; write nothing.

        Raises:
            LayermixError: If teacher or data cannot be used, or every student failed.
        """
        if not dry and self.earlier is not None and self.student.is_dir():
            return self.earlier
        prepare_process()
        base = self._config({})
        texts, teacher = _loaded(base)
        axes = self.settings.axes or default_axes(len(blocks_of(teacher.model)), base)
        self.candidates = {one.name: one for one in candidates(self.settings.base, axes)}
        rows = choose_rows(texts, self._config({"training": {"selection": "holdout"}})).splits
        self._keep(
            metric="",
            held_out_rows=len(rows["holdout"]),
            validation_rows=_labelled(texts),
            candidates=tuple(
                CandidateRecord(name=one.name, changes=dict(one.changes))
                for one in self.candidates.values()
            ),
        )
        self.reporter.say(plan_text(self.record, base.training.epochs, axes))
        if dry:
            return self.record
        self.out.mkdir(parents=True, exist_ok=True)
        self.writes = True
        cost = self._measure(texts, teacher, base)
        self._refuse()
        standings = self._rounds(base, cost)
        self._choose(standings)
        self._judge(texts)
        if self.settings.baselines:
            self._add_baselines(texts, base)
        self._keep(status="ok")
        return self.record

    # -- what a search is of -----------------------------------------------------------------------

    def _config(self, changes: Mapping[str, Any]) -> DistillConfig:
        return DistillConfig.model_validate(merge(self.settings.base, changes))

    def _check_earlier(self) -> None:
        """Raise an error if the folder has this search with other students or data."""
        if not self.file.is_file():
            return
        try:
            record = SearchRecord.from_json(read_text(self.file))
        except ValueError as error:
            raise ConfigError(
                f"{self.file} is damaged ({reason_of(error)}); remove it, and the same command "
                "makes it again from the finished trainings"
            ) from None
        text = SearchRecord(format=FORMAT, settings=self.settings).to_json()
        earlier, now = record.settings, SearchRecord.from_json(text).settings
        if (earlier.axes, earlier.base) != (now.axes, now.base):
            raise RunExistsError(
                f"{self.file}: is the record of a search with other axes or settings; choose "
                "another --out"
            )
        if record.status == "ok" and earlier == now:
            self.earlier = record

    def _keep(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)
        if self.writes:
            write_text(self.file, self.record.to_json())

    def _note(self, note: Note) -> None:
        self.reporter.warn(note)
        self._keep(notes=(*self.record.notes, note))

    def _change(self, name: str, **changes: Any) -> None:
        self._keep(
            candidates=tuple(
                one.model_copy(update=changes) if one.name == name else one
                for one in self.record.candidates
            )
        )

    # -- before training ---------------------------------------------------------------------------

    def _measure(self, texts: TextData, teacher: Classifier, base: DistillConfig) -> Measured:
        """Measure all students that were not measured before, and return the teacher's cost."""
        file = self.out / MEASURED
        known = read_measured(file)
        way = "int8" if self.settings.int8 else "torch"
        plan = self._plan("measured", list(self.candidates.values()), base, seeds=[base.seed])
        keys = {cell.arm: f"{cell.name}-{way}" for cell in plan.cells}
        keys["teacher"] = f"{fingerprint(teacher.model)[:12]}-{way}"
        missing = {name: key for name, key in keys.items() if key not in known}
        length = base.data.max_length or choose_max_length(
            texts, teacher.tokenizer, teacher.max_length
        )

        def on_each(name: str, found: Measured | Exception) -> None:
            if isinstance(found, Measured):
                known[keys[name]] = found
                write_measured(file, known)
            elif name == "teacher":
                raise found
            else:
                self._change(name, failed=_reason(found))
            bar(1)

        if missing:
            makers = {"teacher": lambda: teacher} | {
                name: partial(_student, self._config(self.candidates[name].changes), teacher, texts)
                for name in missing
                if name != "teacher"
            }
            shown = texts_of(texts.splits["validation"])
            order = np.random.default_rng(0).permutation(len(shown))
            with self.reporter.counting(len(makers), "measuring sizes and times") as bar:
                measure(
                    makers,
                    [shown[place] for place in order],
                    length,
                    int8=self.settings.int8,
                    on_each=on_each,
                )
        for name in self.candidates:
            self._change(name, cost=known.get(keys[name]))
        return known[keys["teacher"]]

    def _refuse(self) -> None:
        """Refuse what is over the budgets.

        Raises:
            ConfigError: If nothing is left.
        """
        for one in self.record.candidates:
            if one.cost is not None:
                self._change(one.name, refused=_refused(one.cost, self.settings))
        for one in self.record.candidates:
            self.reporter.say(candidate_line(one))
        if not self._left():
            raise ConfigError(
                "no student is left to train: each is over a budget or could not be made; allow "
                "more with --ms or --mb, or give smaller students with --axis"
            )

    def _left(self) -> list[Candidate]:
        return [
            self.candidates[one.name]
            for one in self.record.candidates
            if one.refused is None and one.failed is None
        ]

    # -- training ----------------------------------------------------------------------------------

    def _rounds(self, base: DistillConfig, cost: Measured) -> list[Standing]:
        """Train the students in rounds; returns those of the last round."""
        left = self._left()
        sizes = round_sizes(len(left))
        standings: list[Standing] = []
        for number, size in enumerate(sizes):
            if number:
                uncertain = noise(self.record.held_out_rows)
                kept = going_on(standings, size, self.settings.floor, uncertain)
                left = [self.candidates[one.name] for one in kept]
            is_last = number == len(sizes) - 1
            seeds = list(range(base.seed, base.seed + (LAST_SEEDS if is_last else 1)))
            changed = [
                replace(one, changes=merge(one.changes, self._of_round(one, number, len(sizes))))
                for one in left
            ]
            plan = self._plan(
                f"round-{number + 1}", changed, base, seeds, {"training": {"selection": "holdout"}}
            )
            arms = self._train(plan, f"round-{number + 1}", f"round {number + 1} of {len(sizes)}")
            if self.record.teacher is None:
                self._keep_teacher(next(iter(arms.values())), base, cost)
            standings = [
                self._standing(one, arms[one.name], number + 1)
                for one in changed
                if one.name in arms
            ]
        return standings

    def _of_round(self, one: Candidate, number: int, rounds: int) -> dict[str, Any]:
        epochs = self._config(one.changes).training.epochs
        return {"training": {"epochs": epochs_of(epochs, number, rounds)}}

    def _plan(
        self,
        name: str,
        students: Sequence[Candidate],
        base: DistillConfig,
        seeds: Sequence[int],
        changes: Mapping[str, Any] | None = None,
    ) -> Plan:
        """A study of these students, which compares held-out rows if the changes hold some out."""
        given = {key: value for key, value in self.settings.base.items() if key != "seed"}
        split = "holdout" if changes else "validation"
        study = StudyConfig.model_validate(
            {
                "title": f"{self.settings.name}: {name}",
                "base": merge(given, changes or {}),
                "tasks": {TASK: {}},
                "arms": {one.name: dict(one.changes) for one in students},
                "seeds": list(seeds),
                "split": split,
            }
        )
        return make_plan(study, self.out)

    def _train(self, plan: Plan, name: str, title: str, *, keep: bool = False) -> dict[str, Arm]:
        """Train what is not trained yet; a student that fails costs only itself.

        Raises:
            StudyError: If every student failed.
        """
        study = Study(self.out, f"{self.settings.name}-{name}")
        cells, epochs = len(plan.runs), plan.cells[0].content["training"]["epochs"]
        self.reporter.say(
            f"\n{title}: {len(plan.table[TASK])} students, {cells} trainings of "
            f"{epochs} epoch{'s' * (epochs != 1)}",
            "bold",
        )
        declare(plan, study)
        failed: dict[str, str] = {}
        scheduler = Scheduler(plan, study, self.jobs, self.console, keep)
        try:
            scheduler.run()
        except StudyError:
            if len(scheduler.failed) == len(plan.runs):
                raise
            failed = dict(scheduler.failed)
        finally:
            with suppress(LayermixError):  # must not hide the first error
                write(analyse(plan, study), study)
        for cell in plan.cells:
            if cell.name in failed:
                self._change(cell.arm, failed=failed[cell.name])
        arms = gather(plan, study).arms.get(TASK, {})
        whole = {
            name: arm
            for name, arm in arms.items()
            if all(cell.name not in failed for cell in plan.table[TASK][name].values())
        }
        if not whole:
            raise StudyError(
                f"{title}: every student failed in one of its trainings, the last one with: "
                f"{next(reversed(failed.values()), 'a damaged cell')}"
            )
        return whole

    def _keep_teacher(self, arm: Arm, base: DistillConfig, cost: Measured) -> None:
        """Keep the teacher's scores, and say so if it may know the held-out rows."""
        model, record = arm.first.teacher, arm.first
        score = model.score(record.metric, "validation")
        on_held_out = model.score(record.metric, "holdout")
        assert base.teacher.model is not None
        assert score is not None
        config = self._config({"training": {"selection": "holdout"}})
        honest = on_held_out is not None and holds_out_the_same_rows(config, base.teacher.models[0])
        reference = on_held_out if honest and on_held_out is not None else score
        self._keep(
            metric=record.metric,
            higher_is_better=record.prefers_more,
            teacher=TeacherRecord(score=score, reference=reference, held_out=honest, cost=cost),
        )
        if not honest:
            self._note(
                Note(
                    HOLDOUT_WARNING.code,
                    f"{HOLDOUT_WARNING.text}. Until then its score on the validation rows stands "
                    "for it, which is less exact: students are compared with it on other rows",
                )
            )

    def _standing(self, one: Candidate, arm: Arm, number: int) -> Standing:
        """Keep the scores of a student in a round."""
        scores = tuple(arm.scores().values())
        epochs = next(iter(arm.cells.values())).cell.content["training"]["epochs"]
        known = self.record.candidate(one.name)
        rounds = (
            *(old for old in known.rounds if old.round != number),
            RoundScores(round=number, epochs=epochs, scores=scores),
        )
        self._change(one.name, rounds=rounds)
        assert known.cost is not None  # else it would have failed
        is_time = self.settings.smallest == "ms"
        cost = known.cost.milliseconds if is_time else float(known.cost.bytes)
        return Standing(one.name, cost, self._points(float(np.mean(scores))))

    def _points(self, score: float) -> float:
        """A score in points of which more is better."""
        return 100 * score * (1 if self.record.higher_is_better else -1)

    # -- the choice --------------------------------------------------------------------------------

    def _choose(self, standings: Sequence[Standing]) -> None:
        """Keep the choice, and how probable it is that the last comparison shows the floor."""
        assert self.record.teacher is not None
        least = self._points(self.record.teacher.reference) - self.settings.floor
        chosen, within = choice(standings, least)
        scores = [self.record.candidate(one.name).rounds[-1].scores for one in standings]
        spread = [np.var(of_one, ddof=1) for of_one in scores if len(of_one) > 1]
        sd = float(np.sqrt(np.mean(spread))) if spread else 0.0
        rows = self.record.validation_rows
        error = float(np.sqrt(max(0.01, self._differs(chosen.name)) / rows))
        margin = self.settings.floor / 100
        below = (self._points(self.record.teacher.reference) - chosen.points) / 100
        told = [
            power(margin, -of_student, sd, error, self.settings.seeds, rows)
            for of_student in (0.0, below)
        ]
        self._keep(
            chosen=chosen.name,
            within=within,
            power=PowerRecord(if_equal=told[0], if_as_found=told[1], sd=sd, error=error),
        )
        self.reporter.say(f"\n{choice_text(self.record)}")

    def _differs(self, name: str) -> float:
        """The share of held-out rows on which student and teacher differ; .25 if unknown."""
        last = max(one.round for one in self.record.candidate(name).rounds)
        study = Study(self.out, f"{self.settings.name}-round-{last}")
        shares = []
        for cell in self._filed(study, name):
            epoch = study.result(cell).metrics.last
            share = None if epoch is None else epoch.score("agreement", "holdout")
            shares += [] if share is None else [1 - share]
        return float(np.mean(shares)) if shares else 0.25

    def _filed(self, study: Study, arm: str) -> list[str]:
        planned = PlanRecord.from_json(read_text(study.plan_file)).cells
        return [cell.name for cell in planned if cell.arm == arm]

    def _judge(self, texts: TextData) -> None:
        """Train the chosen student with fresh seeds on all rows, and judge it."""
        assert self.record.chosen is not None
        chosen = self.candidates[self.record.chosen]
        base = self._config(chosen.changes)
        first = base.seed + FRESH
        seeds = list(range(first, first + self.settings.seeds))
        students = [chosen]
        if self.settings.baselines:
            students.append(Candidate(CONTROL, merge(chosen.changes, LABELS_ALONE)))
        plan = self._plan("last", students, base, seeds)
        title = f"last comparison: {chosen.name}, fresh seeds, all training rows"
        arms = self._train(plan, "last", title, keep=True)
        if chosen.name not in arms:
            raise StudyError(
                f"{chosen.name}: a training failed "
                f"({self.record.candidate(chosen.name).failed}); the same command tries it again"
            )
        self._note_other_looks()
        study = Study(self.out, f"{self.settings.name}-last")
        cells = [cell.cell.name for cell in arms[chosen.name].cells.values()]
        self._keep(verdict=self._verdict(arms[chosen.name], study, cells, texts))
        with whole_folder(self.student, replace=True) as folder:
            _copy(study.filed(cells[0]) / "student", folder)
        if CONTROL in arms:
            mean = float(np.mean(list(arms[CONTROL].scores().values())))
            self._keep(baselines={**self.record.baselines, CONTROL: mean})

    def _note_other_looks(self) -> None:
        """Say so if other students of the folder were judged on these validation rows."""
        others: set[str] = set()
        for file in self.out.glob(f"*{SUFFIX}"):
            with suppress(ValueError):  # a damaged record is another search's matter
                record = SearchRecord.from_json(read_text(file))
                if record.verdict is not None and record.chosen not in (None, self.record.chosen):
                    others.add(str(record.chosen))
        if others:
            self._note(
                Note(
                    "other-looks",
                    f"searches of this folder have judged {len(others)} other "
                    f"student{'s' * (len(others) != 1)} on the same validation rows; the "
                    "confidence is that of one look",
                )
            )

    def _verdict(
        self, arm: Arm, study: Study, cells: Sequence[str], texts: TextData
    ) -> FloorVerdict:
        """Test the fresh seeds for non-inferiority on the validation rows."""
        found = combine([cell.predictions for cell in arm.cells.values()], "last")
        if found is None:
            raise StudyError(
                f"the students of {study.name} were scored on different rows, so they cannot be "
                "judged; remove its cells, and the same command trains them again"
            )
        metric = _judged_score(self.record.metric, texts)
        known, _better = found.known, WEIGHTED[metric].higher_is_better
        labels, teacher = found.labels[known], found.teacher[0][known]
        answers = found.predicted[:, known]
        groups, margin = found.groups_of_known, self.settings.floor / 100
        int8_cost = None
        if self.settings.int8:
            as_float = non_inferiority(answers, teacher, labels, metric, margin, groups)
            folders = [study.filed(cell) / "student" for cell in cells]
            answers = self._int8_answers(folders, found, texts)[:, known]
        test = non_inferiority(answers, teacher, labels, metric, margin, groups)
        if self.settings.int8:
            int8_cost = 100 * (as_float.difference - test.difference)
        scores = _scores(metric, answers, labels)
        return FloorVerdict(
            metric=metric,
            floor=self.settings.floor,
            teacher=_scores(metric, teacher[None], labels)[0],
            scores=scores,
            below=-100 * test.difference,
            limit=-100 * test.low,
            p=test.p,
            shown=test.shown,
            rows=int(known.sum()),
            int8=self.settings.int8,
            int8_cost=int8_cost,
        )

    def _int8_answers(
        self, folders: Sequence[Path], found: Predictions, texts: TextData
    ) -> NDArray[Any]:
        """Answers of int8 files of the students, in the order of the rows, (S, N)."""
        answers = []
        rows = texts.splits["validation"]
        places = {row: place for place, row in enumerate(rows["row_id"])}
        order = [places[row] for row in found.row_ids.tolist()]
        for folder in folders:
            file = folder / ONNX_FILES["int8"]
            if not file.is_file():
                file.parent.mkdir(exist_ok=True)
                with whole_folder(file.parent, replace=True) as work:
                    write_int8(load_classifier(str(folder)), work)
            predictor = open_predictor(str(folder), "int8", texts.problem)
            predictor = predictor.in_order(texts.label_names)
            tokens, _ = tokenize_split(rows, predictor.tokenizer, predictor.max_length)
            collate = Collator(predictor.tokenizer)
            logits = logits_of(
                predictor.run, tokens, collate, track=self.reporter.track, what="int8"
            )
            answers.append(texts.problem.answers(logits)[order])
        return np.stack(answers)

    def _add_baselines(self, texts: TextData, base: DistillConfig) -> None:
        """Score linear models on the validation rows, and on the held-out rows for the chart."""
        held_out = self._config({"training": {"selection": "holdout"}})
        verdict = self.record.verdict
        assert verdict is not None
        for name in (STATIC, TFIDF):
            try:
                values: Values = tfidf_values
                if name == STATIC:
                    values = static_embeddings(base.teacher.models[0], self.reporter.say)
                scores = baseline_of(texts, base, values)["validation"]
                others = baseline_of(texts, held_out, values)["holdout"]
            except (ConfigError, ModelError) as error:
                self._note(Note("no-baseline", f"no {name}: {error}"))
                continue
            self._keep(
                baselines={name: scores[verdict.metric], **self.record.baselines},
                baselines_held_out={
                    name: others[self.record.metric],
                    **self.record.baselines_held_out,
                },
            )


def _check_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed. --int8 needs the extra `onnx`: run pip install "
            "'.[onnx]' in your clone of layermix"
        ) from None


def _loaded(base: DistillConfig) -> tuple[TextData, Classifier]:
    """Data and teacher as the config names them."""
    models = base.teacher.models
    if len(models) != 1:
        raise ConfigError(
            f"found {len(models)} teachers, wanted one: give --teacher FOLDER (fine-tune one with "
            "`layermix teach`)"
        )
    problem = None if base.data.problem else problem_of_model(models[0])
    texts = load_texts(base.data, problem=problem)
    if not _labelled(texts):
        raise ConfigError(
            f"{texts.source}: no validation row has a label, so no student can be compared with "
            "its teacher; give --data with labelled validation rows"
        )
    return texts, load_classifier(models[0], texts.label_names, problem=texts.problem)


def _labelled(texts: TextData) -> int:
    """Number of validation rows with a label."""
    return int(texts.problem.labelled(labels_of(texts.splits["validation"]["label"])).sum())


def _student(config: DistillConfig, teacher: Classifier, texts: TextData) -> Classifier:
    """A student of the right size; narrowing takes time, and random weights cost the same."""
    if config.student.start == "teacher":
        check_narrowable(teacher.model, config.student.sizes)
        student = config.student.model_copy(update={"start": "random"})
        config = config.model_copy(update={"student": student})
    return make_student(config, teacher, texts)


def _reason(error: Exception) -> str:
    """The error of a student that could not be made; others than layermix's own are raised."""
    if not isinstance(error, LayermixError):
        raise error
    return str(error)


def _refused(cost: Measured, settings: SearchSettings) -> Refused | None:
    """Why a student is over a budget; None if it is not."""
    slow = settings.ms is not None and cost.milliseconds > settings.ms
    large = settings.mb is not None and cost.bytes / 1e6 > settings.mb
    if slow and large:
        return "too slow and too large"
    return "too slow" if slow else "too large" if large else None


def _judged_score(metric: str, texts: TextData) -> str:
    """The main score, or if it has no interval over rows the first one that has."""
    if metric in WEIGHTED:
        return metric
    return next(name for name in texts.problem.default_scores if name in WEIGHTED)


def _scores(metric: str, answers: NDArray[Any], labels: NDArray[Any]) -> tuple[float, ...]:
    """The score of each run, (S,)."""
    found = WEIGHTED[metric].function(answers, labels, np.ones((1, len(labels))))[0]
    return tuple(float(score) for score in found)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)
