import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
)

from layermix.config import DataConfig
from layermix.errors import ConfigError, DataError, ModelError, RunExistsError
from layermix.predict import evaluate, predict, scores_text
from layermix.progress import Reporter

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


def test_the_tokenizers_length_holds_and_is_told(
    classifier: Path, tmp_path: Path, reporter: tuple[Reporter, io.StringIO]
) -> None:
    source = write(tmp_path / "in.csv", {"text": ["a b c d", "a b c d e f g", "a"]})
    predict(str(classifier), source, str(tmp_path / "out.jsonl"), reporter=reporter[0])
    four, seven, _ = read(tmp_path / "out.jsonl")
    assert four["p_2"] == seven["p_2"]
    assert (
        "the input: 33.3% of the rows are longer than 6 tokens and were cut"
        in reporter[1].getvalue()
    )


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
    source.write_text("text\na\n \n", encoding="utf-8")
    with pytest.raises(DataError, match=r"in\.csv:3: the text is empty"):
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
    assert "were put in the data's order" in reporter[1].getvalue()
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
