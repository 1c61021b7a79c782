"""What is wrong is told in one message with exit code 2, and nothing is written."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("untouched")

GOOD = "review,label\nfine word1,good\npoor word2,bad\nfine word3,good\npoor word4,bad\n"


@pytest.fixture(autouse=True)
def _first(student: Path) -> None:
    """The runs that the tests share are made before it is noted what is there."""


def refused(done: Any, *told: str) -> None:
    """The call ended with one message that says all of this."""
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert done.err.count("Error: ") == 1
    for part in told:
        assert part in done.err


BAD_DATA: Mapping[str, tuple[Mapping[str, str | bytes], tuple[str, ...]]] = {
    "no label column": (
        {"train.csv": "review,stars\nfine,1\npoor,2\n"},
        ("train.csv:1: no label column found", "--data.label_column"),
    ),
    "no text column": (
        {"train.csv": "opinion,label\nfine,good\npoor,bad\n"},
        ("train.csv:1: no text column found", "'opinion', 'label'", "--data.text_columns"),
    ),
    "another column in validation": (
        {"train.csv": GOOD, "validation.csv": "text,label\nfine,good\n"},
        ("validation.csv:1: no column 'review'",),
    ),
    "an empty file": ({"train.csv": "", "validation.csv": GOOD}, ("train.csv: the file is empty",)),
    "a header alone": ({"train.csv": "review,label\n"}, ("train.csv: there is only a header",)),
    "too few and too many fields": (
        {"train.csv": GOOD + "fine\npoor,bad,ugly\n"},
        (
            "2 problems in the data:",
            "train.csv:6: too few fields: 1, wanted 2",
            "train.csv:7: too many fields: 3, wanted 2",
        ),
    ),
    "invalid UTF-8": (
        {"train.csv": GOOD.encode() + "Gemüse,good\n".encode("latin-1")},
        ("train.csv:6: invalid UTF-8 (byte 0xfc at column 4)",),
    ),
    "an unknown label": (
        {"train.csv": GOOD, "validation.csv": "review,label\nfine,good\npoor,awful\n"},
        ("validation.csv:3: unknown label 'awful'; the classes are 'bad', 'good'",),
    ),
    "a missing label": ({"train.csv": GOOD + "fine,\n"}, ("train.csv:6: the label is missing",)),
    "an empty text": ({"train.csv": GOOD + "  ,good\n"}, ("train.csv:6: the text is empty",)),
    "one class only": (
        {"train.csv": "review,label\nfine,good\nfine,good\n"},
        ("all rows have the label 'good'; wanted two classes or more",),
    ),
    "no training split": ({"validation.csv": GOOD}, ("no training split", "'validation.csv'")),
    "another format": ({"train.xlsx": "PK"}, ("no training split", "'train.xlsx'")),
    "problems in two files": (
        {"train.csv": GOOD + ",good\n" * 30, "validation.csv": "review,label\npoor,\n"},
        (
            "31 problems in the data:",
            "train.csv:25: the text is empty",
            "… and 11 more",
        ),
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(cli: Any, base: Path, tmp_path: Path, case: str) -> None:
    files, told = BAD_DATA[case]
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
    refused(cli("teach", "--model", base, "--data", tmp_path, "--out=runs/bad"), *told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("distill --data=x", ("no teacher: give --teacher FOLDER",)),
        ("teach --data=x", ("no model to fine-tune: give --model FOLDER",)),
        ("distill --training.epochs=0 --seed=x", ("2 problems in the config:", "--seed", "epochs")),
        ("distill --student=a --student.hidden=8", ("--student --student.hidden: model and",)),
        ("distill nosuch.yaml", ("nosuch.yaml: no such file",)),
        ("distill --data=$NO_SUCH_NAME/x", ("variable NO_SUCH_NAME is not set",)),
    ],
)
def test_bad_config(cli: Any, words: str, told: tuple[str, ...]) -> None:
    refused(cli(*words.split(), "--out=runs/bad"), *told)


def test_a_bad_config_file(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("mix:\n  stratgy: fixed\nloss: {hidden: cubic}\n", encoding="utf-8")
    refused(
        cli("distill", file, "--out=runs/bad"),
        f"{file}:2: mix.stratgy: unknown key; did you mean mix.strategy?",
        f"{file}:3: loss.hidden: found 'cubic', wanted 'mean', 'token_norm',",
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--teacher=no/such/folder"], ("no/such/folder: no such folder",)),
        (["--mix.teacher_layers=1,9"], ("9", "0", "3")),
        (["--student.blocks=0,7"], ("7", "3")),
        (["--student.layers=9"], ("9", "4")),
        (["--data.max_length=512"], ("data.max_length is 512",)),
        (["--mix.strategy=reverse", "--mix.teacher_layers=3"], ("reverse needs as many",)),
        (["--loss.supervised=mse"], ("loss.supervised is mse", "set it to cross_entropy")),
        (["--data=no/such/data"], ("no/such/data: no such file or folder",)),
    ],
)
def test_what_does_not_fit_together(
    cli: Any, teacher: Path, data: Path, words: list[str], told: tuple[str, ...]
) -> None:
    given = ["--teacher", teacher, "--data", data, *words]
    refused(cli("distill", *given, "--out=runs/bad", "--quiet"), *told)


def test_no_teacher_and_no_soft_labels(cli: Any, base: Path, data: Path, tmp_path: Path) -> None:
    words = ("distill", "--out=runs/bad", "--quiet", "--data")
    refused(cli(*words, data), "no teacher: give --teacher FOLDER", "a column p_CLASS", "--student")
    told = "no teacher: give --teacher FOLDER (fine-tune one with `layermix teach`); or data with"
    refused(cli(*words, data, "--student", base), told, f"and {data} has none")
    file = tmp_path / "soft.csv"
    file.write_text("text,p_a,p_b\nx,0.7,0.3\ny,0.7,0.5\nz,,1\n", encoding="utf-8")
    refused(
        cli(*words, file, "--student", base),
        "2 problems in the data:",
        "soft.csv:3: the probabilities sum to 1.2, wanted 1",
        "soft.csv:4: a probability is missing (column 'p_a')",
    )
    refused(
        cli(*words, file, "--student", base, "--preset=default"),
        "loss.hidden_weight is 10, but the term needs hidden states of one teacher model",
        "--preset soft",
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out=audit.txt"], ("--out audit.txt: found the ending 'txt', wanted .jsonl, .csv",)),
        (["--out=nowhere/audit.csv"], ("there is no folder nowhere; create it first",)),
        (["--out=doubts.csv", "--folds=1"], ("--folds", "2")),
        (["--out=doubts.csv", "--folds=90"], ("64 training rows are too few for 90 folds",)),
    ],
)
def test_bad_requests_to_audit(
    cli: Any, base: Path, data: Path, words: list[str], told: tuple[str, ...]
) -> None:
    refused(cli("audit", "--model", base, "--data", data, *words, "--quiet"), *told)


def test_other_classes_than_the_teachers(cli: Any, teacher: Path, tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text(GOOD.replace("good", "yes"), encoding="utf-8")
    done = cli("distill", "--teacher", teacher, "--data", file, "--out=runs/bad")
    refused(done, "['bad', 'good']", "['bad', 'yes']")


def test_a_teacher_that_is_always_wrong(
    cli: Any, teacher: Path, data: Path, tmp_path: Path
) -> None:
    for file in data.iterdir():
        swapped = file.read_text(encoding="utf-8").replace("good", "GOOD").replace("bad", "good")
        (tmp_path / file.name).write_text(swapped.replace("GOOD", "bad"), encoding="utf-8")
    done = cli("distill", "--teacher", teacher, "--data", tmp_path, "--out=runs/bad", "--quiet")
    refused(done, "always answering one class has 0.5000", "allow_weak")


def test_a_finished_run_is_not_written_over(cli: Any, teacher: Path, data: Path) -> None:
    words = ("distill", "--teacher", teacher, "--data", data, "--out=runs/student")
    for how in ((), ("--resume",), ("--restart",)):
        refused(cli(*words, *how), "runs/student already holds a finished run")
    refused(cli(*words, "--resume", "--restart"), "--resume and --restart contradict each other")


def test_an_output_folder_inside_a_file(cli: Any, teacher: Path, data: Path) -> None:
    words = ("distill", "--teacher", teacher, "--data", data, "--out=reviews/train.csv/run")
    done = cli(*words, "--quiet")
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith("train.csv/run.partial: Not a directory (--debug shows where)\n")


def test_names_whose_bytes_are_not_utf8(cli: Any, base: Path, student: Path, data: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    told = r"the bytes of 'caf\udce9' are not UTF-8; rename it"
    words = ("--model", base, "--data", data)
    refused(cli("teach", *words, "--out", name), f"--out: {told}")
    refused(cli("teach", "--model", name, "--data", name, "--out", "runs/x"), "--model", told)
    refused(cli("report", name), told)
    refused(cli("bench", student, name), told)
    refused(cli("predict", student, f"{name}.csv"), "no such file")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out=x.txt"], ("--out x.txt: found the ending 'txt', wanted .jsonl, .csv or .tsv",)),
        (["--out=no/x.csv"], ("--out no/x.csv: there is no folder no; create it first",)),
        (["--out=reviews/train.csv"], ("reviews/train.csv already exists", "--force")),
        (["nosuch.csv"], ("nosuch.csv: no such file",)),
        (["reviews"], ("reviews: cannot be read: Is a directory",)),
        (["--data.text_columns=review,label"], ("found 2 column(s)", "trained on 1, review")),
        (["--data.text_columns=a,b,c"], ("--data.text_columns",)),
        (["--data.text_columns=opinion"], ("train.csv:1: no column 'opinion'",)),
    ],
)
def test_bad_requests_to_predict(
    cli: Any, student: Path, words: list[str], told: tuple[str, ...]
) -> None:
    file = [] if not words[0].startswith("--") else ["reviews/train.csv"]
    refused(cli("predict", student, *file, *words, "--quiet"), *told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out=no/x.jsonl"], ("--out no/x.jsonl: there is no folder no; create it first",)),
        (["--out=reviews/train.csv"], ("reviews/train.csv already exists", "--force")),
        (["--out=reviews", "--force"], ("--out reviews: is a folder, wanted a file",)),
        (["--out=x.jsonl", "--data.augment_ways=swap"], ("swap needs pairs of texts",)),
    ],
)
def test_bad_requests_to_augment(
    cli: Any, teacher: Path, data: Path, words: list[str], told: tuple[str, ...]
) -> None:
    refused(cli("augment", "--teacher", teacher, "--data", data, *words, "--quiet"), *told)


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        (b"", [], "standard input: the file is empty"),
        (b"\n \n", [], "standard input: the file is empty"),
        (b"\xff\n\xfe\n", [], "standard input:2: invalid UTF-8 (byte 0xfe at column 1)"),
        (b"PAR1", ["--format=parquet"], "standard input: not readable as Parquet"),
        (b"fine\n", ["--format=jsonl"], "none of the first 1 row(s) can be read"),
        (b"fine\n", ["--data.text_columns=review"], "plain text has no columns"),
        (b"opinion\nfine\n", ["--format=csv"], "was trained on the text column(s) review; where"),
        (b'{"review": 3}\n', [], "standard input:1: found a int, 3, wanted text"),
    ],
)
def test_bad_texts_to_predict(
    cli: Any, student: Path, text: bytes, words: list[str], told: str
) -> None:
    refused(cli("predict", student, *words, "--quiet", stdin=text), told)


def test_a_model_without_a_head(cli: Any, base: Path, data: Path) -> None:
    refused(cli("predict", base, "reviews/train.csv", "--quiet"), "has no classification head")
    refused(cli("evaluate", base, "--data", data, "--quiet"), "has no classification head")


def test_evaluate_without_data(cli: Any, student: Path) -> None:
    refused(cli("evaluate", student), "no data named; give --data FOLDER")


def test_debug_shows_where(cli: Any) -> None:
    done = cli("distill", "--out=runs/bad", "--seed=-1", "--debug")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Traceback (most recent call last):")
    assert "\nError: 1 problem in the config:\n  --seed: found '-1', wanted 0 or more" in done.err
