"""A study file becomes cells: combinations, pairing, names by content, problems told at once."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from layermix.augmentation.new_rows import EACH, MOST, SHARE
from layermix.config import DistillConfig, TeachConfig
from layermix.core.signals import evenly_spaced
from layermix.errors import ConfigError
from layermix.studies.plan import DEFAULTS, Plan, make_plan
from layermix.studies.spec import StudyConfig, load_study

STUDIES = Path(__file__).parents[3] / "configs" / "studies"
MRPC_ROWS = 3668  # for training
TINY: dict[str, Any] = {
    "base": {"teacher": "T", "training": {"epochs": 3}},
    "tasks": {"a": {"data": "A"}, "b": {"data": "$B", "seeds": 1, "arms": ["learned"]}},
    "arms": {"fixed": {"mix": "fixed"}, "learned": {"mix": "learned"}},
    "seeds": 2,
    "family": [["learned", "fixed"]],
}


def plan(out: Path | None = None, **changes: Any) -> Plan:
    return make_plan(StudyConfig.model_validate(TINY | changes), out)


def cells(found: Plan) -> list[tuple[str, str, int]]:
    return [(cell.task, cell.arm, cell.seed) for cell in found.cells]


def test_every_arm_on_every_task_seed_by_seed() -> None:
    assert cells(plan()) == [
        ("a", "fixed", 0),
        ("a", "learned", 0),
        ("b", "learned", 0),
        ("a", "fixed", 1),
        ("a", "learned", 1),
    ]
    assert plan().judged == [("a", "learned", "fixed")]


def test_seeds_are_a_number_or_a_list_and_an_arm_may_have_its_own() -> None:
    arms = {"fixed": {"mix": "fixed", "seeds": [7]}, "learned": {"mix": "learned"}}
    found = plan(tasks={"a": {"data": "A"}}, arms=arms, seeds=[3, 5])
    assert cells(found) == [("a", "learned", 3), ("a", "learned", 5), ("a", "fixed", 7)]


def test_axes_cross_every_arm() -> None:
    axes = {"loss.entropy_weight": [0, 0.1], "mix.learning_rate": [0.01]}
    found = plan(tasks={"a": {"data": "A"}}, axes=axes, seeds=1, family=[])
    assert [cell.arm for cell in found.cells] == [
        "fixed, entropy_weight=0, learning_rate=0.01",
        "fixed, entropy_weight=0.1, learning_rate=0.01",
        "learned, entropy_weight=0, learning_rate=0.01",
        "learned, entropy_weight=0.1, learning_rate=0.01",
    ]
    assert [cell.content["loss"]["entropy_weight"] for cell in found.cells] == [0, 0.1, 0, 0.1]
    clash = {"training.learning_rate": [1.0], "mix.learning_rate": [0.1]}
    (label, *_) = [cell.arm for cell in plan(axes=clash, family=[]).cells]
    assert label == "fixed, training.learning_rate=1.0, mix.learning_rate=0.1"


def test_an_arm_changes_its_task_and_a_task_the_base() -> None:
    tasks = {"a": {"data": "A", "training": {"epochs": 4, "warmup": 5}}}
    arms = {"fixed": {"mix": "fixed", "training": {"warmup": 6}}}
    (cell,) = plan(tasks=tasks, arms=arms, seeds=1, family=[]).cells
    assert cell.content["training"]["epochs"] == 4
    assert cell.content["training"]["warmup"] == 6


def test_a_name_says_what_is_computed_and_not_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [cell.name for cell in plan().cells]
    assert len(set(names)) == len(names)
    for place in ("/one", "/two"):
        monkeypatch.setenv("B", place)
        found = plan(tmp_path / place.strip("/"))
        assert [cell.name for cell in found.cells] == names
        assert [c.config.data.path for c in found.cells if c.config and c.task == "b"] == [place]
    in_full = TINY["base"] | {"training": {"epochs": 3, "schedule": "linear"}}
    assert [cell.name for cell in plan(base=in_full).cells] == names
    elsewhere = TINY["base"] | {"cache": {"folder": "X", "max_gb": 1, "layers": "all"}}
    assert [cell.name for cell in plan(base=elsewhere).cells] == names
    other = TINY["base"] | {"cache": {"dtype": "float32"}}
    assert not {cell.name for cell in plan(base=other).cells} & set(names)
    live = TINY["base"] | {"cache": {"use": False}}
    assert not {cell.name for cell in plan(base=live).cells} & set(names)


def test_names_change_when_a_default_does() -> None:
    """A table must not mix two defaults: if this fails, set them here, and raise `DEFAULTS`."""
    # Those of the fields: what a preset starts from, the default one too, stands in the names.
    kinds = DistillConfig, TeachConfig
    defaults = [kind.model_construct().model_dump(mode="json") for kind in kinds]
    for one in defaults:
        del one["training"]["loader_workers"]  # in how many processes is not content
    del defaults[0]["cache"]["layers"]  # nor is what else is stored
    text = json.dumps(defaults, sort_keys=True)
    assert (DEFAULTS, hashlib.sha256(text.encode()).hexdigest()[:8]) == (1, "97cc50ae")


@pytest.mark.parametrize(
    ("preset", "file", "arm"),
    [
        ("default", "more-rows-confirmed", "more rows"),
        ("quick", "local-recipe-confirmed", "recipe"),
    ],
)
def test_a_preset_is_the_recipe_that_was_confirmed(preset: str, file: str, arm: str) -> None:
    plan = make_plan(load_study(STUDIES / f"{file}.yaml"), None)
    recipe = next(cell.content for cell in plan.cells if cell.arm == arm)
    silent = DistillConfig.model_validate({"preset": preset}).model_dump(mode="json")
    for place in ("report_to", "loader_workers"):  # they are not content
        del silent["training"][place]
    for how in ("log_every", "precision", "unlabeled_share"):
        silent["training"][how] = recipe["training"][how]
    for section in ("mix", "loss", "training"):
        assert recipe[section] == silent[section]
    assert recipe["student"]["dropout"] == silent["student"]["dropout"]
    three_of_six = evenly_spaced(3, 6) if silent["student"]["copied"] == "spread" else range(3)
    assert recipe["student"]["blocks"] == list(three_of_six)
    rows = {"auto": min(EACH * MRPC_ROWS, MOST), None: None}
    assert recipe["data"]["augment"] == rows[silent["data"]["augment"]]
    shares = {"auto": SHARE, None: None}
    assert recipe["training"]["unlabeled_share"] == shares[silent["data"]["augment"]]


def test_settings_without_effect_are_not_in_the_names() -> None:
    base = {"teacher": "T", "preset": "quick", "student": {"blocks": [1, 3, 5]}}
    arms = {"one": {}, "same": {"student": {"copied": "spread"}, "data": {"augment": 0}}}
    found = plan(tasks={"a": {"data": "A"}}, base=base, arms=arms, seeds=1, family=[])
    assert len(found.runs) == 1
    made = {"base": {"data": {"augment": 9}}, "teach": {"model": "M"}, "seeds": 1, "family": []}
    tasks = {"a": {"data": "A"}}
    (teacher,) = plan(tasks=tasks, **made).teachers
    assert [teacher] == [*plan(tasks=tasks, **(made | {"base": {}})).teachers]


def test_where_a_student_of_other_sizes_starts_is_in_the_name() -> None:
    base = {"teacher": "T", "preset": "quick", "student": {"hidden": 8}}
    spread = {"student": {"copied": "spread"}}
    arms = {
        "random": {"student": {"start": "random"}},
        "same": spread,
        "teacher": {"student": {"start": "teacher"}},
        "of others": {"student": {"start": "teacher", "copied": "spread"}},
    }
    found = plan(tasks={"a": {"data": "A"}}, base=base, arms=arms, seeds=1, family=[])
    assert [cell.arm for cell in found.runs.values()] == ["random", "teacher", "of others"]
    plain = plan(tasks={"a": {"data": "A"}}, base=base, arms={"x": {}}, seeds=1, family=[])
    assert [*plain.runs] == [*found.runs][:1] == ["1c59dabc8c45"]


def test_a_mix_that_no_loss_looks_at_is_not_in_the_name() -> None:
    base = {"teacher": "T", "loss": {"hidden_weight": 0}}
    arms = {"fixed": {"mix": "fixed"}, "learned": {"mix": "learned"}}
    found = plan(tasks={"a": {"data": "A"}}, base=base, arms=arms, seeds=1, family=[])
    assert len(found.runs) == 1
    looks = {**base, "loss": {"hidden_weight": 0, "attention_weight": 1}}
    found = plan(tasks={"a": {"data": "A"}}, base=looks, arms=arms, seeds=1, family=[])
    assert len(found.runs) == 2


def test_a_task_may_change_how_its_teacher_is_fine_tuned() -> None:
    tasks = {"a": {"data": "A"}, "b": {"data": "B", "teach": {"training": {"epochs": 9}}}}
    found = plan(tasks=tasks, teach={"model": "M", "training": {"learning_rate": 1e-3}})
    plain = plan(tasks=tasks | {"b": {"data": "B"}}, teach=found.study.teach)
    names = [[cell.teacher.name for cell in one.cells if cell.teacher] for one in (found, plain)]
    same = [cell.task for cell, one, two in zip(found.cells, *names, strict=True) if one == two]
    assert set(same) == {"a"}


def test_equal_cells_of_two_arms_are_run_once() -> None:
    arms = {"fixed": {"mix": "fixed"}, "plain": {}}
    found = plan(tasks={"a": {"data": "A"}}, arms=arms, seeds=2, family=[])
    assert len(found.cells) == 4
    assert len(found.runs) == 2
    runs = [(cell.arm, cell.seed) for cell in found.runs.values()]
    assert runs == [("fixed", 0), ("fixed", 1)]  # in the order of the plan


def test_without_places_no_variable_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("B", raising=False)
    assert all(cell.config is None for cell in plan().cells)
    with pytest.raises(ConfigError, match=r"data\.path: the environment variable B is not set"):
        plan(tmp_path)


def test_one_teacher_for_all_seeds_or_one_each(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"tasks": {"a": {"data": "A"}}, "teach": {"model": "M"}}
    one = plan(tmp_path, **changes)
    assert len(one.teachers) == 1
    each = plan(tmp_path, **changes, teachers="per_seed")
    assert len(each.teachers) == 2
    for found in (one, each):
        for cell in found.cells:
            assert cell.teacher is not None
            assert cell.teacher.config is not None
            assert cell.teacher.config.data.path == "A"
            assert isinstance(cell.config, DistillConfig)
            assert cell.config.teacher.model == str(tmp_path / "teachers" / cell.teacher.name)
            assert cell.content["teacher"]["model"] == f"teachers/{cell.teacher.name}"
    seeds = {t.config.seed for t in each.teachers.values() if t.config}
    assert seeds == {0, 1}


def test_a_smaller_training_set_is_the_students_alone() -> None:
    axes = {"data.train_rows": [10, 20]}
    found = plan(tasks={"a": {"data": "A"}}, teach={"model": "M"}, axes=axes, family=[])
    assert len(found.teachers) == 1
    assert {cell.content["data"]["train_rows"] for cell in found.cells} == {10, 20}
