"""Searches in results/: their records are read, and their cells still give the same verdict."""

from pathlib import Path

import pytest

from layermix.search.judge import floor_verdict, read_answers
from layermix.search.schema import ANSWERS, SUFFIX, SearchRecord
from layermix.studies.cells import gather
from layermix.studies.folder import Study
from layermix.studies.schema import PlanRecord

COMMITTED = sorted((Path(__file__).parents[3] / "results").glob(f"*/*{SUFFIX}"))


def test_there_are_committed_searches() -> None:
    assert len(COMMITTED) >= 4


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_the_cells_of_a_committed_search_give_its_verdict(file: Path) -> None:
    record = SearchRecord.from_json(file.read_text("utf-8"))
    assert record.status == "ok"
    assert record.verdict is not None
    assert record.inputs is not None
    study = Study(file.parent, f"{record.settings.name}-last")
    plan = PlanRecord.from_json(study.plan_file.read_text("utf-8")).plan()
    cells = gather(plan, study)
    (arm,) = [arms[str(record.chosen)] for arms in cells.arms.values()]
    assert record.looks[-1].cells == tuple(one.cell.name for one in arm.cells.values())
    assert {one.result.teacher.fingerprint for one in cells} == {record.inputs.teacher}
    assert {one.result.data.fingerprint for one in cells} == {record.inputs.data}
    answers = None
    if record.settings.int8:
        answers = read_answers(file.with_name(f"{record.settings.name}{ANSWERS}"), arm)
    metric, floor = record.verdict.metric, record.verdict.floor
    found = floor_verdict(arm, metric, floor, answers).model_dump()
    kept = record.verdict.model_dump()
    assert found.keys() == kept.keys()
    for name, value in kept.items():
        assert found[name] == (value if isinstance(value, str | bool) else pytest.approx(value))
