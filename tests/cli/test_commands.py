"""The walk from a base model to predictions, and what every command promises."""

import csv
import io
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layermix.cli import main
from layermix.config import DistillConfig, TeachConfig, field_names, load
from layermix.core.losses import ATTENTION, HIDDEN, LOGIT, SUPERVISED
from layermix.core.mixing import MIXES
from layermix.data.files import BLOCK
from layermix.data.tasks import TASKS
from layermix.runs import pipeline

from .conftest import write_csv

COMMANDS = ("audit", "augment", "demo", "distill", "evaluate", "list", "predict", "schema", "teach")
Start = Callable[..., Any]


def result(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return loaded


# -- help --


@pytest.mark.wheel
def test_help_lists_the_commands(start: Start) -> None:
    process = start("--help", fresh=True, stdout=subprocess.PIPE)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert all(f"\n  {name} ".encode() in out for name in COMMANDS)


HELP = """
import sys
from layermix.cli import main
calls = [["--help"], ["distill", "--out=x", "--seed=-1"], ["distill", "--out=."]]
calls += [[name, "--help"] for name in main.commands]
calls += [["cache", name, "--help"] for name in main.commands["cache"].commands]
for words in calls:
    try: main(words)
    except SystemExit: pass
    heavy = {"torch", "transformers", "datasets", "numpy", "pyarrow", "scipy"} & set(sys.modules)
    if heavy:
        sys.exit(f"{words} loads {heavy}")
"""


def test_help_of_every_command_and_wrong_configs_load_no_torch(place: Path) -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(cli: Any, name: str) -> None:
    done = cli(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: layermix {name} [OPTIONS]")
    assert "Options:\n" in done.out


@pytest.mark.parametrize(("name", "kind"), [("distill", DistillConfig), ("teach", TeachConfig)])
def test_help_lists_every_field_with_its_default(cli: Any, name: str, kind: Any) -> None:
    shown = " ".join(cli(name, "--help").out.split())
    for dotted, field in field_names(kind).items():
        assert f"--{dotted}" in shown
        assert " ".join(field.description.split()) in shown
    assert f"Passes over the training rows. [default: {kind().training.epochs}]" in shown
    assert f"student and of P. [default: {kind().training.learning_rate:g}]" in shown
    assert shown.index("--out") < shown.index("--seed") < shown.index("--data")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["distil"], "No such command 'distil'. (Did you mean one of: 'distill', 'list'?)"),
        (["distill", "--mix.stratgy=x"], "'--mix.strategy'"),
        (["predict"], "Missing argument 'MODEL'"),
        (["distill", "--seed=1"], "Missing option '--out'"),
        (["evaluate", "m", "--batch_size=0"], "0 is not in the range x>=1"),
    ],
)
def test_wrong_words_get_a_suggestion(cli: Any, words: list[str], told: str) -> None:
    done = cli(*words)
    assert (done.code, done.out) == (2, "")
    assert told in done.err


# -- the walk --


def test_teach_makes_a_run_folder(teacher: Path) -> None:
    assert sorted(file.name for file in teacher.iterdir()) == [
        "config.yaml",
        "environment.json",
        "history.jsonl",
        "predictions.parquet",
        "result.json",
        "teacher",
        "texts.parquet",
    ]
    found = result(teacher)
    assert found["status"] == "ok"
    assert found["teacher"]["classes"] == ["bad", "good"]
    assert found["metrics"]["last"]["validation"]["accuracy"] > 0.9


def test_distill_says_what_it_made_and_what_comes_next(distilled: Any, student: Path) -> None:
    assert "teacher" in distilled.out
    assert "last (epoch 15)" in distilled.out
    assert "The student is in runs/student/student: a plain transformers model." in distilled.out
    assert "layermix predict runs/student FILE" in distilled.out
    assert "epoch 15 of 15: validation accuracy" in distilled.err
    found = result(student)
    assert found["student"]["kind"] == "blocks"
    assert found["metrics"]["last"]["validation"]["accuracy"] > 0.9
    assert not student.with_name("student.partial").exists()


def test_the_next_commands_can_be_pasted_into_a_shell(cli: Any, base: Path, data: Path) -> None:
    run = "runs/my teacher; rm $HOME"
    done = cli("teach", "--model", base, "--data", data, "--out", run, "--training.epochs=1")
    assert done.code == 0, done.err
    (hint,) = [line for line in done.out.splitlines() if line.startswith("Next: ")]
    assert shlex.split(hint)[1:5] == ["layermix", "distill", "--teacher", run]


def test_a_saved_model_knows_its_text_columns(teacher: Path, student: Path) -> None:
    for folder in (teacher / "teacher", student / "student"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert config["layermix"]["text_columns"] == ["review"]


def test_python_makes_the_same_run_as_the_command_line(
    student: Path, teacher: Path, data: Path, place: Path, tmp_path: Path
) -> None:
    file = tmp_path / "same.yaml"
    file.write_text(
        f"teacher: {teacher}\ndata: {data}\ntraining:\n"
        "  {epochs: 15, batch_size: 8, learning_rate: 5e-3, log_every: 3}\n",
        encoding="utf-8",
    )
    same = pipeline.distill(load(DistillConfig, file), place / "runs" / "python")
    assert same.folder is not None
    for name in ("config.yaml", "history.jsonl"):
        assert (same.folder / name).read_bytes() == (student / name).read_bytes()
    assert json.loads(json.dumps(same.metrics)) == result(student)["metrics"]
    one, other = (
        (folder / "student" / "model.safetensors").read_bytes() for folder in (student, same.folder)
    )
    assert one == other


def test_augment_writes_new_rows_and_says_what_comes_next(
    cli: Any, teacher: Path, data: Path, place: Path
) -> None:
    done = cli(
        *("augment", "--teacher", teacher, "--data", data, "--out", "new.jsonl"),
        *("--data.augment", "12", "--data.augment_ways", "neighbours,crops"),
    )
    assert done.code == 0
    assert "12 new rows without labels" in done.err
    assert "6 by neighbours, 6 by crops" in done.err
    assert "--data.unlabeled new.jsonl" in done.out
    rows = [json.loads(line) for line in (place / "new.jsonl").read_text("utf-8").splitlines()]
    assert [set(row) for row in rows] == [{"review"}] * 12


def test_a_student_of_predictions_needs_no_teacher(
    cli: Any, teacher: Path, base: Path, data: Path, place: Path, recipe: tuple[str, ...]
) -> None:
    for split in ("train", "validation"):
        done = cli("predict", teacher, data / f"{split}.csv", "--out", f"soft-{split}.csv")
        assert done.code == 0, done.err
    files = ("--data.train", "soft-train.csv", "--data.validation", "soft-validation.csv")
    done = cli("distill", "--student", base, *files, "--out=runs/soft", *recipe)
    assert done.code == 0, done.err
    assert "label 'label', soft labels 'p_bad', 'p_good'" in done.err
    assert "preset: soft" in (place / "runs/soft/config.yaml").read_text()
    record = json.loads((place / "runs/soft/result.json").read_text())
    assert record["signals"] == "soft labels"
    assert record["metrics"]["last"]["validation"]["agreement"] > 0.8
    done = cli("report", "runs/soft")
    assert done.code == 0, done.err
    # The data may have no labels at all, and a model of them can be scored on them.
    with (place / "soft-train.csv").open(encoding="utf-8", newline="") as file:
        rows = [[row["text"], row["p_bad"], row["p_good"]] for row in csv.DictReader(file)]
    write_csv(place / "only.csv", [("text", "p_bad", "p_good"), *map(tuple, rows)])
    words = ("--student", base, "--data", "only.csv", "--student.layers=2", "--training.epochs=1")
    done = cli("distill", *words, "--out=runs/only")
    assert done.code == 0, done.err
    done = cli("evaluate", "runs/only", "--data", "only.csv")
    assert done.code == 0, done.err
    assert "their most probable class counts as the label" in done.err
    card = (place / "runs/only/student/README.md").read_text()
    assert "not how often it is right" in card
    assert "type: accuracy" not in card


def test_calibrated_probabilities(
    cli: Any, base: Path, teacher: Path, data: Path, place: Path
) -> None:
    """A temperature that was fitted on held-out rows divides the logits; answers stay."""
    words = ("--model", base, "--data", data, "--training.selection", "holdout")
    fitting = ("--training.holdout_fraction=0.3", "--training.epochs=1", "--quiet")
    done = cli("teach", *words, *fitting, "--out=runs/held")
    assert done.code == 0, done.err
    record = json.loads((place / "runs/held/result.json").read_text())
    temperature = record["calibration"]["temperature"]
    plain, calibrated = (
        [json.loads(line) for line in cli("predict", *asked).out.splitlines()]
        for asked in (
            ("runs/held", data / "validation.csv"),
            ("runs/held", data / "validation.csv", "--calibrated"),
        )
    )
    for before, after in zip(plain, calibrated, strict=True):
        assert before["label"] == after["label"]
        odds = [math.log(row["p_good"] / row["p_bad"]) for row in (before, after)]
        assert odds[1] == pytest.approx(odds[0] / temperature, rel=0.01, abs=0.01)
    assert abs(temperature - 1) > 0.05
    done = cli("predict", teacher, data / "validation.csv", "--calibrated")
    assert (done.code, done.out) == (2, "")
    assert "nothing was fitted for it, which takes held-out rows" in done.err


def test_rows_of_a_group_are_scored_on_the_side_they_were(
    cli: Any, base: Path, place: Path
) -> None:
    """`evaluate` on the file of the training takes the rows that training split off by group."""
    rows = [("text", "author", "label")]
    for number in range(90):
        label = ("good", "bad")[number % 2]
        sign = {"good": "fine", "bad": "poor"}[label]
        rows.append(
            (f"{sign} word{number % 30} word{number // 30}", f"writer {number // 3}", label)
        )
    file = write_csv(place / "grouped.csv", rows)
    words = ("--data", file, "--data.group_column=author", "--training.epochs=1", "--quiet")
    done = cli("teach", "--model", base, *words, "--out=runs/grouped")
    assert done.code == 0, done.err
    record = json.loads((place / "runs/grouped/result.json").read_text())
    done = cli("evaluate", "runs/grouped", "--data", file, "--json")
    scores = json.loads(done.out)["validation"]
    wanted = record["metrics"]["last"]["validation"]
    assert sum(one["support"] for one in scores["per_class"].values()) % 3 == 0
    assert scores["nll"] == pytest.approx(wanted["nll"], abs=1e-4)


def test_audit_writes_a_table_to_correct(cli: Any, base: Path, data: Path, place: Path) -> None:
    words = ("audit", "--model", base, "--data", data, "--folds=2", "--training.epochs=1")
    done = cli(*words, "--out", "audit.csv")
    assert done.code == 0, done.err
    assert done.out.startswith("audit.csv: 64 rows, most doubtful first; on ")
    assert "Next: correct the column label" in done.out
    with (place / "audit.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[:4] == ["review", "label", "row", "answer"]
    assert len(rows) == 64
    assert "audit.csv already exists" in cli(*words, "--out", "audit.csv").err
    printed = cli(*words, "--out", "audit.csv", "--force", "--json", "--quiet")
    assert json.loads(printed.out)["rows"] == 64


def test_evaluate_finds_the_scores_of_the_run(cli: Any, student: Path, data: Path) -> None:
    done = cli("evaluate", student, "--data", data, "--json")
    scores = json.loads(done.out)
    assert done.code == 0
    wanted = result(student)["metrics"]["last"]["validation"]
    assert list(scores) == ["validation"]
    assert scores["validation"]["rows"] == 24
    for name, value in scores["validation"].items():
        if isinstance(value, float):
            assert value == pytest.approx(wanted[name], abs=1e-6)
    assert scores["validation"]["per_class"] == wanted["per_class"]
    assert set(scores["validation"]["per_class"]) == {"good", "bad"}


def test_evaluate_scores_every_row_of_a_file(cli: Any, student: Path, data: Path) -> None:
    done = cli("evaluate", student / "student", "--data", data / "train.csv")
    assert done.code == 0
    assert done.out.startswith("train.csv (64 rows)\n  accuracy")
    assert "same text" not in done.err


def test_quiet_and_json_keep_the_streams_clean(cli: Any, student: Path, data: Path) -> None:
    done = cli("evaluate", student, "--data", data, "--json", "--quiet", process=True)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["validation"]["rows"] == 24


def test_distill_can_print_its_record(
    cli: Any, teacher: Path, data: Path, place: Path, recipe: Any
) -> None:
    words = (
        "--teacher",
        teacher,
        "--data",
        data,
        *recipe,
        "--training.epochs=1",
        "--mix.strategy=fixed",
    )
    done = cli("distill", *words, "--out=runs/fixed", "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == result(place / "runs" / "fixed")


# -- predict --


@pytest.mark.wheel
def test_predict_from_a_pipe_to_a_pipe(cli: Any, student: Path) -> None:
    done = cli("predict", student, stdin="word1 fine\nword2 poor — é\n".encode(), process=True)
    assert done.code == 0, done.err
    first, second = map(json.loads, done.out.splitlines())
    assert (first["text"], first["label"]) == ("word1 fine", "good")
    assert (second["text"], second["label"]) == ("word2 poor — é", "bad")
    assert first["p_good"] + first["p_bad"] == pytest.approx(1, abs=2e-6)


def test_predict_from_a_file_to_a_file(cli: Any, student: Path, data: Path, place: Path) -> None:
    words = ("predict", student, data / "validation.csv", "--out", "labels.csv")
    done = cli(*words)
    assert (done.code, done.out) == (0, "")
    with (place / "labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with (data / "validation.csv").open(encoding="utf-8", newline="") as stream:
        given = list(csv.DictReader(stream))
    assert [row["text"] for row in rows] == [row["review"] for row in given]
    right = sum(row["label"] == one["label"] for row, one in zip(rows, given, strict=True))
    wanted = result(student)["metrics"]["last"]["validation"]["accuracy"]
    assert right / len(rows) == pytest.approx(wanted)
    again = cli(*words)
    assert again.code == 2
    assert "already exists; choose another name, or replace it with --force" in again.err
    assert cli(*words, "--force").code == 0


def test_predict_reads_csv_from_standard_input(cli: Any, student: Path) -> None:
    table = io.StringIO()
    csv.writer(table).writerows([("id", "review"), (1, 'word1, "fine"'), (2, "poor\nword3")])
    done = cli("predict", student, "-", "--format=csv", stdin=table.getvalue().encode())
    assert done.code == 0, done.err
    assert [json.loads(line)["text"] for line in done.out.splitlines()] == [
        'word1, "fine"',
        "poor\nword3",
    ]


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_rows_that_cannot_be_read_are_told_once_the_others_are_labelled(
    cli: Any, student: Path, tmp_path: Path, quiet: list[str]
) -> None:
    source, out = tmp_path / "some.csv", tmp_path / "labels.csv"
    source.write_bytes(b"review\nfine\n  \na,b\n\xff\npoor\n")
    done = cli("predict", student, source, "--out", out, *quiet, process=True)
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith(
        "Error: 3 of 5 rows could not be read:\n"
        f"  {source}:3: the text is empty (column 'review')\n"
        f"  {source}:4: too many fields: 2, wanted 1\n"
        f"  {source}:5: invalid UTF-8 (byte 0xff at column 1); save the file as UTF-8, or give its "
        "encoding with --data.encoding\n"
        f"All other rows were labelled. The output is in {out}, in the order of the input; the "
        "rows that could not be read have no text and no label there.\n"
    )
    assert done.err.startswith("Error: ") == bool(quiet)
    with out.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["text"] for row in rows] == ["fine", "", "", "", "poor"]
    assert [row["label"] for row in rows] == ["good", "", "", "", "bad"]


def test_rows_are_labelled_while_more_are_to_come(start: Start, student: Path) -> None:
    process = start(*("predict", student, "--quiet"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"fine\n" * BLOCK)
    process.stdin.flush()
    for _ in range(BLOCK):
        assert json.loads(process.stdout.readline())["label"] == "good"
    out, err = process.communicate(b"poor\n")
    assert (process.returncode, err) == (0, b"")
    assert json.loads(out)["label"] == "bad"


@pytest.mark.parametrize(
    ("how", "code", "left"),
    [(signal.SIGKILL, -signal.SIGKILL, [".labels.csv.writing"]), (signal.SIGINT, 130, [])],
)
def test_what_is_stopped_has_no_file_of_the_final_name(
    start: Start, student: Path, tmp_path: Path, how: signal.Signals, code: int, left: list[str]
) -> None:
    words = ("predict", student, "-", "--out", tmp_path / "labels.csv", "--quiet")
    process = start(*words, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"fine\n" * BLOCK)
    process.stdin.flush()
    partial = tmp_path / ".labels.csv.writing"
    deadline = time.monotonic() + 120
    while not (partial.exists() and partial.read_bytes().count(b"\n") == BLOCK + 1):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    process.wait()
    process.communicate()
    assert process.returncode == code
    assert [file.name for file in tmp_path.iterdir()] == left


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_message(start: Start, student: Path, data: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start("predict", student, data / "train.csv", "--quiet", stdout=full)
        _, err = process.communicate()
    assert process.returncode == 1
    assert err.decode() == "Error: No space left on device (--debug shows where)\n"


def test_weights_that_cannot_be_written_are_one_message(
    start: Start, base: Path, data: Path, recipe: Any
) -> None:
    words = ("teach", "--model", base, "--data", data, *recipe, "--training.epochs=1")
    words = (*words, "--out=runs/large", "--quiet")
    process = start(*words, file_blocks=40, stdout=subprocess.PIPE)
    out, err = process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert err.startswith(b"Error: a file could not be written, is the disk full? (")
    assert err.count(b"\n") == 1


def test_a_closed_pipe_is_no_error(start: Start, student: Path, data: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = start("predict", student, data / "train.csv", "--quiet", stdout=write)
    os.close(write)
    _, err = process.communicate()
    assert (process.returncode, err) == (1, b"")


def test_closed_standard_streams_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)  # as Python does after `<&- >&- 2>&-`
    main(["list"], standalone_mode=False)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


# -- stopping --


def test_control_c_keeps_a_run_that_resume_finishes(
    start: Start, cli: Any, teacher: Path, data: Path, place: Path, recipe: Any
) -> None:
    words = ("distill", "--teacher", teacher, "--data", data, *recipe, "--training.epochs=24")
    words = (*words, "--preset=quick", "--out=runs/stopped", "--quiet")
    process = start(*words, stdout=subprocess.PIPE)
    work = place / "runs" / "stopped.partial"
    deadline = time.monotonic() + 120
    while not (work / "checkpoints" / "checkpoint-8").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, b"")
    assert err == b"Error: stopped; the same command with --resume continues the run\n"
    assert result(work)["status"] == "cancelled"

    refused = cli(*words)
    assert refused.code == 2
    assert "holds an unfinished run. Give --resume to continue it, or --restart" in refused.err
    done = cli(*words, "--resume")
    assert done.code == 0, done.err
    found = result(place / "runs" / "stopped")
    assert (found["status"], found["timings"]["resumed"]) == ("ok", True)
    assert found["metrics"]["last"]["epoch"] == 24


# -- list and schema --


def test_list_shows_every_row_and_its_paper(cli: Any) -> None:
    done = cli("list")
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    for table in (MIXES, SUPERVISED, LOGIT, HIDDEN, ATTENTION):
        for name, row in table.items():
            assert [name, *row.summary.split(), *row.paper.split()] in lines
    for task in TASKS.values():
        assert [task.name, *task.summary.split(), *", ".join(task.metrics).split()] in lines


@pytest.mark.parametrize(
    ("words", "has_teacher"), [(["schema"], True), (["schema", "--teach"], False)]
)
def test_schema_is_json(cli: Any, words: list[str], has_teacher: bool) -> None:
    done = cli(*words)
    assert (done.code, done.err) == (0, "")
    assert ("teacher" in json.loads(done.out)["properties"]) == has_teacher


@pytest.mark.wheel
def test_version(cli: Any) -> None:
    done = cli("--version", process=True)
    assert done.code == 0
    assert done.out.startswith("layermix, version ")
