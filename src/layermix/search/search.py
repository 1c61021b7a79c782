"""Searches for the smallest student within a floor: measures, trains by halves, and judges one.

All training is done as cells of studies in one folder, so a search that was stopped continues, and
searches with other floors or budgets share what they have in common.
"""

import filecmp
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from layermix.atomic import whole_folder, write_text
from layermix.config import DistillConfig, merge, spell_out
from layermix.console import Reporter, Terminal
from layermix.data.prepared import main_score
from layermix.data.splits import GROUP, labels_of, texts_of
from layermix.data.splits import fingerprint as fingerprint_of_rows
from layermix.data.texts import TextData, load_texts
from layermix.data.tokenization import choose_max_length
from layermix.errors import ConfigError, LayermixError, ModelError, Note, RunExistsError, StudyError
from layermix.evaluation.linear import Values
from layermix.evaluation.tfidf import tfidf_values
from layermix.hardware.cpu_kernels import prepare_process
from layermix.models.encoder import Classifier, blocks_of, fingerprint
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
from layermix.search.judge import (
    expected_power,
    floor_verdict,
    int8_answers,
    judged_score,
    write_answers,
)
from layermix.search.measure import measure, read_measured, way_to_run, write_measured
from layermix.search.schema import (
    ANSWERS,
    MEASURED,
    SUFFIX,
    CandidateRecord,
    InputsRecord,
    Look,
    Measured,
    Refused,
    RoundScores,
    SearchRecord,
    SearchSettings,
    TeacherRecord,
)
from layermix.search.space import (
    Candidate,
    ask_for_other_layers,
    candidates,
    default_axes,
)
from layermix.search.text import candidate_line, choice_text, plan_text
from layermix.studies.analysis import analyse
from layermix.studies.cells import Arm, FinishedCells, gather
from layermix.studies.control import CONTROL, LABELS_ALONE
from layermix.studies.declarations import declare
from layermix.studies.folder import Study
from layermix.studies.plan import Plan, make_plan
from layermix.studies.scheduler import Scheduler
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
        base = spell_out(DistillConfig, self.settings.base)
        self.settings = self.settings.model_copy(update={"base": base})
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
        prepare_process()
        base = self._config({})
        texts, teacher = _loaded(base)
        self._check_inputs(texts, teacher)
        if not dry and self._is_done():
            assert self.earlier is not None
            return self.earlier
        axes = self.settings.axes or default_axes(len(blocks_of(teacher.model)), base)
        self.candidates = {one.name: one for one in candidates(self.settings.base, axes)}
        rows = choose_rows(texts, self._config({"training": {"selection": "holdout"}})).splits
        self._keep(
            held_out_rows=_labelled(texts, rows["holdout"]),
            validation_rows=_labelled(texts, texts.splits["validation"]),
            validation_groups=_groups(texts),
            candidates=tuple(
                CandidateRecord(name=one.name, changes=dict(one.changes))
                for one in self.candidates.values()
            ),
        )
        self._note_one_group()
        self.reporter.say(plan_text(self.record, base.training.epochs, axes, main_score(texts)))
        if dry:
            return self.record
        self.out.mkdir(parents=True, exist_ok=True)
        self.writes = True
        cost = self._measure(texts, teacher, base)
        self._refuse()
        standings, arms = self._rounds(base, cost)
        self._choose(standings, arms, texts)
        self._judge(texts)
        if self.settings.baselines:
            self._add_baselines(texts, base)
        self._keep(status="ok")
        return self.record

    # -- what a search is of -----------------------------------------------------------------------

    def _config(self, changes: Mapping[str, Any]) -> DistillConfig:
        return DistillConfig.model_validate(merge(self.settings.base, changes))

    def _check_earlier(self) -> None:
        """Read the finished record of this search, if there is one.

        Raises:
            RunExistsError: If it is of other students or data, or of more seeds.
        """
        if not self.file.is_file():
            return
        try:
            record = SearchRecord.from_json(read_text(self.file))
        except ValueError as error:
            raise ConfigError(
                f"{self.file} is damaged ({reason_of(error)}); remove it, and the same command "
                "makes it again from the finished trainings"
            ) from None
        if record.looks:  # else nothing was judged, and trainings are checked one by one
            self._keep(inputs=record.inputs, looks=record.looks)
        text = SearchRecord(format=FORMAT, settings=self.settings).to_json()
        earlier, now = record.settings, SearchRecord.from_json(text).settings
        if earlier.axes != now.axes or _content(earlier) != _content(now):
            raise RunExistsError(
                f"{self.file}: is the record of a search with other axes or settings; choose "
                "another --out"
            )
        if record.status != "ok":
            return
        if earlier.seeds > now.seeds:
            raise RunExistsError(
                f"{self.file}: is the record of a search with {earlier.seeds} fresh seeds, and "
                f"{now.seeds} are wanted; give --seeds {earlier.seeds} or more, or another --out"
            )
        self.earlier = record

    def _check_inputs(self, texts: TextData, teacher: Classifier) -> None:
        """Keep which teacher and data this search has.

        Raises:
            RunExistsError: If its record is of others.
        """
        now = InputsRecord(
            teacher=fingerprint(teacher.model),
            data=texts.fingerprint,
            validation=fingerprint_of_rows({"validation": texts.splits["validation"]}),
        )
        if self.record.inputs not in (None, now):
            raise RunExistsError(
                f"{self.file}: is the record of a search with {self._changed(now)}, although the "
                "names are the same; choose another --out, or bring back what was there"
            )
        self._keep(inputs=now)

    def _changed(self, now: InputsRecord) -> str:
        assert self.record.inputs is not None
        return "another teacher" if now.teacher != self.record.inputs.teacher else "other data"

    def _check_cells(self, study: Study, cells: FinishedCells) -> None:
        """Refuse trainings with what was in the place of teacher or data before.

        Raises:
            StudyError: Naming their folders.
        """
        inputs = self.record.inputs
        assert inputs is not None
        others = [
            str(study.filed(one.cell.name))
            for one in cells
            if one.result.data.fingerprint != inputs.data
            or one.result.teacher.fingerprint != inputs.teacher
        ]
        if others:
            raise StudyError(
                f"{len(others)} trainings of {self.out} had another teacher or other data, "
                "although the names are the same, so scores cannot be compared; choose another "
                f"--out, bring back what was there, or remove {', '.join(others)}, and the same "
                "command trains them again"
            )

    def _is_done(self) -> bool:
        """Whether the finished record is what is asked for, and no student of it failed."""
        files = self.student / "model.safetensors", self.out / MEASURED
        if self.earlier is None or not all(file.is_file() for file in files):
            return False
        was, now = self.earlier.settings, self.settings
        return (
            was.seeds == now.seeds
            and (was.baselines or not now.baselines)
            and not any(one.failed for one in self.earlier.candidates)
        )

    def _keep(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)
        is_whole = self.record.status == "ok"
        if self.writes and (is_whole or self.earlier is None):  # a finished record stays till then
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
        way = way_to_run(int8=self.settings.int8)
        plan = self._plan("measured", list(self.candidates.values()), [base.seed])
        keys = {cell.arm: f"{cell.name}-{way}" for cell in plan.cells}
        self._refuse_equal(plan)
        assert self.record.inputs is not None
        keys["teacher"] = f"{self.record.inputs.teacher[:12]}-{way}"
        missing = {name: key for name, key in keys.items() if key not in known}
        length = base.data.max_length or choose_max_length(
            texts, teacher.tokenizer, teacher.max_length
        )

        def on_each(name: str, found: Measured | Exception) -> None:
            if isinstance(found, Measured):
                if keys[name] in known:  # the teacher, with which others are measured in turns
                    return
                known.update(read_measured(file))  # of other searches in this folder
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

    def _refuse_equal(self, plan: Plan) -> None:
        """Refuse two names of one student, which would take two places in the rounds.

        Raises:
            ConfigError: Naming them.
        """
        by_cell: dict[str, list[str]] = {}
        for arm, cells in plan.table[TASK].items():
            by_cell.setdefault(next(iter(cells.values())).name, []).append(arm)
        equal = [" and ".join(arms) for arms in by_cell.values() if len(arms) > 1]
        if equal:
            raise ConfigError(
                f"--axis: the same student under several names: {'; '.join(equal)}; give each "
                "value once, and none that is as the base has it"
            )

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

    def _rounds(self, base: DistillConfig, cost: Measured) -> tuple[list[Standing], dict[str, Arm]]:
        """Train the students in rounds; returns those of the last round, and their cells."""
        left = self._left()
        sizes = round_sizes(len(left))
        standings: list[Standing] = []
        arms: dict[str, Arm] = {}
        for number, size in enumerate(sizes):
            if number:
                # Scores without a limit, such as mae, have no such number.
                share = self.record.metric != "mae"
                uncertain = noise(self.record.held_out_rows) if share else 0.0
                assert self.record.teacher is not None
                reference = self._points(self.record.teacher.reference)
                kept = going_on(standings, size, self.settings.floor, uncertain, reference)
                left = [self.candidates[one.name] for one in kept]
            is_last = number == len(sizes) - 1
            seeds = list(range(base.seed, base.seed + (LAST_SEEDS if is_last else 1)))
            changed = [
                replace(one, changes=merge(one.changes, self._of_round(one, number, len(sizes))))
                for one in left
            ]
            plan = self._plan(
                f"round-{number + 1}", changed, seeds, {"training": {"selection": "holdout"}}
            )
            arms = self._train(plan, f"round-{number + 1}", f"round {number + 1} of {len(sizes)}")
            arms = self._with_whole_texts(arms)
            if self.record.teacher is None:
                self._keep_teacher(next(iter(arms.values())), base, cost)
            standings = [
                self._standing(one, arms[one.name], number + 1)
                for one in changed
                if one.name in arms
            ]
        return standings, arms

    def _of_round(self, one: Candidate, number: int, rounds: int) -> dict[str, Any]:
        epochs = self._config(one.changes).training.epochs
        return {"training": {"epochs": epochs_of(epochs, number, rounds)}}

    def _plan(
        self,
        name: str,
        students: Sequence[Candidate],
        seeds: Sequence[int],
        changes: Mapping[str, Any] | None = None,
    ) -> Plan:
        """A study of these students, which compares held-out rows if the changes hold some out."""
        given = {key: value for key, value in self.settings.base.items() if key != "seed"}
        if ask_for_other_layers(students):
            given = merge({"cache": {"layers": "all"}}, given)
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
        epochs = sorted({cell.content["training"]["epochs"] for cell in plan.cells})
        counted = " to ".join(map(str, dict.fromkeys((epochs[0], epochs[-1]))))
        self.reporter.say(
            f"\n{title}: {len(plan.table[TASK])} students, {len(plan.runs)} trainings of "
            f"{counted} epoch{'s' * (epochs[-1] != 1)}",
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
        found = gather(plan, study)
        if found.notes:  # damaged cells, each with what to do
            raise StudyError("\n".join(str(note) for note in found.notes))
        self._check_cells(study, found)
        whole = {
            name: arm
            for name, arm in found.arms.get(TASK, {}).items()
            if arm.cells.keys() == plan.table[TASK][name].keys()
        }
        if not whole:
            raise StudyError(
                f"{title}: every student failed in one of its trainings, the last one with: "
                f"{next(reversed(failed.values()))}"
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

    def _with_whole_texts(self, arms: Mapping[str, Arm]) -> dict[str, Arm]:
        """The students that read as much of a text as the others; the teacher reads no more."""
        lengths = {name: arm.first.data.max_length or 0 for name, arm in arms.items()}
        longest = max(lengths.values())
        for name, length in lengths.items():
            if length < longest:
                self._change(
                    name,
                    failed=f"texts are cut to {length} tokens with it, for its teacher, too, and "
                    f"to {longest} with others, so it cannot be compared with them",
                )
        return {name: arm for name, arm in arms.items() if lengths[name] == longest}

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

    def _choose(
        self, standings: Sequence[Standing], arms: Mapping[str, Arm], texts: TextData
    ) -> None:
        """Keep the choice, and how probable it is that the last comparison shows the floor."""
        assert self.record.teacher is not None
        reference = self._points(self.record.teacher.reference)
        chosen, within = choice(standings, reference - self.settings.floor)
        scores = [self.record.candidate(one.name).rounds[-1].scores for one in standings]
        spread = [np.var(of_one, ddof=1) for of_one in scores if len(of_one) > 1]
        told = expected_power(
            arms[chosen.name],
            judged_score(self.record.metric, texts),
            self.settings.floor,
            reference - chosen.points,
            float(np.sqrt(np.mean(spread))),
            self.settings.seeds,
        )
        self._keep(chosen=chosen.name, within=within, power=told)
        self.reporter.say(f"\n{choice_text(self.record)}")

    def _judge(self, texts: TextData) -> None:
        """Train the chosen student with fresh seeds on all rows, and judge it."""
        assert self.record.chosen is not None
        chosen = self.candidates[self.record.chosen]
        base = self._config(chosen.changes)
        first = base.seed + FRESH
        seeds = list(range(first, first + self.settings.seeds))
        students = [chosen]
        if self.settings.baselines:
            students.append(Candidate(CONTROL, _without_teacher(chosen, base)))
        plan = self._plan("last", students, seeds)
        title = f"last comparison: {chosen.name}, fresh seeds, all training rows"
        arms = self._train(plan, "last", title, keep=True)
        if chosen.name not in arms:
            raise StudyError(
                f"{chosen.name}: a training failed "
                f"({self.record.candidate(chosen.name).failed}); the same command tries it again"
            )
        study, arm = Study(self.out, f"{self.settings.name}-last"), arms[chosen.name]
        folders = [study.filed(cell.cell.name) / "student" for cell in arm.cells.values()]
        _check_students(folders)
        look = Look(
            student=chosen.name,
            cells=tuple(cell.cell.name for cell in arm.cells.values()),
            int8=self.settings.int8,
        )
        self._note_looks(look)
        metric = judged_score(self.record.metric, texts)
        answers = None
        if self.settings.int8:
            answers = int8_answers(folders, arm, texts, self.reporter)
            write_answers(self.out / f"{self.settings.name}{ANSWERS}", arm, answers)
        verdict = floor_verdict(arm, metric, self.settings.floor, answers)
        looks = (*(one for one in self.record.looks if one != look), look)
        self._keep(verdict=verdict, looks=looks)
        self._keep_looks()
        _keep_student(folders[0], self.student)
        if CONTROL in arms:
            scores = arms[CONTROL].scores(metric=metric).values()
            self._keep(baselines={**self.record.baselines, CONTROL: float(np.mean(list(scores)))})
        elif self.settings.baselines:
            self._note(Note("no-baseline", f"no {CONTROL}: its training failed"))

    def _keep_looks(self) -> None:
        """Add the looks to a finished record that stays until this search is whole."""
        if self.earlier is not None:
            self.earlier = self.earlier.model_copy(update={"looks": self.record.looks})
            write_text(self.file, self.earlier.to_json())

    def _note_looks(self, look: Look) -> None:
        """Say so if other students were judged on these validation rows before."""
        assert self.record.inputs is not None
        looks = dict.fromkeys(self.record.looks)
        for file in sorted(self.out.glob(f"*{SUFFIX}")):
            with suppress(ValueError):  # a damaged record is another search's matter
                record = SearchRecord.from_json(read_text(file))
                if record.inputs and record.inputs.validation == self.record.inputs.validation:
                    looks |= dict.fromkeys(record.looks)
        looks.pop(look, None)
        if looks:
            self._note(
                Note(
                    "other-looks",
                    "searches of this folder were judged on the same validation rows before "
                    f"({'; '.join(sorted(map(str, looks)))}), and each is one more look; the "
                    "confidence is that of a single one",
                )
            )

    def _note_one_group(self) -> None:
        """Say so if all validation rows belong together."""
        if self.record.validation_groups == 1:
            self._note(
                Note(
                    "one-group",
                    "all validation rows are of one group, so they are judged as if they were "
                    "independent; the verdict holds for this group alone",
                )
            )

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
    if not _labelled(texts, texts.splits["validation"]):
        raise ConfigError(
            f"{texts.source}: no validation row has a label, so no student can be compared with "
            "its teacher; give --data with labelled validation rows"
        )
    return texts, load_classifier(models[0], texts.label_names, problem=texts.problem)


def _labelled(texts: TextData, rows: Any) -> int:
    """Number of rows with a label."""
    return int(texts.problem.labelled(labels_of(rows["label"])).sum())


def _groups(texts: TextData) -> int | None:
    """Number of groups of the labelled validation rows; None if they have none."""
    rows = texts.splits["validation"]
    if GROUP not in rows.column_names:
        return None
    known = texts.problem.labelled(labels_of(rows["label"]))
    return len({group for group, is_known in zip(rows[GROUP][:], known, strict=True) if is_known})


def _check_students(folders: Sequence[Path]) -> None:
    """Raise a StudyError naming trainings whose students were removed."""
    lost = [str(folder.parent) for folder in folders if not folder.is_dir()]
    if lost:
        raise StudyError(
            f"the students of {len(lost)} finished trainings are missing; remove "
            f"{', '.join(lost)}, and the same command trains them again"
        )


def _content(settings: SearchSettings) -> dict[str, Any]:
    """What the base says, however it was written, without places that change no result."""
    content = DistillConfig.model_validate(settings.base).model_dump(mode="json")
    del content["cache"]
    for name in ("report_to", "loader_workers"):
        del content["training"][name]
    return content


def _without_teacher(chosen: Candidate, config: DistillConfig) -> dict[str, Any]:
    """What a student changes in the base that learns from labels alone."""
    changes = merge(chosen.changes, LABELS_ALONE)
    if not config.loss.supervised_weight:
        changes = merge(changes, {"loss": {"supervised_weight": 1}})
    return changes


def _student(config: DistillConfig, teacher: Classifier, texts: TextData) -> Classifier:
    """A student of the right size; narrowing takes time, and random weights cost the same."""
    if config.student.start == "teacher":
        check_narrowable(teacher.model, config.student.sizes)
        student = config.student.model_copy(update={"start": "random"})
        config = config.model_copy(update={"student": student})
    return make_student(config, teacher, texts)


def _reason(error: Exception) -> str:
    """Why a student could not be made or run."""
    if isinstance(error, LayermixError):
        return str(error)
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _refused(cost: Measured, settings: SearchSettings) -> Refused | None:
    """Why a student is over a budget; None if it is not."""
    slow = settings.ms is not None and cost.milliseconds > settings.ms
    large = settings.mb is not None and cost.bytes / 1e6 > settings.mb
    if slow and large:
        return "too slow and too large"
    return "too slow" if slow else "too large" if large else None


def _keep_student(source: Path, target: Path) -> None:
    """Copy a student, unless it is there already: its folder may have got an export."""
    weights = "model.safetensors"
    same = (target / weights).is_file() and filecmp.cmp(
        source / weights, target / weights, shallow=False
    )
    missing = [file for file in source.rglob("*") if file.is_file()]
    missing = [file for file in missing if not (target / file.relative_to(source)).is_file()]
    if not same or missing:
        with whole_folder(target, replace=True) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
