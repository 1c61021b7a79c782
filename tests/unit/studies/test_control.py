"""The student without a teacher that --baselines adds: which cells, under which names, and when."""

from typing import Any

import pytest

from layermix.config import DistillConfig
from layermix.errors import ConfigError
from layermix.studies import spec
from layermix.studies.control import with_control
from layermix.studies.plan import make_plan
from layermix.studies.schema import PlanRecord
from layermix.studies.spec import StudyConfig

ALONE = {"loss": {"logit_weight": 0, "hidden_weight": 0}}
GIVEN: dict[str, Any] = {
    "base": {"teacher": "T", "student": {"layers": 2}},
    "tasks": {"a": {"data": "A"}, "b": {"data": "B", "seeds": [4]}},
    "arms": {"learned": {"mix": "learned", "seeds": 3}, "other": {"student": {"layers": 1}}},
    "seeds": 2,
    "family": [["learned", "other"]],
}


def study(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate(GIVEN | changes)


def cells(found: StudyConfig) -> dict[tuple[str, str, int], str]:
    return {(cell.task, cell.arm, cell.seed): cell.name for cell in make_plan(found, None).cells}


def added(given: StudyConfig) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The cells that are new; all others are what they were."""
    found, old = with_control(given)[0], cells(given)
    new = cells(found)
    assert {key: new[key] for key in old} == old
    assert found.family == given.family
    return {
        (cell.task, cell.arm, cell.seed): dict(cell.content)
        for cell in make_plan(found, None).cells
        if (cell.task, cell.arm, cell.seed) not in old
    }


def test_it_is_the_first_arm_without_a_teacher_with_its_seeds_and_last() -> None:
    found = added(study())
    assert list(found) == [(task, "ce_only", seed) for seed in range(3) for task in "ab"]
    for (task, _, seed), content in found.items():
        first = next(
            cell
            for cell in make_plan(study(), None).cells
            if (cell.task, cell.arm, cell.seed) == (task, "learned", seed)
        ).content
        without = {**content["loss"], "logit_weight": 1.0, "hidden_weight": 10.0}
        assert content | {"loss": without} == first
        assert not DistillConfig.model_validate(content).loss.asks_teacher
    plan = make_plan(with_control(study())[0], None)
    assert [list(arms) for arms in plan.table.values()] == [["learned", "other", "ce_only"]] * 2
    assert PlanRecord.from_json(PlanRecord.of(plan).to_json()).plan().table.keys() == {"a", "b"}


@pytest.mark.parametrize("first", [True, False])
def test_an_arm_that_is_that_already_stays_alone(first: bool) -> None:
    arms = {"learned": {"mix": "learned"}, "alone": ALONE | {"training": {"epochs": 9}}}
    given = study(arms=dict(sorted(arms.items(), reverse=not first)), family=[])
    assert with_control(given) == (given, ())


@pytest.mark.parametrize(
    "other",
    [
        ALONE | {"student": {"layers": 1}},
        ALONE | {"seeds": 1},
        ALONE | {"data": {"train_rows": 9}},
        {"loss": {"logit_weight": 0}},
        {"loss": {"logit_weight": 0, "hidden_weight": 0, "embedding_weight": 1}},
    ],
)
def test_an_arm_of_its_name_that_is_something_else_is_said(other: dict[str, Any]) -> None:
    given = study(arms={"learned": {}, "ce_only": other}, family=[])
    _, (remark,) = with_control(given)
    assert remark.startswith("the study's arm ce_only is not the first arm's student with labels")
    assert {arm for _, arm, _ in added(given)} == {"ce_only of learned"}
    taken = study(arms={"learned": {}, "ce_only": other, "ce_only of learned": {}}, family=[])
    with pytest.raises(ConfigError, match="adds an arm ce_only of learned, but the study has one"):
        with_control(taken)


def test_tasks_with_other_first_arms_have_their_own() -> None:
    tasks = {"a": {"data": "A"}, "b": {"data": "B", "arms": ["other"]}, "c": {"data": "C"}}
    tasks["c"]["arms"] = ["other", "alone"]
    arms = GIVEN["arms"] | {"alone": ALONE | {"student": {"layers": 1}}}
    found = added(study(tasks=tasks, arms=arms, family=[]))
    assert {(task, arm) for task, arm, _ in found} == {
        ("a", "ce_only of learned"),
        ("b", "ce_only of other"),
    }
    assert found["b", "ce_only of other", 0]["student"]["layers"] == 1


def test_values_on_axes_that_ask_the_teacher_do_not_come_back() -> None:
    axes = {"loss.hidden_weight": [1, 5]}
    given = study(axes=axes, tasks={"a": {"data": "A", "arms": ["learned"]}}, family=[])
    found = added(given)
    assert list(found) == [("a", "ce_only", seed) for seed in range(3)]
    assert found["a", "ce_only", 0]["loss"]["hidden_weight"] == 0


def test_it_learns_from_labels_where_the_first_arm_does_not() -> None:
    found = added(study(base=GIVEN["base"] | {"preset": "tinybert"}, seeds=1, family=[]))
    assert {content["loss"]["supervised_weight"] for content in found.values()} == {1}


def test_soft_labels_have_none_and_the_size_of_a_study_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = study(base={"student": {"model": "S"}, "preset": "soft"}, arms={"one": {}}, family=[])
    found, remarks = with_control(given)
    assert found == given
    assert remarks[0] == "a: no ce_only is added, as its data may have no labels but soft"
    monkeypatch.setattr(spec, "MOST_CELLS", 7)
    assert len(added(study(arms={"one": {}}, family=[]))) == 3
    full = study(arms={"one": {}, "two": {}}, family=[])
    with pytest.raises(ConfigError, match=r"^with ce_only, which --baselines adds: .*make 9 dist"):
        with_control(full)
