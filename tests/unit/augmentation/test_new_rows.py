"""New rows: from training rows alone, without labels, the same every time."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.augmentation import new_rows
from layermix.augmentation.new_rows import EACH, with_new_rows
from layermix.config import DataConfig
from layermix.data.splits import texts_of
from layermix.data.texts import TextData, from_splits
from layermix.errors import ConfigError
from layermix.evaluation.metrics import UNLABELLED
from layermix.models.encoder import Classifier

LETTERS = "abcdefghijklmnopqrst"


@pytest.fixture
def teacher(
    bert: Callable[..., BertForSequenceClassification], tokenizer: BertTokenizer
) -> Classifier:
    return Classifier(bert(2, 16), tokenizer, "teacher")


def pairs(**extra: list[dict[str, Any]]) -> TextData:
    rows = [
        {"text": f"{one} {two} x", "text_pair": f"{two} {one} y", "label": n % 2}
        for n, (one, two) in enumerate(pairwise(LETTERS))
    ]
    return from_splits({"train": rows, "validation": [HELD, OTHER], **extra})


HELD = {"text": "a b x", "text_pair": "w w", "label": 0}  # its first text is in train, too
OTHER = {"text": "u u", "text_pair": "b c z", "label": 1}


def made(texts: TextData, teacher: Classifier, **config: Any) -> TextData:
    return with_new_rows(texts, teacher, DataConfig.model_validate({"path": "x", **config}))


def test_without_the_setting_nothing_is_made(teacher: Classifier) -> None:
    texts = pairs()
    assert made(texts, teacher) is texts


def test_ways_without_a_number_of_rows_are_refused(teacher: Classifier) -> None:
    with pytest.raises(ConfigError, match="no effect without the number of rows"):
        made(pairs(), teacher, augment_ways="swap")


def test_new_rows_have_no_label_and_are_new_and_the_same_every_time(teacher: Classifier) -> None:
    texts = pairs()
    wanted = {"augment": 60, "augment_ways": "neighbours,words,swap"}
    found = made(texts, teacher, **wanted)
    rows = found.splits["unlabeled"]
    new = texts_of(rows)
    assert len(new) == len(set(new)) == 58  # 18 rows can be swapped
    assert set(rows["label"][:]) == {UNLABELLED}
    assert set(new).isdisjoint(texts_of(texts.splits["train"]))
    ids = [row for split in found.splits.values() for row in split["row_id"][:]]
    assert len(ids) == len(set(ids))
    assert texts_of(made(pairs(), teacher, **wanted).splits["unlabeled"]) == new
    (note,) = set(found.notes) - set(texts.notes)
    assert note.text == (
        "58 new rows without labels from 18 training rows: 20 by neighbours, 20 by words, 18 by "
        "swap; 60 were asked for, but no more different ones could be made"
    )


def test_auto_is_five_rows_for_each_and_no_more_than_a_limit(
    teacher: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made(pairs(), teacher, augment=0).notes == pairs().notes
    found = made(pairs(), teacher, augment="auto")
    assert len(found.splits["unlabeled"]) == EACH * 18
    monkeypatch.setattr(new_rows, "MOST", 20)
    assert len(made(pairs(), teacher, augment="auto").splits["unlabeled"]) == 20


def test_no_text_of_another_split_is_in_a_new_row(teacher: Classifier) -> None:
    held = {part for row in (HELD, OTHER) for part in (row["text"], row["text_pair"])}
    for ways in ("neighbours", "words", "swap", "crops"):
        found = made(pairs(), teacher, augment=200, augment_ways=ways)
        parts = {part for text in texts_of(found.splits["unlabeled"]) for part in text}
        assert len(parts) > 10
        assert parts.isdisjoint(held)


def test_rows_without_labels_of_the_users_own_are_kept_before_them(teacher: Classifier) -> None:
    own = [{"text": "k k", "text_pair": "l l"}]
    found = made(pairs(unlabeled=own), teacher, augment=4)
    assert texts_of(found.splits["unlabeled"])[0] == ("k k", "l l")
    assert len(found.splits["unlabeled"]) == 5
    as_they_are = made(pairs(unlabeled=own), teacher, augment="auto")
    assert len(as_they_are.splits["unlabeled"]) == 1
    assert (
        as_they_are.split_notes[-1].text == "no new rows are made beside your 1 rows without labels"
    )


def test_what_cannot_be_done_is_told(
    teacher: Classifier, texts: Callable[..., TextData], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="swap needs pairs of texts, and these are single"):
        made(texts(), teacher, augment=4, augment_ways="swap")
    few = from_splits({"train": [HELD, {**OTHER, "label": 1}], "validation": [HELD]})
    with pytest.raises(ConfigError, match="no text with validation or test rows, and there are 1"):
        made(few, teacher, augment=4)
    same = [{"text": f"{a} x", "text_pair": f"{a} x", "label": n % 2} for n, a in enumerate("abcd")]
    alike = from_splits({"train": same, "validation": [HELD]})
    with pytest.raises(ConfigError, match="no new row could be made from 4 training rows by swap"):
        made(alike, teacher, augment=4, augment_ways="swap")
    for given, ways in ((few, None), (alike, "swap")):  # auto goes on, and says so
        found = made(given, teacher, augment="auto", augment_ways=ways)
        assert found.splits == given.splits
        assert found.split_notes[-1].code == "no-new-rows"
    monkeypatch.setattr(type(teacher.tokenizer), "is_fast", False)
    with pytest.raises(ConfigError, match="words needs a fast tokenizer, and teacher has none"):
        made(pairs(), teacher, augment=4, augment_ways="words")
    assert "words" not in str(made(pairs(), teacher, augment=4).split_notes[-1])


def test_single_texts_are_cropped_too(texts: Callable[..., TextData], teacher: Classifier) -> None:
    found = made(texts(30), teacher, augment=30)
    assert found.split_notes[-1].text.endswith("10 by neighbours, 10 by words, 10 by crops")
