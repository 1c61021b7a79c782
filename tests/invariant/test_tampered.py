"""A resumed run ends bit-equal or is refused, whatever happened to its files, data and models."""

import copy
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from layermix.config import DistillConfig
from layermix.core.checkpoints import CHECKSUMS, STATE, WEIGHTS
from layermix.data.texts import TextData, from_splits
from layermix.errors import ResumeError
from layermix.models.encoder import Classifier
from layermix.models.students import copy_blocks
from layermix.runs import pipeline
from layermix.runs.layout import ALPHA, CHECKPOINTS, START, RunFolder
from layermix.runs.schema import read_result
from layermix.runs.training import Result

from ..tiny_configs import whole

SAME = ("history.jsonl", "alpha.jsonl", "predictions.parquet", "student/model.safetensors")
NEWEST, OLDER = "checkpoints/checkpoint-14", "checkpoints/checkpoint-12"


class Stop(TrainerCallback):
    """Stops at a step, as Ctrl-C does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 15:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Begun:
    """A run that was stopped after two of four epochs, and the same run undisturbed.

    Attributes:
        partial: Its working folder, with two checkpoints; tests copy it.
        straight: The finished folder of the undisturbed run.
        teacher: Of both.
        data: Of both.
        config: Of both.
    """

    partial: Path
    straight: Path
    teacher: Classifier
    data: TextData
    config: DistillConfig

    def resume(self, folder: Path, **changed: Any) -> Result:
        """Resume a copy of the stopped run: `folder`, without `.partial`."""
        given = {"teacher": self.teacher, "data": self.data, "student": None} | changed
        student = given["student"] or copy_blocks(self.teacher, 2)
        return pipeline.distill_from(
            given["teacher"], student, given["data"], self.config, out=folder, resume=True
        )

    def copy(self, folder: Path) -> Path:
        """A copy of the stopped run; returns its working folder."""
        partial: Path = shutil.copytree(self.partial, folder.with_name(f"{folder.name}.partial"))
        return partial

    def is_equal(self, folder: Path) -> bool:
        """Whether a finished run has the bytes of the undisturbed one, and nothing left over."""
        names = {file.name for file in folder.iterdir()}
        return names == {file.name for file in self.straight.iterdir()} and all(
            (folder / name).read_bytes() == (self.straight / name).read_bytes() for name in SAME
        )


@pytest.fixture(scope="module")
def begun(
    bert: Callable[..., Any],
    texts: Callable[..., TextData],
    tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Begun:
    place = tmp_path_factory.mktemp("tampered")
    teacher = Classifier(bert(4, 16, seed=2), tokenizer, "a tiny teacher")
    data = texts(32, 8)
    config = whole(
        teacher={"allow_weak": True},
        training={
            "epochs": 4,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "log_every": 2,
            "save_every": 2,
            "selection": "holdout",
            "holdout_fraction": 0.25,
        },
    )
    student = copy_blocks(teacher, 2)
    pipeline.distill_from(teacher, student, data, config, out=place / "straight")
    with pytest.raises(KeyboardInterrupt):
        pipeline.distill_from(
            teacher, copy_blocks(teacher, 2), data, config, out=place / "run", callbacks=[Stop()]
        )
    partial = place / "run.partial"
    assert {file.name for file in (partial / "checkpoints").iterdir()} >= {
        Path(NEWEST).name,
        Path(OLDER).name,
    }
    return Begun(partial, place / "straight", teacher, data, config)


# -- files -----------------------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


DAMAGE: tuple[Callable[[Path], None], ...] = (Path.unlink, cut, zero, flip)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("optimizer.pt", Path.unlink),
        (WEIGHTS, zero),
        ("scheduler.pt", cut),
        ("rng_state.pth", flip),
        (STATE, Path.unlink),
    ],
)
def test_a_damaged_newest_checkpoint_is_not_used_and_the_run_ends_as_undisturbed(
    begun: Begun, tmp_path: Path, name: str, how: Callable[[Path], None]
) -> None:
    how(begun.copy(tmp_path / "run") / NEWEST / name)
    result = begun.resume(tmp_path / "run")
    codes = [note.code for note in result.record.warnings if note.code != "one-class-predicted"]
    assert codes == ["checkpoint-damaged"]
    assert begun.is_equal(tmp_path / "run")


def test_without_a_whole_checkpoint_the_run_is_refused_and_left_as_it_is(
    begun: Begun, tmp_path: Path
) -> None:
    partial = begun.copy(tmp_path / "run")
    flip(partial / ALPHA)
    with pytest.raises(ResumeError, match=r"no checkpoint is whole:\n.*alpha\.jsonl is not as it"):
        begun.resume(tmp_path / "run")
    assert (partial / NEWEST / WEIGHTS).is_file()
    shutil.copy(begun.partial / ALPHA, partial)
    begun.resume(tmp_path / "run")
    assert begun.is_equal(tmp_path / "run")


@pytest.mark.slow
def test_of_fifty_tampered_runs_none_is_believed(begun: Begun, tmp_path: Path) -> None:
    draw = random.Random(18)
    outcomes = {"equal": 0, "refused": 0}
    for number in range(50):
        run = tmp_path / f"run{number}"
        partial = begun.copy(run)
        files = sorted(
            file
            for file in partial.rglob("*")
            if (file.is_file() and file.parent != partial) or file.name in (ALPHA, START)
        )
        chosen = draw.sample(files, draw.choice((1, 1, 2, 4)))
        story = []
        for file in chosen:
            how = draw.choice(DAMAGE)
            how(file)
            story.append(f"{how.__name__} {file.relative_to(partial)}")
        try:
            begun.resume(run)
        except ResumeError:
            outcomes["refused"] += 1
        else:
            assert begun.is_equal(run), story
            outcomes["equal"] += 1
    print(outcomes)  # noqa: T201  # counts
    assert min(outcomes.values()) >= 5


# -- data and models -------------------------------------------------------------------------------


def other_rows(data: TextData) -> TextData:
    """One label of the validation rows is another one."""
    rows = {name: split.to_list() for name, split in data.splits.items()}
    rows["validation"][0]["label"] = 1 - rows["validation"][0]["label"]
    kept = {name: [_row(row) for row in split] for name, split in rows.items()}
    return from_splits(kept)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {"text": row["text"], "label": row["label"]}


def other_model(model: Classifier, **entries: Any) -> Classifier:
    """A copy with other entries in its config; without any, with another weight."""
    made = copy.deepcopy(model)
    for name, value in entries.items():
        setattr(made.model.config, name, value)
    if not entries:
        with torch.no_grad():
            next(iter(made.model.parameters()))[0, 0] += 0.5
    return made


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("data", "the data (texts, labels or their order)"),
        ("teacher", "the teacher (its weights, config or padding side; or the soft labels)"),
        ("act", "the teacher (its weights, config or padding side; or the soft labels)"),
        ("student", "the student (its config or padding side)"),
        ("classes", "the names of the classes"),
    ],
)
def test_a_run_is_not_resumed_with_other_data_or_models(
    begun: Begun, tmp_path: Path, what: str, told: str
) -> None:
    begun.copy(tmp_path / "run")
    changed: dict[str, Any] = {
        "data": lambda: {"data": other_rows(begun.data)},
        "teacher": lambda: {"teacher": other_model(begun.teacher)},
        "act": lambda: {"teacher": other_model(begun.teacher, layer_norm_eps=1e-3)},
        "student": lambda: {
            "student": other_model(copy_blocks(begun.teacher, 2), hidden_dropout_prob=0.3)
        },
        "classes": lambda: {"data": replace(begun.data, label_names=("no", "yes"))},
    }[what]()
    with pytest.raises(ResumeError) as caught:
        begun.resume(tmp_path / "run", **changed)
    assert f"since it started: {told}. Restore the original" in str(caught.value)
    begun.resume(tmp_path / "run")
    assert begun.is_equal(tmp_path / "run")


def test_a_damaged_record_of_the_start_is_refused(begun: Begun, tmp_path: Path) -> None:
    cut(begun.copy(tmp_path / "run") / START)
    with pytest.raises(ResumeError, match=r"start\.json is damaged, so layermix cannot check"):
        begun.resume(tmp_path / "run")


def test_a_run_of_an_older_version_is_resumed_with_a_word(begun: Begun, tmp_path: Path) -> None:
    partial = begun.copy(tmp_path / "run")
    (partial / START).unlink()
    for checkpoint in (NEWEST, OLDER):
        (partial / checkpoint / CHECKSUMS).unlink()
    (partial / NEWEST / "rng_state.pth").unlink()
    result = begun.resume(tmp_path / "run")
    codes = [note.code for note in result.record.warnings if note.code != "one-class-predicted"]
    assert codes == ["start-unknown", "checkpoint-damaged", "checkpoint-without-checksums"]
    assert begun.is_equal(tmp_path / "run")


# -- the last moments ------------------------------------------------------------------------------


@pytest.mark.parametrize("removed", [False, True])
def test_a_run_that_was_killed_as_it_finished_is_finished_and_leaves_no_copies(
    begun: Begun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    """Killed before its checkpoints are removed, or after, before it has its name."""
    begun.copy(tmp_path / "first")
    killed = tmp_path / "run.partial"  # the folder as it is at that moment

    def kill(run: RunFolder, discard: Callable[[RunFolder, Path], None], folder: Path) -> None:
        if removed:
            discard(run, folder)
        if folder.name == CHECKPOINTS:
            shutil.copytree(run.work, killed)
        if not removed:
            discard(run, folder)

    with monkeypatch.context() as patch:
        discard = RunFolder._discard
        patch.setattr(RunFolder, "_discard", lambda run, folder: kill(run, discard, folder))
        begun.resume(tmp_path / "first")
    assert (killed / CHECKPOINTS).exists() != removed
    student = copy_blocks(begun.teacher, 2)
    again = begun.resume(tmp_path / "run", student=student)
    assert begun.is_equal(tmp_path / "run")
    assert not killed.exists()
    known = read_result(tmp_path / "run")
    assert known.status == again.record.status == "ok"
    assert again.metrics["selected"]["epoch"] == known.metrics.saved.epoch
    assert again.student is not None
    saved = load_file(tmp_path / "run" / "student" / WEIGHTS)
    assert all(student.model.state_dict()[name].equal(one) for name, one in saved.items())
