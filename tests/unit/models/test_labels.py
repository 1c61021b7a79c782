"""Classes are matched by name; a head that does not fit is replaced or refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertTokenizer

from layermix.errors import ModelError, Note
from layermix.models.encoder import Classifier
from layermix.models.labels import align_labels
from layermix.models.loading import load_classifier

from .conftest import Bert

TEXTS = ("a b c", "x y z z")


def logits(classifier: Classifier) -> Tensor:
    batch = classifier.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    with torch.no_grad():
        found: Tensor = classifier.model.eval()(**batch).logits
    return found


@pytest.mark.parametrize("seed", [None, 0], ids=["as a teacher", "as a student"])
def test_classes_in_another_order_are_aligned_by_name(
    folder: Callable[..., Path], seed: int | None
) -> None:
    path = folder(("red", "green", "blue"))
    plain = load_classifier(str(path))
    assert plain.notes == ()
    aligned = load_classifier(str(path), ("blue", "red", "green"), seed=seed)
    assert torch.equal(logits(aligned), logits(plain)[:, [2, 0, 1]])
    assert not torch.equal(logits(aligned), logits(plain))
    assert aligned.label_names == ("blue", "red", "green")
    assert aligned.model.config.label2id == {"blue": 0, "red": 1, "green": 2}
    assert aligned.notes == (
        Note(
            "classes-reordered",
            f"{path}: its classes ['red', 'green', 'blue'] were reordered to the data's order "
            "['blue', 'red', 'green']",
        ),
    )
    assert not aligned.new_head
    assert align_labels(aligned, ("blue", "red", "green")) is aligned


def test_unnamed_classes_match_by_index_and_a_note_says_so(folder: Callable[..., Path]) -> None:
    path = folder(("LABEL_0", "LABEL_1"))
    plain = load_classifier(str(path))
    aligned = load_classifier(str(path), ("yes", "no"))
    assert torch.equal(logits(aligned), logits(plain))
    assert aligned.label_names == ("yes", "no")
    assert aligned.notes == (
        Note(
            "classes-matched",
            f"{path}: its classes match the data's by position: 'LABEL_0' = 'yes', "
            "'LABEL_1' = 'no'",
        ),
    )


def test_numbered_data_match_a_named_model_by_index(folder: Callable[..., Path]) -> None:
    aligned = load_classifier(str(folder()), ("0", "1"))
    assert aligned.notes[0].text.endswith("match the data's by index: 'no' = '0', 'yes' = '1'")


def test_names_that_differ_in_capitals_match_and_the_data_name_the_classes(
    folder: Callable[..., Path],
) -> None:
    path = folder(("NEGATIVE", "POSITIVE"))
    aligned = load_classifier(str(path), ("positive", "negative"))
    assert torch.equal(logits(aligned), logits(load_classifier(str(path)))[:, [1, 0]])
    assert aligned.label_names == ("positive", "negative")
    assert aligned.notes == (
        Note(
            "classes-matched",
            f"{path}: its classes match the data's by name, ignoring case: 'POSITIVE' = "
            "'positive', 'NEGATIVE' = 'negative'",
        ),
    )


def test_integers_match_the_numbers_in_names(folder: Callable[..., Path]) -> None:
    path = folder(("3 stars", "1 star", "2 stars"))
    aligned = load_classifier(str(path), ("1", "2", "3"))
    assert torch.equal(logits(aligned), logits(load_classifier(str(path)))[:, [1, 2, 0]])


@pytest.mark.parametrize(
    ("own", "names"),
    [
        (("no", "yes"), ("1", "2")),
        (("LABEL_0", "LABEL_1"), ("1", "2")),
        (("1 star", "2 stars"), ("0", "1")),
        (("1 star", "2 stars", "3 stars"), ("1", "2")),
        (("YES", "no"), ("Yes", "yes")),
    ],
)
def test_integers_are_never_matched_by_their_rank(
    folder: Callable[..., Path], own: tuple[str, ...], names: tuple[str, ...]
) -> None:
    with pytest.raises(ModelError, match="the data have") as caught:
        load_classifier(str(folder(own)), names)
    assert ("--data.label_names LABEL=CLASS" in str(caught.value)) == (len(own) == len(names))


def test_booleans_are_names_for_every_command(folder: Callable[..., Path]) -> None:
    path = folder((False, True))
    assert json.loads((path / "config.json").read_text())["id2label"] == {"0": False, "1": True}
    assert load_classifier(str(path)).label_names == ("False", "True")
    assert load_classifier(str(path), ("True", "False")).label_names == ("True", "False")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("x", "x"), "several of its 2 classes are called 'x'; give each its own name"),
        (("x", " x"), "several of its 2 classes are called 'x'"),
        (
            ("\ud800x", "y"),
            "the class names in its config.json: the label '\\ud800x' contains half",
        ),
        (("", "y"), "the class names in its config.json: the label is missing"),
    ],
)
def test_classes_without_a_name_of_their_own_are_refused(
    folder: Callable[..., Path], names: tuple[str, ...], told: str
) -> None:
    path = folder()
    config = json.loads((path / "config.json").read_text())
    config["id2label"] = dict(enumerate(names))
    (path / "config.json").write_text(json.dumps(config))
    for wanted in (None, ("a", "b")):
        with pytest.raises(ModelError) as caught:
            load_classifier(str(path), wanted)
        assert told in str(caught.value)


@pytest.mark.parametrize("names", [("no", "maybe"), ("no", "yes", "maybe")], ids=["names", "count"])
def test_other_classes_are_refused_of_a_teacher(
    folder: Callable[..., Path], names: tuple[str, ...]
) -> None:
    path = folder()
    with pytest.raises(
        ModelError, match=r"has the classes \['no', 'yes'\], the data have \['no', .*\]; fine-tune"
    ):
        load_classifier(str(path), names)
    with pytest.raises(ModelError, match=r"has the classes \['no', 'yes'\], the data have"):
        align_labels(load_classifier(str(path)), names)


def test_a_model_with_more_classes_than_occur_says_how_to_name_them(
    folder: Callable[..., Path],
) -> None:
    path = folder(("red", "green", "blue"))
    with pytest.raises(ModelError, match=r"name all .* with --data\.label_names red,green,blue$"):
        load_classifier(str(path), ("blue", "red"))
    with pytest.raises(ModelError) as error:
        load_classifier(str(path), ("blue", "pink"))
    assert "label_names" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "name"), [("multi_label_classification", "multi_label"), ("regression", "regression")]
)
def test_a_head_that_chooses_no_class_is_no_teacher_and_is_restarted_in_a_student(
    folder: Callable[..., Path], kind: str, name: str
) -> None:
    saved = folder()
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"problem_type": kind}))
    names = [config["id2label"][str(number)] for number in range(len(config["id2label"]))]
    with pytest.raises(
        ModelError, match=f"has a head for {name} with 2 output.s., and the labels of the"
    ):
        load_classifier(str(saved), names)
    student = load_classifier(str(saved), names, seed=1)
    assert student.new_head
    assert student.model.config.problem_type == "single_label_classification"


@pytest.mark.parametrize("names", [("no", "maybe"), ("no", "yes", "maybe")], ids=["names", "count"])
def test_a_student_with_other_classes_gets_a_new_head(
    folder: Callable[..., Path], names: tuple[str, ...]
) -> None:
    path = folder()
    old, new = load_classifier(str(path)), load_classifier(str(path), names, seed=0)
    assert new.label_names == names
    assert new.new_head
    assert new.start == {"kind": "model", "from": str(path), "new_head": True}
    assert new.notes == (
        Note(
            "new-head",
            f"{path}: has the classes ['no', 'yes']; a new head was initialised for {list(names)}",
        ),
    )
    assert new.model.classifier.weight.shape == (len(names), 16)
    assert (new.model.classifier.bias == 0).all()
    assert not torch.equal(new.model.classifier.weight[:2], old.model.classifier.weight)
    assert torch.equal(  # the rest is what was saved
        new.model.bert.pooler.dense.weight, old.model.bert.pooler.dense.weight
    )


def test_an_encoder_without_a_head(base: Path) -> None:
    with pytest.raises(ModelError, match=r"has no classification head, the data have \['no', 'y"):
        load_classifier(str(base), ["no", "yes"])
    with pytest.raises(ModelError, match="base: has no classification head; fine-tune it on these"):
        load_classifier(str(base))
    student = load_classifier(str(base), ["no", "yes"], seed=0)
    assert student.start["new_head"]
    assert student.label_names == ("no", "yes")
    assert student.notes[0].text.endswith(
        "no classification head; a new head was initialised for ['no', 'yes']"
    )


@pytest.mark.parametrize("kind", ["other classes", "no head"])
def test_a_new_head_comes_from_the_seed_alone(
    folder: Callable[..., Path], base: Path, kind: str
) -> None:
    path, names = str(base if kind == "no head" else folder()), ["a", "b"]
    heads = []
    for state, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(state)
        before = torch.random.get_rng_state()
        model = load_classifier(path, names, seed=seed).model
        assert torch.equal(torch.random.get_rng_state(), before), "the global state has moved"
        heads.append(model.classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_head_that_is_not_the_configs_cannot_be_aligned(
    bert: Bert, tokenizer: BertTokenizer
) -> None:
    model = bert(2)
    model.config.id2label = {0: "a", 1: "b", 2: "c"}
    with pytest.raises(ModelError, match="no linear layer with 3 outputs found"):
        align_labels(Classifier(model, tokenizer, "MODEL"), ("c", "b", "a"))
