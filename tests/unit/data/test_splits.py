"""Rows are held out and taken by a hash of their text alone."""

from typing import Any

import datasets
import pytest

from layermix.data.splits import folds_of, hold_out, take, texts_of
from layermix.data.texts import TextData, from_splits
from layermix.errors import DataError

from .conftest import problems_of


def numbered(count: int) -> datasets.Dataset:
    of = [{"text": f"text {n // 2}", "text_pair": f"pair {n % 2}"} for n in range(count)]
    return from_splits(
        {
            "train": [{**row, "label": n % 2} for n, row in enumerate(of)],
            "dev": [{**of[0], "label": 0}],
        }
    ).splits["train"]


def test_hold_out_depends_on_the_text_alone() -> None:
    split = numbered(400)
    kept, held = hold_out(split, 0.2)
    assert len(kept) + len(held) == 400
    assert 50 < len(held) < 110
    mixed = split.shuffle(seed=1)
    assert set(texts_of(hold_out(mixed, 0.2)[1])) == set(texts_of(held))
    some = split.select(range(0, 400, 3))
    assert set(texts_of(hold_out(some, 0.2)[1])) == set(texts_of(held)) & set(texts_of(some))
    assert set(texts_of(held)) < set(texts_of(hold_out(split, 0.4)[1]))
    assert held["row_id"][:] == sorted(held["row_id"])


def test_hold_out_keeps_equal_texts_together_and_refuses_an_empty_part() -> None:
    split = datasets.concatenate_datasets([numbered(100), numbered(100)])
    kept, held = hold_out(split, 0.3)
    assert not set(texts_of(kept)) & set(texts_of(held))
    for fraction, left in ((1e-9, "none in the held-out part"), (1 - 1e-9, "none to train on")):
        (problem,) = problems_of(lambda fraction=fraction: hold_out(numbered(8), fraction))
        assert left in problem
        assert "of 8 training row(s)" in problem
        assert problem.endswith("give another --training.holdout_fraction, or more rows")


def test_rows_are_left_to_hold_out_once_validation_is_split_off() -> None:
    of = [{"text": f"text {n}", "label": n % 2} for n in range(300)]
    found = from_splits({"train": of})
    train, validation = found.splits["train"], found.splits["validation"]
    kept, held = hold_out(train, 0.1)  # as large a share, which one hash would leave empty
    assert 15 <= len(held) <= 45
    parts = [set(texts_of(part)) for part in (kept, held, validation)]
    assert set.union(*parts) == {(row["text"],) for row in of}
    assert sum(map(len, parts)) == 300
    with pytest.raises(DataError, match="leaves none in the held-out part"):
        hold_out(train, 0.1, "validation")


def test_take_draws_the_same_rows_whatever_their_order() -> None:
    split = numbered(100)
    ten = take(split, 10)
    assert len(ten) == 10
    assert ten["row_id"][:] == sorted(ten["row_id"])
    assert set(texts_of(take(split.shuffle(seed=3), 10))) == set(texts_of(ten))
    assert set(texts_of(ten)) < set(texts_of(take(split, 20)))
    assert set(texts_of(ten)) != set(texts_of(split)[:10])
    assert len(take(split, 100)) == 100
    assert problems_of(lambda: take(split, 101)) == [
        "--data.train_rows asks for 101 rows, there are 100; ask for fewer"
    ]


def test_take_and_hold_out_draw_by_different_hashes() -> None:
    split = numbered(400)
    held = hold_out(split, 0.2)[1]
    taken = take(split, len(held))
    assert set(texts_of(taken)) != set(texts_of(held))


def grouped(count: int, **options: Any) -> TextData:
    """Rows of `count` authors, three each; no validation split."""
    rows = [
        {"text": f"text {n} {author}", "label": n % 2, "author": f" writer {author}"}
        for n in range(3)
        for author in range(count)
    ]
    return from_splits({"train": rows, **options}, group_column="author")


def test_groups_stay_together() -> None:
    texts = grouped(60)
    train, validation = (texts.splits[split] for split in ("train", "validation"))
    assert len(train) + len(validation) == 180
    assert len(validation) % 3 == 0
    assert not set(train["group"][:]) & set(validation["group"][:])
    assert "writer 7" in train["group"][:] + validation["group"][:]
    kept, held = hold_out(train, 0.2)
    assert held["group"][:]
    assert not set(kept["group"][:]) & set(held["group"][:])
    folds = dict.fromkeys(zip(train["group"][:], folds_of(train, 4), strict=True))
    assert len(folds) == len(set(train["group"][:]))
    assert texts.group_column == "author"
    told = [note.text for note in texts.notes]
    assert any("chosen by a hash of their group, were split off" in text for text in told)
    assert any("groups 'author'" in text for text in told)


def test_groups_on_both_sides_are_told() -> None:
    rows = [{"text": f"new {n}", "label": n % 2, "author": f"writer {n}"} for n in range(58, 63)]
    texts = grouped(60, validation=rows)
    told = [note.text for note in texts.notes if note.code == "groups-shared"]
    assert told == ["validation shares 2 of its groups with train (data.group_column)"]
    plain = [{"text": "new", "label": 1}]
    assert not [note for note in grouped(60, validation=plain).notes if "shared" in note.code]


def test_faults_of_groups() -> None:
    rows = [{"text": f"text {n}", "label": n % 2, "author": "a" if n else " "} for n in range(3)]
    rows[1]["author"] = None
    splits = {"train": rows, "validation": rows[:1]}
    assert problems_of(lambda: from_splits(splits, group_column="author")) == [
        "memory[train]: row 1: the group is missing (column 'author')",
        "memory[train]: row 2: the group is missing (column 'author')",
        "memory[validation]: row 1: the group is missing (column 'author')",
    ]
    assert problems_of(lambda: from_splits(splits, group_column="book"))[0].startswith(
        "memory[train]: no column 'book' for groups; the columns are 'text', 'label', 'author'"
    )
    one = grouped(60).splits["train"].select([5])
    assert problems_of(lambda: hold_out(one, 0.5))[0].startswith(
        "holding out 50% of 1 training row(s), by a hash of their group, leaves none"
    )
