"""A study's file is checked as a whole, and every problem is reported with its line."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from layermix.errors import ConfigError
from layermix.studies.plan import make_plan
from layermix.studies.spec import load_study

from ...spoiled import spoiled_json

TINY: dict[str, Any] = {
    "base": {"teacher": "T", "training": {"epochs": 3}},
    "tasks": {"a": {"data": "A"}, "b": {"data": "$B", "seeds": 1, "arms": ["learned"]}},
    "arms": {"fixed": {"mix": "fixed"}, "learned": {"mix": "learned"}},
    "seeds": 2,
    "family": [["learned", "fixed"]],
}


def test_problems_are_told_once_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    text = """
base:
  training: {epochs: 0}
teach: {model: M, epochs: 3}
tasks:
  a: {data: A, arms: [fixed, lerned]}
arms:
  fixed: {mix: fixed}
  learned:
    loss: {hiden_weight: 1}
axes:
  mix.start: [uniform, diagonal, corner]
family:
  - ["fixed, start=uniform", nobody]
"""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_study(file)
    told = str(caught.value).splitlines()
    assert told[0] == "5 problems in the study:"
    assert any(line.startswith(f"  {file}:3: base.training.epochs: ") for line in told)
    assert any(line.startswith(f"  {file}:4: teach.epochs: unknown key; did") for line in told)
    assert any(f"{file}:12: axes.mix.start: " in line and "'corner'" in line for line in told)
    assert "  family: nothing is called nobody; there are " in "\n".join(told)
    assert "  tasks.a.arms: nothing is called lerned; did you mean learned?" in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arms": {}}, "arms: "),
        ({"seeds": [1, 1]}, "a seed is named twice in [1, 1]"),
        ({"familly": []}, "familly: unknown key; did you mean family?"),
        ({"family": [["learned"]]}, "family: "),
        ({"base": {"teacher": 3}}, "base.teacher: "),
        ({"base": {"teacher": "T", "training": [1]}, "split": "holdout"}, "base.training: "),
        ({"family": [["learned", "learned"]]}, "family: learned is compared with itself"),
        (
            {"family": [["learned", "fixed"], ["fixed", "learned"]]},
            "family: fixed and learned are named twice",
        ),
        (
            {"tasks": {"a": {"data": "A", "arms": ["fixed"]}}},
            "family: no task has both learned and fixed",
        ),
        (
            {
                "arms": {
                    "fixed": {"mix": "fixed", "seeds": [1, 2]},
                    "learned": {"mix": "learned", "seeds": [3, 4]},
                }
            },
            "family: learned and fixed share no seed on ",
        ),
        ({"axes": {"mix": ["fixed"]}, "family": []}, "axes.mix: not a field of a distillation"),
        ({"axes": {"los.hidden_weight": [1]}}, "did you mean loss.hidden_weight?"),
        ({"axes": {"seed": [1]}}, "axes.seed: not a field"),
        (
            {"base": {"teacher": "T", "seed": 3}},
            "base.seed: a study does not set one seed;",
        ),
        ({"base": {"teacher": "T", "seeds": 3}}, "seeds: unknown key; did you mean seed?"),
        ({"arms": {"fixed": {"mix": "fixed", "seeds": 0}, "learned": {}}}, "arms: "),
        ({"arms": {"fixed": {"arms": ["x"]}, "learned": {}}}, "arms.fixed.arms: only a task may"),
        ({"arms": {"fixed": {"teach": {}}, "learned": {}}}, "arms.fixed.teach: only a task may"),
        (
            {"tasks": {"a": {"data": "A", "teach": {}}}},
            "tasks.a.teach changes the study's teach, but",
        ),
        (
            {
                "teach": {"model": "M"},
                "tasks": {"a": {"data": "A", "teach": {"training": {"x": 1}}}},
            },
            "unknown key",
        ),
        ({"tasks": {"a": {"data": "A", "arms": "fixed"}}}, "tasks: "),
        ({"base": {}}, "fixed has no teacher: give teach (how to fine-tune one), or base:"),
        ({"teach": {"model": "M"}}, "fixed names a teacher, but teach fine-tunes one"),
        ({"teach": {}, "base": {}}, "teach names no model to fine-tune"),
        ({"report": "selected"}, "which scores last and best_on_dev on validation"),
        (
            {"split": "holdout"},
            "report is last and split holdout, but fixed has training.selection",
        ),
        (
            {
                "base": {"teacher": "T", "training": {"selection": "holdout"}},
                "report": "best_on_dev",
            },
            "which scores last and selected on validation and holdout",
        ),
        ({"published": {"a": {"fixed": {"acc": 1}}}}, "published: "),
    ],
)
def test_a_study_that_does_not_hold_together_is_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(TINY | changes), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_study(file)
    assert told in str(caught.value)


def test_the_number_of_seeds_can_be_given_apart(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(TINY | {"arms": TINY["arms"] | {"none": None}}), "utf-8")
    assert load_study(file, seeds=9).seeds == 9
    assert load_study(file).seeds == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": 10**9}, "found 1000000000, wanted at most 1000"),
        ({"arms": {"a": {"seeds": 10**9}}, "family": []}, "found 1000000000, wanted at most 1000"),
        ({"seeds": list(range(2000))}, "wanted at most 1000 values"),
        (
            {"axes": {"seed": [1], "mix.learning_rate": [0.1] * 6000}},
            "make 30,000 distillations, wanted at most 10,000; split the study",
        ),
        ({"axes": {f"loss.{n}": [1] * 100 for n in range(100)}}, "wanted at most 10,000"),
        ({"axes": {"mix": ["fixed"], "mix.start": ["diagonal"]}}, "axes.mix: not a field"),
    ],
)
def test_a_study_beyond_measure_is_refused_at_once(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(TINY | changes), encoding="utf-8")
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_study(file)
    assert time.process_time() - start < 5
    assert told in str(caught.value)
    assert len(str(caught.value)) < 5000


NAMES = [
    "",
    ".",
    "seed",
    "mix",
    "mix.start",
    "teacher",
    "fixed",
    "a",
    "$HOME",
    "\x1b[2J",
    "x" * 300,
]


def is_refused_or_planned(file: Path, data: Any) -> None:
    """JSON is YAML, too."""
    valid = TINY | {"axes": {"loss.logit_weight": [0, 1]}, "teach": {"model": "M"}, "base": {}}
    file.write_bytes(data.draw(spoiled_json(json.dumps(valid), NAMES)))
    try:
        study = load_study(file)
    except ConfigError:
        return
    plan = make_plan(study, None)
    assert plan.cells
    assert len(plan.judged) >= len(study.family)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_a_spoiled_study_is_refused_or_planned(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    is_refused_or_planned(tmp_path_factory.getbasetemp() / "spoiled.yaml", data)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=1000, deadline=None)
def test_a_thousand_spoiled_studies_are_refused_or_planned(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    is_refused_or_planned(tmp_path_factory.getbasetemp() / "spoiled.yaml", data)
