import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
)

from layermix.config import DataConfig
from layermix.console import Reporter
from layermix.data import blocks as streams
from layermix.data.texts import load_texts
from layermix.errors import ConfigError, DataError, ModelError, RunExistsError, UnreadRowsError
from layermix.serving.evaluate import evaluate, scores_text
from layermix.serving.predict import predict

LETTERS = "abcdefghij"
TEXTS = ["a b", "c", 'd "e", f', "g h i j a b", "b\tc", "ü d"]
CLASSES = ('say "no", or', "ja\tü", "2")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random three-class BERT with class names that a careless writer would trip over."""
    folder = tmp_path_factory.mktemp("predict") / "model"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = BertTokenizer(
        vocab={word: number for number, word in enumerate(words)}, model_max_length=6
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def variant(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`variant(key=value, …)`: the same model with other entries in its config.json."""

    def make(**entries: Any) -> str:
        folder = tmp_path_factory.mktemp("variant")
        for file in classifier.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | entries), encoding="utf-8")
        return str(folder)

    return make


@pytest.fixture
def reporter() -> tuple[Reporter, io.StringIO]:
    """A reporter, and what it says."""
    reporter, said = Reporter(), io.StringIO()
    reporter.console.file = said
    return reporter, said


def chances(folder: Path, *texts: list[str]) -> np.ndarray[Any, Any]:
    """What transformers alone says, one text at a time, (N, C)."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in zip(*texts, strict=True):
        batch = tokenizer(*text, truncation=True, return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**batch).logits.softmax(-1)[0].numpy())
    return np.stack(rows)


def write(file: Path, columns: dict[str, list[str]]) -> str:
    """A table in the format of the file's ending."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if file.suffix == ".parquet":
        pq.write_table(pa.table(columns), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with file.open("w", encoding="utf-8", newline="") as stream:
            delimiter = "," if file.suffix == ".csv" else "\t"
            writer = csv.DictWriter(stream, list(columns), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return str(file)


def read(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="," if file.suffix == ".csv" else "\t"))


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


def test_blocks_make_no_difference(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ending in ("csv", "parquet"):
        source = write(tmp_path / f"in.{ending}", {"text": TEXTS})
        for rows in (1024, 4, 1):
            monkeypatch.setattr(streams, "BLOCK", rows)
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
    monkeypatch.setattr(streams, "BLOCK", 2)  # the share is that of all blocks
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
    "6: invalid UTF-8 (byte 0xff at column 1); save the file as UTF-8",
    "9: not well quoted: a quote mark is never closed",
)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("rows", [3, 1024])
def test_a_row_that_cannot_be_read_keeps_its_place_without_a_label(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, rows: int
) -> None:
    monkeypatch.setattr(streams, "BLOCK", rows)
    source, out = tmp_path / "in.csv", tmp_path / f"out.{ending}"
    source.write_bytes(FAULTS)
    with pytest.raises(UnreadRowsError) as caught:
        predict(str(classifier), str(source), str(out))
    assert str(caught.value).splitlines() == [
        "4 of 9 rows could not be read:",
        *(f"  {source}:{told}" for told in TOLD),
        f"All other rows were labelled. The output is in {out}, in the order of the input; the "
        "rows that could not be read stand there without text and label.",
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
    monkeypatch.setattr(streams, "BLOCK", 2)
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
        ("a b," + "c" * 9000, 1_200, 7_200),  # 65 MB, which would be in memory more than once
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
    with pytest.raises(RunExistsError, match="is there already, nothing is written over; choose"):
        predict(str(classifier), source, str(out))
    assert out.read_text(encoding="utf-8") == "mine"
    predict(str(classifier), source, str(out), force=True)
    assert len(read(out)) == len(TEXTS)
    with pytest.raises(RunExistsError, match="is a folder, wanted a file"):
        predict(str(classifier), source, str(tmp_path.rename(tmp_path.with_suffix(".csv"))))


def test_a_failure_leaves_the_old_file_and_no_other(classifier: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("mine", encoding="utf-8")
    source = tmp_path / "in.csv"
    source.write_text("text\n \n", encoding="utf-8")
    with pytest.raises(DataError, match=r"in\.csv:2: the text is empty"):
        predict(str(classifier), str(source), str(out), force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.csv", "out.csv"]
    assert out.read_text(encoding="utf-8") == "mine"


def test_a_failure_while_writing_leaves_nothing(variant: Any, tmp_path: Path) -> None:
    half = variant(id2label={0: "a", 1: "\ud800", 2: "c"})  # JSON may hold what UTF-8 cannot
    source = write(tmp_path / "in.csv", {"text": TEXTS})
    with pytest.raises(UnicodeEncodeError):
        predict(half, source, str(tmp_path / "out.csv"))
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


# -- evaluate --


def labelled(folder: Path, split: str, labels: list[str]) -> None:
    write(folder / f"{split}.csv", {"text": TEXTS[: len(labels)], "label": labels})


def test_evaluate_a_folder(
    classifier: Path, tmp_path: Path, reporter: tuple[Reporter, io.StringIO]
) -> None:
    labels = [CLASSES[number % 3] for number in range(6)]
    for split in ("train", "validation", "test"):
        labelled(tmp_path, split, labels if split != "test" else labels[1:4])
    scores = evaluate(str(classifier), DataConfig(path=str(tmp_path)), reporter=reporter[0])
    assert list(scores) == ["validation", "test"]
    best = chances(classifier, TEXTS).argmax(-1)
    right = [CLASSES[number] == label for number, label in zip(best, labels, strict=True)]
    assert scores["validation"]["accuracy"] == pytest.approx(np.mean(right))
    assert (scores["validation"]["rows"], scores["test"]["rows"]) == (6, 3)
    assert set(scores["test"]["per_class"]) == set(CLASSES)
    assert list(scores["test"]["per_class"]) == list(CLASSES)  # in the model's order
    table = scores_text(scores)
    assert table.startswith("validation (6 rows)\n  accuracy")
    assert "\ntest (3 rows)\n" in table
    assert len({len(line) for line in table.splitlines() if CLASSES[0] in line}) == 1


def test_evaluate_one_file_scores_every_row(
    classifier: Path, tmp_path: Path, reporter: tuple[Reporter, io.StringIO]
) -> None:
    labelled(tmp_path, "some", [CLASSES[number % 3] for number in range(6)])
    source = str(tmp_path / "some.csv")
    scores = evaluate(str(classifier), DataConfig(path=source), reporter=reporter[0])
    assert list(scores) == ["some.csv"]
    assert scores["some.csv"]["rows"] == 6
    said = reporter[1].getvalue()
    assert "columns: text 'text', label 'label'" in said
    assert "train" not in said
    assert "same text" not in said


def test_evaluate_of_the_file_that_was_trained_on_scores_what_was_split_off(
    classifier: Path, tmp_path: Path, reporter: tuple[Reporter, io.StringIO]
) -> None:
    rows = {
        "text": [f"a {number} b" for number in range(61)],
        "label": [CLASSES[number % 3] for number in range(61)],
    }
    file = write(tmp_path / "all.csv", {name: column[:60] for name, column in rows.items()})
    with (tmp_path / "more.txt").open("w") as more:
        more.write("a text without a label\n")
    trained = load_texts(DataConfig(path=file, unlabeled=str(tmp_path / "more.txt")))
    run = tmp_path / "run"
    shutil.copytree(classifier, run / "student")
    entries = json.loads((run / "student/config.json").read_text())
    entries["layermix"] = {"taught": trained.taught, "split_off": trained.split_off}
    (run / "student/config.json").write_text(json.dumps(entries))
    (run / "result.json").write_text("{}")
    for model in (run / "student", run):
        scores = evaluate(str(model), DataConfig(path=file), reporter=reporter[0])
        assert {name: one["rows"] for name, one in scores.items()} == {
            "validation": len(trained.splits["validation"])
        }
    assert "is what this model was trained on, so only the tenth" in reporter[1].getvalue()
    beside = load_texts(DataConfig(path=file, validation=file))  # all of it is trained on
    assert beside.taught == trained.taught
    entries["layermix"] = {"taught": beside.taught, "split_off": beside.split_off}
    (run / "student/config.json").write_text(json.dumps(entries))
    scores = evaluate(str(run), DataConfig(path=file), reporter=reporter[0])
    assert scores["all.csv"]["rows"] == 60
    assert "so its scores say nothing of new texts" in reporter[1].getvalue().replace("\n", " ")
    write(tmp_path / "all.csv", rows)
    scores = evaluate(str(run), DataConfig(path=file), reporter=reporter[0])
    assert scores["all.csv"]["rows"] == 61


def test_evaluate_goes_by_the_classes_of_the_model(classifier: Path, tmp_path: Path) -> None:
    """Not by those that happen to stand in the file, nor by their alphabet."""
    for name, labels in {"two": [2, 1, 2, 1], "one": [1, 1, 1, 1]}.items():
        labelled(tmp_path, name, [CLASSES[label] for label in labels])
        write(tmp_path / f"{name}-as-numbers.csv", {"text": TEXTS[:4], "label": labels})
        best = chances(classifier, TEXTS[:4]).argmax(-1)
        for file in (f"{name}.csv", f"{name}-as-numbers.csv"):
            found = evaluate(str(classifier), DataConfig(path=str(tmp_path / file)))[file]
            assert found["accuracy"] == pytest.approx(np.mean(best == labels))
            assert list(found["per_class"]) == list(CLASSES)
            counts = [own["support"] for own in found["per_class"].values()]
            assert counts == [labels.count(label) for label in range(3)]


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
    assert not (tmp_path / "out.csv").exists()


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


def test_evaluate_reads_the_numbers_of_a_known_task_as_the_task_has_them(
    variant: Any, tmp_path: Path
) -> None:
    """Not as indices into classes that the model has in another order."""
    model = Path(variant(id2label={0: "equivalent", 1: "not_equivalent"}, num_labels=2))
    weights = load_file(model / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][:2].contiguous()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    folder = tmp_path / "mrpc"
    folder.mkdir()
    names = ["not_equivalent", "equivalent"]
    found = []
    for labels in (["0", "1", "1", "0", "1", "1"], [names[n] for n in (0, 1, 1, 0, 1, 1)]):
        for split in ("train", "validation"):
            labelled(folder, split, labels)
        found.append(evaluate(str(model), DataConfig(path=str(folder)))["validation"])
    assert found[0] == found[1]
    assert found[0]["per_class"]["equivalent"]["support"] == 4


def test_evaluate_counts_the_rows_that_have_a_label(classifier: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        labelled(tmp_path, split, [CLASSES[number % 3] for number in range(6)])
    labelled(tmp_path, "test", [CLASSES[0], "-1", CLASSES[1], "-1"])
    assert evaluate(str(classifier), DataConfig(path=str(tmp_path)))["test"]["rows"] == 2


def test_evaluate_tells_each_bad_row_once(classifier: Path, tmp_path: Path) -> None:
    write(tmp_path / "bad.csv", {"text": TEXTS[:3], "label": [CLASSES[0], "else", ""]})
    with pytest.raises(DataError) as caught:
        evaluate(str(classifier), DataConfig(path=str(tmp_path / "bad.csv")))
    assert len(caught.value.problems) == 2
    assert "unknown label 'else'; the classes are" in caught.value.problems[0]
    write(tmp_path / "bare.csv", {"text": TEXTS[:2], "label": ["", ""]})
    with pytest.raises(DataError) as caught:
        evaluate(str(classifier), DataConfig(path=str(tmp_path / "bare.csv")))
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        "the label is missing (column 'label')"
    ] * 2


def test_evaluate_other_classes(classifier: Path, tmp_path: Path) -> None:
    labelled(tmp_path, "some", ["yes", "no", "yes", "no"])
    with pytest.raises(ModelError, match="the data have"):
        evaluate(str(classifier), DataConfig(path=str(tmp_path / "some.csv")))


# -- models that cannot be used --


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"problem_type": "multi_label_classification"}, "a head for multi_label_classification"),
        ({"problem_type": "regression"}, "a head for regression with 3"),
        ({"architectures": ["BertModel"]}, "has no classification head"),
    ],
)
def test_heads_that_choose_no_class(
    variant: Any, tmp_path: Path, entries: dict[str, Any], told: str
) -> None:
    source = write(tmp_path / "in.csv", {"text": TEXTS})
    with pytest.raises(ModelError, match=told):
        predict(variant(**entries), source)
