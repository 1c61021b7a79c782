"""Actions are timed in turns."""

import time

import pytest

from layermix.models.latency import seconds_in_turns


def test_every_item_goes_through_all_actions_before_the_next() -> None:
    calls: list[tuple[str, int]] = []

    def slow(item: int) -> None:
        calls.append(("slow", item))
        time.sleep(0.02)

    seconds = seconds_in_turns(
        {"slow": slow, "quick": lambda item: calls.append(("quick", item))}, [4, 5]
    )
    assert calls == [("slow", 4), ("quick", 4), ("slow", 5), ("quick", 5)]
    assert list(seconds) == ["slow", "quick"]
    assert seconds["slow"].shape == (2,)
    assert seconds["slow"].min() >= 0.02


def test_an_error_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        seconds_in_turns({"a": lambda item: 1 / item}, [0])
