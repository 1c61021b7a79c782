"""A gate for CI: limits on score, speed and size, and what happens when one is not kept."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from datasets import Dataset
from safetensors.torch import load_file, save_file

from layermix.cli import main
from layermix.config import DataConfig
from layermix.errors import ConfigError
from layermix.evaluation.metrics import UNLABELLED
from layermix.serving import check as module
from layermix.serving.check import Limits, check, check_text
from layermix.serving.compared import Drop
from layermix.serving.evaluation_rows import EvaluationRows
from layermix.serving.export import export

from .conftest import CLASSES, LETTERS, chances, write


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(list(LETTERS), 3)) for _ in range(60)]


@pytest.fixture(scope="module")
def data(
    classifier: Path, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> DataConfig:
    """Rows whose labels are what the classifier answers, but for every tenth."""
    answers = chances(classifier, texts).argmax(-1)
    answers[::10] = (answers[::10] + 1) % 3
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    write(file, {"text": texts, "label": [CLASSES[answer] for answer in answers]})
    return DataConfig(path=str(file))


@pytest.fixture(scope="module")
def worse(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with noise in its head."""
    folder = tmp_path_factory.mktemp("worse")
    for file in classifier.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    noise = torch.randn(weights["classifier.weight"].shape, generator=torch.manual_seed(1))
    weights["classifier.weight"] += 0.5 * noise
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def accuracy(folder: Path, texts: list[str], data: DataConfig) -> float:
    lines = Path(str(data.path)).read_text(encoding="utf-8").splitlines()
    labels = [CLASSES.index(json.loads(line)["label"]) for line in lines]
    return float((chances(folder, texts).argmax(-1) == labels).mean())


def test_a_drop_is_measured_on_the_same_rows(
    classifier: Path, worse: Path, data: DataConfig, texts: list[str]
) -> None:
    before, after = (accuracy(one, texts, data) for one in (classifier, worse))
    drop = 100 * (before - after)
    assert drop > 5
    (found,) = check(str(worse), str(classifier), Limits(max_drop=drop + 0.01), data)
    assert found.passed
    assert (found.name, found.measured) == ("max_drop", pytest.approx(drop))
    assert found.low is not None
    assert found.high is not None
    assert found.low < drop < found.high
    assert found.text.startswith(
        f"accuracy {after:.4f}, {drop:.2f} points worse than {classifier} (95 % over rows "
    )
    (found,) = check(str(worse), str(classifier), Limits(max_drop=drop - 0.01), data)
    assert not found.passed
    (found,) = check(str(worse), str(classifier), Limits(max_drop=drop + 0.01, sure=True), data)
    assert not found.passed
    assert found.text.endswith(f"at most {drop + 0.01:g}, for all of the interval)")
    (found,) = check(str(worse), str(classifier), Limits(max_drop=100, sure=True), data)
    assert found.passed
    (found,) = check(str(classifier), str(worse), Limits(max_drop=0), data)
    assert found.passed
    assert f"{drop:.2f} points better than {worse}" in found.text


def test_a_drop_that_is_the_limit_keeps_it(
    classifier: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.75 less 0.745 is 0.50000000000000044 points."""
    monkeypatch.setattr(module, "drop_of", lambda *_: Drop(0.75, 0.745, 100 * (0.75 - 0.745), 0, 1))
    answers = chances(classifier, texts).argmax(-1)
    columns = {"text": texts, "label": [CLASSES[answer] for answer in answers]}
    rows = DataConfig(path=write(tmp_path / "rows.jsonl", columns))
    for sure, kept in ((False, 0.5), (True, 1)):
        (found,) = check(str(classifier), str(classifier), Limits(kept, sure), rows)
        assert found.passed


def test_a_model_of_another_kind_is_refused(
    classifier: Path, variant: Any, data: DataConfig
) -> None:
    other = variant(problem_type="multi_label_classification")
    wanted = "was trained on labels for multi_label, and .* on labels for classification; wanted a"
    with pytest.raises(ConfigError, match=wanted):
        check(str(classifier), other, Limits(max_drop=1), data)
    (found,) = check(str(classifier), other, Limits(max_mb=100), DataConfig())  # neither is needed
    assert found.passed


def test_classes_in_another_order_are_the_same_answers(
    classifier: Path, variant: Any, data: DataConfig
) -> None:
    order = [2, 0, 1]
    names = [CLASSES[number] for number in order]
    other = Path(
        variant(
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )
    )
    weights = load_file(other / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][order].clone()
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    for one, against in ((classifier, other), (other, classifier)):
        (found,) = check(str(one), str(against), Limits(max_drop=0), data)
        assert found.measured == 0


def test_speed_and_size(
    classifier: Path, data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    megabytes = (classifier / "model.safetensors").stat().st_size / 1e6

    def turns(actions: Any, items: Any) -> Any:
        """One text takes the new model 2 ms and the old one 5, but the first three far longer."""
        assert len(items) == module.WARMUP + module.TIMED
        assert all(action(items[0]).shape == (1,) for action in actions.values())
        slow = np.where(np.arange(len(items)) < module.WARMUP, 1000, 1)
        return {name: slow * (0.002 if name == "new" else 0.005) for name in actions}

    monkeypatch.setattr(module, "seconds_in_turns", turns)
    limits = Limits(max_ms=2.1, min_speedup=2.4, max_mb=megabytes + 1)
    found = check(str(classifier), str(classifier), limits, data)
    assert [(one.name, one.measured, one.passed) for one in found] == [
        ("max_ms", pytest.approx(2), True),
        ("min_speedup", pytest.approx(2.5), True),
        ("max_mb", megabytes, True),
    ]
    assert check_text("mine", found) == (
        "passed: mine: 2.00 ms a text (at most 2.1); 2.50 times as fast (at least 2.4); "
        f"{megabytes:.1f} MB (at most {megabytes + 1:g})"
    )
    limits = Limits(max_ms=1.9, min_speedup=2.6, max_mb=megabytes / 2)
    found = check(str(classifier), str(classifier), limits, data)
    assert not any(one.passed for one in found)
    (alone,) = check(str(classifier), None, Limits(max_ms=100), data)
    assert alone.passed


def test_an_exported_file_is_checked_as_it_runs(
    classifier: Path, data: DataConfig, tmp_path: Path
) -> None:
    export(str(classifier), data, int8=True, max_drop=100, out=tmp_path / "served")
    limits = Limits(max_drop=100, max_mb=100)
    drop, size = check(str(tmp_path / "served"), str(classifier), limits, data, runtime="int8")
    assert drop.passed
    file = tmp_path / "served/onnx/model_quantized.onnx"
    assert size.measured == file.stat().st_size / 1e6


@pytest.mark.parametrize(
    ("against", "limits", "wanted"),
    [
        (None, Limits(), "nothing to check: give --max-drop POINTS, --max-ms MS, --min-speedup"),
        ("m", Limits(max_drop=float("nan")), "--max-drop: found nan, wanted a number"),
        (None, Limits(max_drop=1), "--max-drop needs --against MODEL, the model to compare with"),
        (
            None,
            Limits(sure=True, min_speedup=1),
            "--min-speedup needs --against MODEL, the model to compare with\n--sure needs --max-",
        ),
    ],
)
def test_limits_that_cannot_be_checked(
    classifier: Path, data: DataConfig, against: str | None, limits: Limits, wanted: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{wanted}"):
        check(str(classifier), against, limits, data)


def test_rows_without_labels_have_no_score(
    classifier: Path, texts: list[str], data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation rows of a run on soft labels may have none."""
    columns = {"text": texts[:4], "label": [UNLABELLED] * 4, "row_id": range(4)}
    rows = EvaluationRows(Dataset.from_dict(columns), "accuracy", "validation rows of run")
    monkeypatch.setattr(module, "evaluation_rows", lambda *_: rows)
    with pytest.raises(ConfigError, match="validation rows of run: no row has a label, so no sco"):
        check(str(classifier), str(classifier), Limits(max_drop=1), data)
    (found,) = check(str(classifier), None, Limits(max_ms=10_000), data)
    assert found.passed


def test_the_command_prints_one_line_and_exits_with_1_if_a_limit_is_not_kept(
    classifier: Path, worse: Path, data: DataConfig
) -> None:
    words = ["check", str(worse), "--against", str(classifier), "--data", str(data.path), "--quiet"]
    kept = CliRunner().invoke(main, [*words, "--max-drop", "100", "--max-mb", "50"])
    assert kept.exit_code == 0
    assert kept.stdout.count("\n") == 1
    assert kept.stdout.startswith(f"passed: {worse}: accuracy 0.")
    broken = CliRunner().invoke(main, [*words, "--max-drop", "0", "--max-mb", "50"])
    assert broken.exit_code == 1
    assert broken.stdout.startswith(f"failed: {worse}: accuracy 0.")
    told = CliRunner().invoke(main, [*words, "--max-mb", "0.001", "--max-drop", "100", "--json"])
    assert told.exit_code == 1
    found = json.loads(told.stdout)
    assert found["passed"] is False
    assert [(one["name"], one["passed"]) for one in found["checks"]] == [
        ("max_drop", True),
        ("max_mb", False),
    ]
    nothing = CliRunner().invoke(main, words)
    assert (nothing.exit_code, nothing.stdout) == (2, "")
