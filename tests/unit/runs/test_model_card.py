"""The model card in a saved folder speaks of the model that is saved there."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertTokenizer,
    pipeline,
)

from layermix.config import DistillConfig, TeachConfig
from layermix.data.texts import TextData
from layermix.models.encoder import Classifier
from layermix.models.labels import name_classes
from layermix.runs.model_card import export_section, model_card, of_changed_model, with_section
from layermix.runs.pipeline import distill_from, teach_from
from layermix.runs.schema import ExportRecord, RunRecord
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


@pytest.mark.parametrize("form", ["tags", "class"])
def test_a_card_says_how_tags_of_words_are_asked_for(form: str) -> None:
    scores = {"entity_f1": 0.75, "entity_precision": 0.5, "entity_recall": 1.0, "accuracy": 0.9}
    names = ["O", "B-PER", "I-PER"]
    record = RunRecord.model_validate(
        {
            "status": "ok",
            "form": form,
            "metric": "entity_f1",
            "metrics": {"last": {"epoch": 1, "validation": scores}},
            "teacher": {"place": "T"},
            "student": {"parameters": 5, "classes": names},
            "data": {"place": "names", "max_length": 64, "rows": {"train": 9, "validation": 3}},
        }
    )
    card = model_card(record, "student")
    header = yaml.safe_load(card.split("---")[1])
    (entry,) = header["model-index"][0]["results"]
    called = {
        "tags": (
            'pipeline("token-classification", model="PATH/TO/THIS/FOLDER", '
            'aggregation_strategy="first")\nclassify("a text")\n'
        ),
        "class": (
            'pipeline("text-classification", model="PATH/TO/THIS/FOLDER")\n'
            'classify("a text", truncation=True, max_length=64)\n'
        ),
    }
    assert called[form] in card
    task = {"tags": "token-classification", "class": "text-classification"}[form]
    assert header["pipeline_tag"] == entry["task"]["type"] == task
    assert entry["task"]["name"] == task.capitalize().replace("-", " ")
    assert [(one["type"], one["value"]) for one in entry["metrics"]] == [
        ("f1", 0.75),
        ("precision", 0.5),
        ("recall", 1.0),
        ("accuracy", 0.9),
    ]
    assert ("tags of words: O, B-PER, I-PER." in card) == (form == "tags")
    exported = ExportRecord.model_validate(
        {
            "opset": 17,
            "fingerprint": "f",
            "weights": {},
            "rows": "here",
            "pair": False,
            "max_length": 64,
            "parity": {"rows": 3, "max_difference": 1e-6, "alone": 1, "other_answers": 0},
            "bytes": {"onnx": 10},
            "form": form,
        }
    )
    assert f"await pipeline('{task}', 'NAME'" in export_section(exported)


def test_the_pipeline_of_the_card_finds_entities_and_cuts_long_texts(
    tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    size = len(tokenizer)
    config = BertConfig(vocab_size=size, intermediate_size=8, max_position_embeddings=16, **sizes)
    config.id2label = dict(enumerate(("B-X", "I-X", "O")))
    tagger = BertForTokenClassification(config)
    torch.nn.init.zeros_(tagger.classifier.weight)
    tagger.classifier.bias.data = torch.tensor([0.0, 1.0, -1.0])  # every word continues an X
    tagger.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path, legacy_format=False)
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    saved["model_max_length"] = 16  # as a run saves it
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(saved), encoding="utf-8")
    find = pipeline("token-classification", model=str(tmp_path), aggregation_strategy="first")
    word = next(word for word in tokenizer.vocab if word.isalpha())
    (found,) = find(" ".join([word] * 3))
    assert (found["entity_group"], found["start"], found["end"]) == ("X", 0, 3 * len(word) + 2)
    (cut,) = find(" ".join([word] * 40))
    assert cut["end"] == 14 * (len(word) + 1) - 1


def test_what_was_measured_of_another_model_is_left_out() -> None:
    card = (
        "---\ntags:\n- layermix\nmodel-index:\n- name: mine\n  results:\n  - task: x\n"
        "license: mit\n---\n# Mine\n\nmodel-index:\n- stays\n"
    )
    for section in ("export", "vocabulary", "speed"):
        card = with_section(card, section, f"## {section}\n\n- a\n")
    left = of_changed_model(card)
    assert left.startswith(
        "---\ntags:\n- layermix\nlicense: mit\n---\n# Mine\n\nmodel-index:\n- stays"
    )
    assert "## vocabulary\n" in left
    assert "## export" not in left
    assert "## speed" not in left
    assert of_changed_model("# Mine\n") == "# Mine\n"
