"""Which process of a run this is."""

import pytest

from layermix.launch import ENGINES, NUMBERS, SIZES, is_main, launch_problems, rank, world_size


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NUMBERS, *SIZES, *ENGINES, "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_of_its_own_is_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    monkeypatch.setenv("RANK", "3")  # as some machines of a cluster have it
    assert (rank(), world_size(), is_main()) == (0, 1, True)


@pytest.mark.parametrize(("number", "size"), [*zip(NUMBERS, SIZES, strict=True)])
def test_each_launcher_is_understood(
    monkeypatch: pytest.MonkeyPatch, number: str, size: str
) -> None:
    monkeypatch.setenv(number, "2")
    monkeypatch.setenv(size, "4")
    assert (rank(), world_size(), is_main()) == (2, 4, False)


def test_all_that_is_not_done_here_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch_problems() == []
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    first, second = launch_problems()
    assert "launched for FSDP" in first
    assert "--mixed_precision fp16" in second
