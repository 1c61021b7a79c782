"""The model card in a saved folder speaks of the model that is saved there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.config import DistillConfig, TeachConfig
from layermix.data.texts import TextData
from layermix.models.encoder import Classifier
from layermix.models.labels import name_classes
from layermix.runs.model_card import with_section
from layermix.runs.pipeline import distill_from, teach_from
from layermix.runs.training import Result


def test_a_card_names_no_folder_of_this_machine(
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
    texts: Callable[..., TextData],
    tmp_path: Path,
) -> None:
    model = Classifier(bert(2), tokenizer, str(tmp_path / "base"), {"from": str(tmp_path / "base")})
    config = TeachConfig.model_validate({"training": {"epochs": 1}})
    teach_from(model, texts(), config, out=tmp_path / "run")
    card = (tmp_path / "run/teacher/README.md").read_text(encoding="utf-8")
    assert "from `base`" in card
    assert str(tmp_path) not in card


def saved_score(card: str, epochs: str, metrics: dict[str, Any]) -> None:
    assert f"| validation score ({epochs} epoch: {metrics['epoch']}) | |" in card
    assert f"| accuracy | {metrics['validation']['accuracy']:.4f} |" in card
    entry = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"][0]
    numbers = {one["type"]: one["value"] for one in entry["metrics"]}
    assert numbers["accuracy"] == round(metrics["validation"]["accuracy"], 4)
    assert "per_class" not in card


@pytest.mark.parametrize(("selection", "saved"), [("none", "last"), ("holdout", "selected")])
def test_the_card_of_a_student_gives_the_scores_of_the_saved_epoch(
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
    texts: Callable[..., TextData],
    tmp_path: Path,
    selection: str,
    saved: str,
) -> None:
    config = DistillConfig.model_validate(
        {
            "teacher": {"allow_weak": True},
            "training": {"epochs": 2, "selection": selection, "holdout_fraction": 0.3},
        }
    )
    teacher = Classifier(bert(4), tokenizer, "TEACHER")
    student = Classifier(bert(2, seed=1), tokenizer, "STUDENT")
    result: Result = distill_from(teacher, student, texts(30), config, out=tmp_path / "run")
    card = (tmp_path / "run/student/README.md").read_text(encoding="utf-8")
    saved_score(card, saved, result.metrics[saved])
    header = yaml.safe_load(card.split("---")[1])
    assert header["pipeline_tag"] == "text-classification"
    assert f"Distilled with `{result.record.formula}` from `TEACHER` on" in card
    assert "classes: 0, 1." in card
    interval = result.record.interval
    assert interval is not None
    accuracy = result.metrics[saved]["validation"]["accuracy"]
    assert interval.low <= accuracy <= interval.high
    assert f"over the 6 rows: {interval.low:.4f} to {interval.high:.4f}." in card
    taught = result.record.teacher.score("accuracy")
    assert taught is not None
    assert interval.difference == pytest.approx(accuracy - taught)
    for layer, row in enumerate(result.record.alpha or ()):
        assert f"| student layer {layer} | {row[0]:.3f} | {row[1]:.3f} |" in card
    assert "@misc{" in card


def test_the_card_of_a_teacher_made_in_python(
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
    texts: Callable[..., TextData],
    tmp_path: Path,
) -> None:
    model = Classifier(bert(2), tokenizer, "MODEL")
    config = TeachConfig.model_validate({"training": {"epochs": 1}})
    result = teach_from(model, texts(), config, out=tmp_path / "run")
    card = (tmp_path / "run/teacher/README.md").read_text(encoding="utf-8")
    saved_score(card, "last", result.metrics["last"])
    assert "\n# Teacher for memory\n" in card
    assert "Fine-tuned from `a model in memory` on 13 rows of `memory`" in card


def test_class_names_cannot_change_the_card(
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
    texts: Callable[..., TextData],
    tmp_path: Path,
) -> None:
    names = ("<!-- layermix: export -->", "b\n# Injected heading\n<img src=http://127.0.0.1/x>")
    model = bert(2)
    name_classes(model.config, names)
    config = TeachConfig.model_validate({"training": {"epochs": 1}})
    data = replace(texts(), label_names=names)
    place = tmp_path / "a`b <!-- layermix: export -->"
    teach_from(Classifier(model, tokenizer, str(place)), data, config, out=tmp_path / "run")
    card = (tmp_path / "run/teacher/README.md").read_text(encoding="utf-8")
    assert "classes: &lt;!-- layermix: export -->, b # Injected heading &lt;img" in card
    assert "\n# Injected" not in card
    assert "<img" not in card
    once = with_section(card, "export", "ONNX one")
    twice = with_section(once, "export", "ONNX two")
    assert twice == once.replace("ONNX one", "ONNX two")
    assert twice.startswith(card.rstrip())
