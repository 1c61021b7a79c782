"""The demo's number of training pairs on faster and slower machines."""

import pytest

from layermix import demo


@pytest.mark.parametrize(
    ("seconds", "rows"), [(1e-3, 1500), (0.3, 1000), (0.6, 400), (60.0, demo.FEWEST_ROWS)]
)
def test_rows_are_chosen_so_that_the_demo_ends_in_time(seconds: float, rows: int) -> None:
    chosen = demo.affordable_rows(seconds)
    assert chosen == rows
    assert chosen % 2 == 0  # half of each label
    ends_in_time = demo.minutes(chosen, seconds) <= demo.MINUTES
    assert ends_in_time or chosen == demo.FEWEST_ROWS
    assert chosen == demo.TRAIN_ROWS or demo.minutes(chosen + 100, seconds) > demo.MINUTES
