"""Rows are held out and taken by a hash of their text alone."""

import datasets
import pytest

from layermix.data.splits import hold_out, take, texts_of
from layermix.data.texts import from_splits
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
