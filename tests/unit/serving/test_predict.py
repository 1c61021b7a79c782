"""Labels and probabilities of texts: their order, their length, what cannot be read."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from layermix.atomic import whole_file
from layermix.config import DataConfig
from layermix.console import Reporter
from layermix.data import files
from layermix.errors import ConfigError, DataError, ModelError, RunExistsError, UnreadRowsError
from layermix.serving.evaluate import evaluate
from layermix.serving.predict import predict
from layermix.serving.predictor import open_predictor

from .conftest import CLASSES, TEXTS, chances, labelled, read, write


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("out_ending", ["csv", "tsv", "jsonl"])
def test_labels_and_probabilities_in_the_order_of_the_rows(
    classifier: Path, tmp_path: Path, ending: str, out_ending: str
) -> None:
    source = write(tmp_path / f"in.{ending}", {"id": list("123456"), "text": TEXTS})
    out = tmp_path / f"out.{out_ending}"
    predict(str(classifier), source, str(out), batch_size=4)
    rows = read(out)
    assert list(rows[0]) == ["text", "label", *(f"p_{name}" for name in CLASSES)]
    assert [row["text"] for row in rows] == TEXTS
    found = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in rows])
    wanted = chances(classifier, TEXTS)
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    np.testing.assert_allclose(found.sum(-1), 1, atol=3e-6)
    assert [row["label"] for row in rows] == [CLASSES[best] for best in wanted.argmax(-1)]
    assert len({row["label"] for row in rows}) > 1


def test_pairs(classifier: Path, tmp_path: Path) -> None:
    others = TEXTS[::-1]
    source = write(tmp_path / "in.jsonl", {"sentence1": TEXTS, "sentence2": others})
    predict(str(classifier), source, str(tmp_path / "out.jsonl"))
    rows = read(tmp_path / "out.jsonl")
    assert [(row["text"], row["text_pair"]) for row in rows] == list(
        zip(TEXTS, others, strict=True)
    )
    found = np.array([[row[f"p_{name}"] for name in CLASSES] for row in rows])
    # the tokenizer takes six tokens: a pair is cut where transformers' "longest first" cuts it
    np.testing.assert_allclose(found, chances(classifier, TEXTS, others), atol=2e-6)


def test_what_was_changed_to_run_a_model_is_told(classifier: Path, tmp_path: Path) -> None:
    left = tmp_path / "left"
    shutil.copytree(classifier, left)
    tokenizer = AutoTokenizer.from_pretrained(left)
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    tokenizer.save_pretrained(left)
    labelled(tmp_path, "rows", [*CLASSES, *CLASSES])
    source, told = str(tmp_path / "rows.csv"), {}
    for name, model in (("right", classifier), ("left", left)):
        reporter = Reporter()
        reporter.console.file = io.StringIO()
        predict(str(model), source, str(tmp_path / f"{name}.jsonl"), reporter=reporter)
        evaluate(str(model), DataConfig(path=source), reporter=reporter)
        told[name] = " ".join(reporter.console.file.getvalue().split()).count("padded on the")
    assert told == {"right": 0, "left": 2}
    assert read(tmp_path / "left.jsonl") == read(tmp_path / "right.jsonl")


def test_blocks_make_no_difference(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ending in ("csv", "parquet"):
        source = write(tmp_path / f"in.{ending}", {"text": TEXTS})
        for rows in (1024, 4, 1):
            monkeypatch.setattr(files, "BLOCK", rows)
            predict(str(classifier), source, str(tmp_path / f"{ending}{rows}.jsonl"))
    one, *others = (read(file) for file in sorted(tmp_path.glob("*.jsonl")))
    assert len(one) == len(TEXTS)
    assert len(others) == 5
    for other in others:
        assert [(row["text"], row["label"]) for row in other] == [
            (row["text"], row["label"]) for row in one
        ]
        for name in CLASSES:
            found, wanted = ([row[f"p_{name}"] for row in rows] for rows in (other, one))
            assert found == pytest.approx(wanted, abs=2e-6)


def test_the_tokenizers_length_holds_and_is_told(
    classifier: Path,
    tmp_path: Path,
    reporter: tuple[Reporter, io.StringIO],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "BLOCK", 2)  # the share is that of all blocks
    source = write(tmp_path / "in.csv", {"text": ["a b c d", "a b c d e f g", "a"]})
    predict(str(classifier), source, str(tmp_path / "out.jsonl"), reporter=reporter[0])
    four, seven, _ = read(tmp_path / "out.jsonl")
    assert four["p_2"] == seven["p_2"]
    assert (
        "the input: 33.3% of the rows are longer than 6 tokens and were cut"
        in reporter[1].getvalue()
    )


def test_how_quote_marks_were_read_is_told(
    classifier: Path, tmp_path: Path, reporter: tuple[Reporter, io.StringIO]
) -> None:
    source = tmp_path / "in.tsv"
    source.write_text('text\n"a"\n"b"\n', encoding="utf-8")
    predict(str(classifier), str(source), str(tmp_path / "out.csv"), reporter=reporter[0])
    assert "2 fields begin with a quote mark; read as quoted (raw is" in reporter[1].getvalue()
    assert [row["text"] for row in read(tmp_path / "out.csv")] == ["a", "b"]


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Give the process this standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("data", "format", "wanted"),
    [
        (b"a b\nc\n", None, ["a b", "c"]),
        (b'{"text": "a b"}\n{"text": "c"}\n', None, ["a b", "c"]),
        (b"id,text\n1,a b\n2,c\n", "csv", ["a b", "c"]),
        (b"text\tid\na b\t1\nc\t2\n", "tsv", ["a b", "c"]),
    ],
)
def test_standard_input_to_standard_output(
    classifier: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    data: bytes,
    format: str | None,
    wanted: list[str],
) -> None:
    pipe(monkeypatch, data)
    predict(str(classifier), input_format=format)
    out, err = capsys.readouterr()
    assert [json.loads(line)["text"] for line in out.splitlines()] == wanted
    assert err == ""


def test_a_file_without_a_header_in_another_encoding(classifier: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_bytes("1,a b café\n2,c d\n".encode("cp1252"))
    predict(
        str(classifier),
        str(source),
        str(out),
        text_columns=("2",),
        header=False,
        encoding="cp1252",
    )
    assert [row["text"] for row in read(out)] == ["a b café", "c d"]


def test_a_files_format_may_be_given(classifier: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", {"text": TEXTS})
    renamed = Path(source).rename(tmp_path / "in.dat")
    with pytest.raises(DataError, match="unknown format 'dat'"):
        predict(str(classifier), str(renamed), str(tmp_path / "out.csv"))
    predict(str(classifier), str(renamed), str(tmp_path / "out.csv"), input_format="csv")
    assert len(read(tmp_path / "out.csv")) == len(TEXTS)


# -- rows that cannot be read --

FAULTS = b"text,text_pair\na b,c\nonly one\nd,e\n,f\n\xff,a\n" + b"g,h\n" * 2 + b'"i,j\nlast,a\n'
UNREAD = [1, 3, 4, 7]
TOLD = (
    "3: too few fields: 1, wanted 2",
    "5: the text is empty (column 'text')",
    "6: invalid UTF-8 (byte 0xff at column 1); save the file as UTF-8, or give its encoding with "
    "--data.encoding",
    "9: not well quoted: a quote mark is never closed",
)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("rows", [3, 1024])
def test_a_row_that_cannot_be_read_keeps_its_place_without_a_label(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, rows: int
) -> None:
    monkeypatch.setattr(files, "BLOCK", rows)
    source, out = tmp_path / "in.csv", tmp_path / f"out.{ending}"
    source.write_bytes(FAULTS)
    with pytest.raises(UnreadRowsError) as caught:
        predict(str(classifier), str(source), str(out))
    assert str(caught.value).splitlines() == [
        "4 of 9 rows could not be read:",
        *(f"  {source}:{told}" for told in TOLD),
        f"All other rows were labelled. The output is in {out}, in the order of the input; the "
        "rows that could not be read have no text and no label there.",
    ]
    found = read(out)
    nothing = None if ending == "jsonl" else ""
    assert [number for number, row in enumerate(found) if set(row.values()) == {nothing}] == UNREAD
    good = [row for number, row in enumerate(found) if number not in UNREAD]
    texts = [["a b", "d", "g", "g", "last"], ["c", "e", "h", "h", "a"]]
    assert [[row[name] for row in good] for name in ("text", "text_pair")] == texts
    given = np.array([[float(row[f"p_{name}"]) for name in CLASSES] for row in good])
    np.testing.assert_allclose(given, chances(classifier, *texts), atol=2e-6)
    assert {row["label"] for row in good} <= set(CLASSES)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.csv", out.name]


def test_a_block_without_a_row_that_can_be_read_is_written_as_well(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BLOCK", 2)
    source, out = tmp_path / "in.txt", tmp_path / "out.csv"
    source.write_text("a\nb\n\n\nc\n", encoding="utf-8")
    with pytest.raises(UnreadRowsError, match=r"^2 of 5 rows could not be read:"):
        predict(str(classifier), str(source), str(out))
    assert [row["text"] for row in read(out)] == ["a", "b", "", "", "c"]


def test_standard_output_has_every_row_though_some_could_not_be_read(
    classifier: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, b"a\n\nb\n")
    with pytest.raises(UnreadRowsError, match="The output is on standard output, in the order"):
        predict(str(classifier))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["a", None, "b"]
    assert rows[1] == dict.fromkeys(rows[0])


# -- how far it is --


@pytest.mark.parametrize(
    ("name", "content", "total"),
    [
        ("in.csv", 'text\na\n"b\nb"\nc\n', "3/3"),  # four line breaks, but three rows
        ("in.jsonl", '{"text": "a"}\n\n{"text": "b"}\n', "2/2"),
        ("in.txt", "a\nb", "2/2"),
    ],
)
def test_a_bar_counts_the_rows(
    classifier: Path,
    tmp_path: Path,
    reporter: tuple[Reporter, io.StringIO],
    name: str,
    content: str,
    total: str,
) -> None:
    source = tmp_path / name
    source.write_text(content, encoding="utf-8")
    predict(str(classifier), str(source), str(tmp_path / "out.csv"), reporter=reporter[0])
    assert "predicting" in reporter[1].getvalue()
    assert total in reporter[1].getvalue()


@pytest.fixture
def terminal() -> tuple[Reporter, io.StringIO]:
    """A reporter that writes to a terminal, and what stands there."""
    reporter, said = Reporter(), io.StringIO()
    reporter.console = Console(file=said, force_terminal=True)
    return reporter, said


def test_a_bar_on_a_terminal_leaves_standard_output_alone(
    classifier: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: tuple[Reporter, io.StringIO],
) -> None:
    pipe(monkeypatch, b"a b\nc\n")
    predict(str(classifier), reporter=terminal[0])
    out = capsys.readouterr().out
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["a b", "c"]
    assert "predicting" in terminal[1].getvalue()
    assert "label" not in terminal[1].getvalue()


def test_no_bar_runs_through_rows_on_a_terminal(
    classifier: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: tuple[Reporter, io.StringIO],
) -> None:
    pipe(monkeypatch, b"a b\nc\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    predict(str(classifier), reporter=terminal[0])
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert terminal[1].getvalue() == ""


# -- memory --

PROGRAM = """
import sys
from pathlib import Path
from layermix.serving.predict import predict
from layermix.serving.predictor import open_predictor
predict(*sys.argv[1:], batch_size=256)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def peak(model: Path, folder: Path, line: str, rows: int) -> float:
    """The most memory, in MiB, that a process needs which labels a CSV file of so many rows."""
    source = folder / f"{rows}.csv"
    with source.open("w", encoding="utf-8") as file:
        file.write("text,other\n")
        file.writelines(f"{line}\n" for _ in range(rows))
    out = source.with_suffix(".jsonl")
    # Not `ru_maxrss`: that of a process starts with what the one that began it has.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(source), str(out)],
        capture_output=True,
        text=True,
        check=True,
    )
    with out.open(encoding="utf-8") as file:
        assert sum(1 for _ in file) == rows
    return int(done.stdout) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("line", "few", "many"),
    [
        pytest.param("a b," + "c" * 18000, 600, 3_600, marks=pytest.mark.slow),  # 65 MB
        pytest.param("a b c,x", 100_000, 1_000_000, marks=pytest.mark.slow),
    ],
)
def test_more_rows_need_no_more_memory(
    classifier: Path, tmp_path: Path, line: str, few: int, many: int
) -> None:
    little, much = (peak(classifier, tmp_path, line, rows) for rows in (few, many))
    assert much < little + 30


# -- what was there before, and what a failure leaves --


def test_an_old_file_is_replaced_only_if_asked(classifier: Path, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.csv", {"text": TEXTS}), tmp_path / "out.csv"
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(RunExistsError, match="already exists; choose another name, or"):
        predict(str(classifier), source, str(out))
    assert out.read_text(encoding="utf-8") == "mine"
    predict(str(classifier), source, str(out), force=True)
    assert len(read(out)) == len(TEXTS)
    with pytest.raises(RunExistsError, match="is a folder, wanted a file"):
        predict(str(classifier), source, str(tmp_path.rename(tmp_path.with_suffix(".csv"))))


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_a_file_that_another_process_writes_is_left_to_it(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write(tmp_path / "in.csv", {"text": TEXTS}), tmp_path / "out.csv"
    with whole_file(out) as temporary:
        temporary.write_text("theirs", encoding="utf-8")
        for force in (False, True):
            with pytest.raises(RunExistsError, match="another process is writing this file; wait"):
                predict(str(classifier), source, str(out), force=force)
    assert out.read_text(encoding="utf-8") == "theirs"
    out.unlink()

    def slow(*arguments: Any) -> Any:
        out.write_text("theirs", encoding="utf-8")
        return open_predictor(*arguments)

    monkeypatch.setattr("layermix.serving.predict.open_predictor", slow)
    with pytest.raises(RunExistsError, match="already exists; choose another name, or"):
        predict(str(classifier), source, str(out))
    assert out.read_text(encoding="utf-8") == "theirs"


def test_a_failure_leaves_the_old_file_and_no_other(classifier: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine", encoding="utf-8")
    source = tmp_path / "in.csv"
    source.write_text("text\n \n", encoding="utf-8")
    with pytest.raises(DataError, match=r"in\.csv:2: the text is empty"):
        predict(str(classifier), str(source), str(out), force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.csv", "out.csv"]
    assert out.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a", "\ud800", "c"], "contains half a character"),  # JSON may hold what UTF-8 cannot
        (["a", "b", "a"], "several of its 3 classes are called 'a'"),  # a probability would be lost
    ],
)
def test_class_names_that_cannot_be_written_apart_are_refused(
    variant: Any, tmp_path: Path, names: list[str], told: str
) -> None:
    model = variant(id2label=dict(enumerate(names)))
    source = write(tmp_path / "in.csv", {"text": TEXTS})
    with pytest.raises(ModelError) as caught:
        predict(model, source, str(tmp_path / "out.csv"))
    assert told in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("out.xlsx", "found the ending 'xlsx', wanted .jsonl, .csv or .tsv"),
        ("out", "found the ending '', wanted"),
        ("no/out.csv", "there is no folder"),
    ],
)
def test_an_out_that_cannot_be(classifier: Path, tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        predict(str(classifier), "nosuch.csv", str(tmp_path / name))


# -- the columns that the model was trained on --


def test_a_model_that_knows_its_columns_reads_them(variant: Any, tmp_path: Path) -> None:
    model = variant(layermix={"text_columns": ["review"]})
    source = write(tmp_path / "in.csv", {"text": ["a"] * 6, "review": TEXTS})
    predict(model, source, str(tmp_path / "out.csv"))
    assert [row["text"] for row in read(tmp_path / "out.csv")] == TEXTS
    predict(model, source, str(tmp_path / "other.csv"), text_columns=("text",))
    assert [row["text"] for row in read(tmp_path / "other.csv")] == ["a"] * 6


def test_a_column_that_is_not_there(variant: Any, tmp_path: Path) -> None:
    model = variant(layermix={"text_columns": ["review"]})
    source = write(tmp_path / "in.csv", {"text": TEXTS})
    with pytest.raises(DataError) as caught:
        predict(model, source)
    assert str(caught.value) == (
        "1 problem in the data:\n"
        f"  {source}:1: no column 'review'; the columns are 'text'\n"
        f"{model} was trained on the text column(s) review; where they have other names, give "
        "--data.text_columns"
    )


def test_pairs_for_single_texts_and_the_reverse(variant: Any, tmp_path: Path) -> None:
    single = variant(layermix={"text_columns": ["review"]})
    double = variant(layermix={"text_columns": ["a", "b"]})
    source = write(tmp_path / "in.csv", {"text": TEXTS, "text_pair": TEXTS, "label": ["2"] * 6})
    plain = tmp_path / "in.txt"
    plain.write_text("a\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"found 2 column\(s\), text, text_pair, but .* 1, review"
    ):
        predict(single, source, text_columns=("text", "text_pair"))
    with pytest.raises(ConfigError, match=r"found 1 column\(s\), text, but .* on 2, a, b; give as"):
        evaluate(double, DataConfig(path=source, text_columns=("text",)))
    with pytest.raises(DataError, match="plain text has one text per line, but two are wanted"):
        predict(double, str(plain))
    with pytest.raises(DataError, match="no column 'a', 'b'"):
        predict(double, source)


@pytest.mark.parametrize("name", ["-", "in.txt"])
def test_plain_text_has_no_columns(classifier: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="plain text has no columns; leave it out, or say what"):
        predict(str(classifier), name, text_columns=("text",))


def test_a_model_whose_answers_are_not_finite_is_told(variant: Any, tmp_path: Path) -> None:
    model = Path(variant())
    weights = load_file(model / "model.safetensors")
    weights["classifier.bias"][1] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    labelled(tmp_path, "some", [CLASSES[number % 3] for number in range(6)])
    source = str(tmp_path / "some.csv")
    with pytest.raises(ModelError, match="its logits are NaN or infinite on 6 of 6 rows"):
        evaluate(str(model), DataConfig(path=source))
    with pytest.raises(ModelError, match="NaN or infinite"):
        predict(str(model), source, str(tmp_path / "out.csv"))
    assert [file.name for file in tmp_path.iterdir()] == ["some.csv"]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_carriage_return_within_a_text_ends_no_row(
    classifier: Path, tmp_path: Path, ending: str
) -> None:
    texts = ["a\rb", "c\nd", "e"]
    source = write(tmp_path / "in.jsonl", {"text": texts})
    out = tmp_path / f"out.{ending}"
    predict(str(classifier), source, str(out))
    with out.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="," if ending == "csv" else "\t"))
    assert [row["text"] for row in rows] == texts
    assert b"a\rb" in out.read_bytes()
    assert out.read_bytes().count(b'"a') == 1


# -- models that cannot be used --


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"problem_type": "regression"}, "a head for regression with 3 output.s., wanted one that"),
        ({"problem_type": "ranking"}, "its labels are of the kind 'ranking', wanted one of"),
        ({"architectures": ["BertModel"]}, "has no classification head"),
    ],
)
def test_heads_that_choose_no_class(
    variant: Any, tmp_path: Path, entries: dict[str, Any], told: str
) -> None:
    source = write(tmp_path / "in.csv", {"text": TEXTS})
    with pytest.raises(ModelError, match=told):
        predict(variant(**entries), source)
