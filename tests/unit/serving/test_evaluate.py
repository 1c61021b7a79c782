"""Scores of a model on labelled rows are those of its classes."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from layermix.config import DataConfig
from layermix.console import Reporter
from layermix.data.texts import load_texts
from layermix.errors import DataError, ModelError
from layermix.serving.evaluate import evaluate, scores_text

from .conftest import CLASSES, TEXTS, chances, labelled, write


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
    entries["layermix"] = {"taught": trained.train_hash, "split_off": trained.split_off}
    (run / "student/config.json").write_text(json.dumps(entries))
    (run / "result.json").write_text("{}")
    for model in (run / "student", run):
        scores = evaluate(str(model), DataConfig(path=file), reporter=reporter[0])
        assert {name: one["rows"] for name, one in scores.items()} == {
            "validation": len(trained.splits["validation"])
        }
    assert "so only the rows that were held out for validation are scored" in reporter[1].getvalue()
    beside = load_texts(DataConfig(path=file, validation=file))  # all of it is trained on
    assert beside.train_hash == trained.train_hash
    entries["layermix"] = {"taught": beside.train_hash, "split_off": beside.split_off}
    (run / "student/config.json").write_text(json.dumps(entries))
    scores = evaluate(str(run), DataConfig(path=file), reporter=reporter[0])
    assert scores["all.csv"]["rows"] == 60
    assert "so the scores do not show how it does on new texts" in reporter[1].getvalue().replace(
        "\n", " "
    )
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


def test_evaluate_gives_an_integer_one_meaning_whichever_labels_the_file_lacks(
    variant: Any, tmp_path: Path, reporter: tuple[Reporter, io.StringIO]
) -> None:
    model = variant(id2label={0: "1 star", 1: "2 stars", 2: "3 stars"})
    best = chances(Path(model), TEXTS).argmax(-1)
    for labels in ([1, 2, 3, 1, 2, 3], [1, 2, 2, 1, 2, 2]):
        labelled(tmp_path, "some", [str(label) for label in labels])
        data = DataConfig(path=str(tmp_path / "some.csv"))
        found = evaluate(model, data, reporter=reporter[0])["some.csv"]
        assert found["accuracy"] == pytest.approx(np.mean(best == np.asarray(labels) - 1))
    assert "by the number in the name: '1' = '1 star', '2' = '2 stars'" in (
        " ".join(reporter[1].getvalue().split())
    )


def test_evaluate_has_the_options_of_training(classifier: Path, tmp_path: Path) -> None:
    lines = [f"{text};{n % 3}\n" for n, text in enumerate([*TEXTS[:5], "café"])]
    (tmp_path / "some.csv").write_bytes(("".join(lines) + "nothing;-1\n").encode("cp1252"))
    data = {
        "path": str(tmp_path / "some.csv"),
        "header": False,
        "encoding": "cp1252",
        "text_columns": "1",
        "label_column": "2",
        "label_names": list(CLASSES),
        "skip_labels": "-1",
    }
    scores = evaluate(str(classifier), DataConfig.model_validate(data))
    assert scores["some.csv"]["rows"] == 6


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
