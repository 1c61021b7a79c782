"""What a run on a node of a cluster is given; tests/cli/test_ray.py has a cluster."""

import pytest

pytest.importorskip("ray", reason="the extra ray is not installed")

from layermix.console import STOP_WITH_PARENT
from layermix.launch import world_size
from layermix.studies.ray_tasks import environment


def test_a_run_is_not_part_of_what_started_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMI_SIZE", "3")  # `srun … ray start`
    monkeypatch.setenv("PMI_RANK", "2")
    assert world_size() == 3
    given = environment({"OMP_NUM_THREADS": "4"})
    assert not {"PMI_SIZE", "PMI_RANK"} & given.keys()
    assert given["OMP_NUM_THREADS"] == "4"
    assert given[STOP_WITH_PARENT]
    assert "PATH" in given
