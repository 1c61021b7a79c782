"""Records of studies: the committed ones are read, and their cells still show the same."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from layermix.runs.schema import FORMAT
from layermix.studies.analysis import analyse
from layermix.studies.declarations import read_declarations
from layermix.studies.folder import PLAN_SUFFIX, Study
from layermix.studies.plan import Plan
from layermix.studies.schema import DeclarationsRecord, PlanRecord, StudyRecord

from ...spoiled import spoiled_json
from ...study_folders import make

RESULTS = Path(__file__).parents[3] / "results"
COMMITTED = [
    Study(file.parent, file.name.removesuffix(PLAN_SUFFIX))
    for file in sorted(RESULTS.glob(f"*/*{PLAN_SUFFIX}"))
]


def plan_of(study: Study) -> Plan:
    return PlanRecord.from_json(study.plan_file.read_text("utf-8")).plan()


def without_new_fields(value: Any) -> Any:
    """A record as format 0 had it: notes are texts, no agreement, nor why a verdict may change."""
    if isinstance(value, list):
        return [without_new_fields(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"code", "text"}:
        return value["text"]
    new = ("format", "preliminary", "agreement")
    return {key: without_new_fields(each) for key, each in value.items() if key not in new}


def test_there_are_committed_studies() -> None:
    records = [StudyRecord.from_json(one.results_file.read_text("utf-8")) for one in COMMITTED]
    plans = [PlanRecord.from_json(one.plan_file.read_text("utf-8")) for one in COMMITTED]
    assert len(COMMITTED) == 45
    for kind in (records, plans):  # older ones are read, too
        assert [record.format for record in kind].count(0) == 9


@pytest.mark.parametrize("study", COMMITTED, ids=lambda study: study.name)
def test_the_cells_of_a_committed_study_show_what_its_record_says(study: Study) -> None:
    """Every number, verdict, sentence and note."""
    written = StudyRecord.from_json(study.results_file.read_text("utf-8"))
    record = analyse(plan_of(study), study)
    found, expected = record.to_dict(), written.to_dict()
    if written.format == 0:
        found, expected = without_new_fields(found), without_new_fields(expected)
    for ours, theirs in zip(found["family"], expected["family"], strict=True):
        for each in (ours, theirs):  # the only numbers that depend on the order of a sum
            each["stochastic_order"] = pytest.approx(each["stochastic_order"])
    assert found == expected


@pytest.mark.parametrize("study", COMMITTED, ids=lambda study: study.name)
def test_the_plan_and_the_declarations_of_a_committed_study_are_read(study: Study) -> None:
    record = PlanRecord.from_json(study.plan_file.read_text("utf-8"))
    again = PlanRecord.of(record.plan())
    assert again == record.model_copy(update={"format": FORMAT})
    assert PlanRecord.from_json(again.to_json()) == again
    declarations = read_declarations(study)
    assert declarations
    pairs = declarations[-1].judged.pairs
    assert [(pair.task, *pair.arms) for pair in pairs] == record.plan().judged
    rewritten = DeclarationsRecord(format=FORMAT, declarations=declarations)
    assert DeclarationsRecord.from_json(rewritten.to_json()) == rewritten


@pytest.mark.parametrize("kind", [PlanRecord, DeclarationsRecord, StudyRecord])
def test_a_record_of_a_later_version_is_refused(kind: Any) -> None:
    with pytest.raises(ValidationError, match="format"):
        kind.from_json(f'{{"format": {FORMAT + 1}}}')


# -- plans of others -------------------------------------------------------------------------------

CELL = {"name": "0123456789ab", "task": "task", "arm": "fixed", "seed": 0}


def plan_text(study: Any = None, **cell: Any) -> str:
    given = {"arms": {"fixed": {}}} if study is None else study
    return json.dumps({"format": 1, "study": given, "cells": [CELL | cell]})


def test_a_plan_of_others_is_read() -> None:
    assert PlanRecord.from_json(plan_text()).plan().cells[0].arm == "fixed"


@pytest.mark.parametrize(
    "text",
    [
        plan_text(name="../../secret"),
        plan_text(name="/etc"),
        plan_text(name="0123456789ab\n"),
        plan_text(task="another"),
        plan_text(arm="another"),
        plan_text(seed=10**30),
        plan_text({"arms": {"fixed": {}}, "base": {"data": math.inf}}),
        plan_text({"arms": {"fixed": {}}, "seeds": 10**9}),
        plan_text({"arms": {"fixed": {}}, "axes": {"mix": ["fixed"], "mix.start": ["diagonal"]}}),
        plan_text({"arms": {"fixed": {}}, "axes": {f"a{n}": [1] * 100 for n in range(100)}}),
        "[" * 100_000,
        '{"format": 1, "cells": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"format": ' + "9" * 5000 + "}",
        "[]",
        "",
    ],
    ids=lambda text: text[:60],
)
def test_a_hostile_plan_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # pydantic's words
        PlanRecord.from_json(text)


NAMES = ["../x", "/x", "", ".", "fixed", "mrpc", "seeds", "mix.start", "\x1b[2J", "x" * 300]
VALID = PlanRecord.of(
    make(family=[["learned", "fixed"]], seeds=2, axes={"loss.logit_weight": [0, 1]})
).to_json()


def is_refused_or_holds(data: Any) -> None:
    """Readers can use the plan that they believe."""
    text = data.draw(spoiled_json(VALID, NAMES)).decode("utf-8", "replace")
    try:
        record = PlanRecord.from_json(text)
    except ValueError:
        return
    assert PlanRecord.from_json(record.to_json()) == record
    found, study = record.plan(), Study(Path("study"))
    assert {cell.name for cell in found.runs.values()} == {cell.name for cell in record.cells}
    assert all(study.filed(name).parent == Path("study/cells") for name in found.runs)
    assert sum(len(c) for arms in found.table.values() for c in arms.values()) <= len(record.cells)
    assert all(found.seeds_of_both(*pair) >= 0 for pair in found.judged)
    assert analyse(found, study).cells.finished == 0


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_spoiled_plan_is_refused_or_holds(data: Any) -> None:
    is_refused_or_holds(data)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=3000, deadline=None)
def test_three_thousand_spoiled_plans_are_refused_or_hold(data: Any) -> None:
    is_refused_or_holds(data)
