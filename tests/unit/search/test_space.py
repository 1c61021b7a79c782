"""The students that a search tries."""

from typing import Any

import pytest

from layermix.config import DistillConfig
from layermix.errors import ConfigError
from layermix.search.space import (
    ask_for_other_layers,
    candidates,
    check_axes,
    default_axes,
    parse_axis,
)


def test_every_combination_in_the_order_of_the_axes() -> None:
    axes = {"student.layers": (1, 2), "loss.hidden_weight": (0, 10)}
    made = candidates({"teacher": "t"}, axes)
    assert [one.name for one in made] == [
        "layers 1, hidden_weight 0",
        "layers 1, hidden_weight 10",
        "layers 2, hidden_weight 0",
        "layers 2, hidden_weight 10",
    ]
    assert made[1].changes == {"student": {"layers": 1}, "loss": {"hidden_weight": 10}}


def test_null_leaves_a_field_as_it_is() -> None:
    first, second = candidates({"student": {"layers": 2}}, {"student.layers": (None, 3)})
    assert (first.name, first.changes) == ("as given", {})
    assert (second.name, second.changes) == ("layers 3", {"student": {"layers": 3}})


def test_without_axes_the_base_is_the_only_one() -> None:
    (only,) = candidates({}, {})
    assert (only.name, only.changes) == ("as given", {})


def test_fields_of_one_name_are_told_apart() -> None:
    axes = {"student.model": ("a",), "teacher.model": ("b",)}
    assert candidates({}, axes)[0].name == "student.model a, teacher.model b"


def test_default_axes_are_shares_of_the_blocks_and_vocabularies() -> None:
    none = DistillConfig()
    assert default_axes(6, none) == {
        "student.layers": [1, 2, 3, 4],
        "student.vocabulary": (None, "occurring"),
    }
    assert default_axes(12, none)["student.layers"] == [2, 3, 4, 6, 8]
    assert default_axes(1, none)["student.layers"] == [1]


def test_what_the_base_says_is_no_axis() -> None:
    layers = DistillConfig.model_validate({"student": {"layers": 2}})
    assert list(default_axes(6, layers)) == ["student.vocabulary"]
    both = DistillConfig.model_validate({"student": {"layers": 2, "vocabulary": 800}})
    assert default_axes(6, both) == {}


def test_all_problems_of_the_axes_at_once() -> None:
    axes = [parse_axis("student.layer=1"), parse_axis("seed=1"), parse_axis("teacher.model=a")]
    with pytest.raises(ConfigError) as caught:
        check_axes(axes)
    assert str(caught.value).count("--axis") == 3


@pytest.mark.parametrize(
    ("axes", "wanted"),
    [
        ({"student.layers": (1, 2), "student.vocabulary": (None, "occurring")}, True),
        ({"student.layers": (2,), "student.vocabulary": (None, "occurring")}, False),
        ({"student.blocks": ([0, 1], [0, 2])}, True),
        ({"mix": ("fixed", "uniform")}, True),
        ({"training.epochs": (1, 2)}, False),
    ],
)
def test_students_of_other_depths_or_mixes_ask_for_other_layers(
    axes: dict[str, Any], wanted: bool
) -> None:
    assert ask_for_other_layers(candidates({"preset": "quick"}, axes)) == wanted


def test_students_that_cannot_be_are_all_listed() -> None:
    axes = {"student.layers": (1, 2), "student.blocks": ([0], None)}
    with pytest.raises(ConfigError, match="layers 1, blocks 0: ") as caught:
        candidates({}, axes)
    assert "layers 2, blocks 0: " in str(caught.value)


@pytest.mark.parametrize("text", ["student.layers", "=1,2", "student.layers=", "a=[1", "a={"])
def test_an_axis_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"wanted a field and its values, such as"):
        parse_axis(text)
