"""From outside: a kind of label of one's own reaches a run folder, a resume, a report, predictions.

Ordinal labels (poor, fair, good): a class far from the label is worse than one beside it. It is
written as a user would write it, against the protocol `Problem` alone.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, BertTokenizer, TrainerCallback

from layermix.config import DataConfig, DistillConfig, LabelLossConfig, TeachConfig
from layermix.core.terms import ForwardPass, Term
from layermix.data.texts import TextData, from_splits
from layermix.errors import ConfigError, ModelError, WeakTeacherError
from layermix.evaluation.forms import Form
from layermix.models.encoder import Classifier
from layermix.models.students import copy_blocks
from layermix.problems.problem import Problem
from layermix.report.build import report
from layermix.runs.pipeline import distill_from, teach_from
from layermix.runs.schema import read_result
from layermix.serving.evaluate import evaluate
from layermix.serving.predict import predict

LEVELS = ("fair", "good", "poor")  # in the order of the classes, which is alphabetical
RANKS = np.array([1, 2, 0])
"""Class index -> its place from poor to good."""


class RankedProbability(Term):
    """The ranked probability score: squared differences of the cumulative probabilities."""

    name, symbol = "supervised", "L_sup[ranked probability]"

    def forward(self, given: ForwardPass) -> torch.Tensor:
        order = torch.from_numpy(RANKS.argsort())
        labels = given.batch["labels"]
        known = labels >= 0
        probabilities = given.student.logits.softmax(-1)[:, order].cumsum(-1)
        rank = torch.from_numpy(RANKS)[labels.clamp(min=0)]
        wanted = (torch.arange(len(RANKS)) >= rank[:, None]).float()
        return (probabilities - wanted).square().sum(-1) * known


class Median:
    """Always answering the level in the middle of the labels."""

    def __init__(self, labels: Any) -> None:
        self.ranks = RANKS[labels[labels >= 0]]
        self.value = float(np.abs(self.ranks - np.median(self.ranks)).mean())
        self.labels = labels

    @property
    def perfect(self) -> bool:
        return self.value == 0

    def beaten_by(self, logits: Any) -> bool:
        return ORDINAL.scores(logits, self.labels)["distance"] < self.value

    def compared(self, logits: Any) -> str:
        own = ORDINAL.scores(logits, self.labels)["distance"]
        return f"distance {own:.4f}; always answering the middle has {self.value:.4f}"


class Ordinal(Problem):
    """One of several ordered levels for each row."""

    name = "ordinal"
    form: Form = "class"  # as labels are read
    supervised = "ranked probability"
    logit_losses = soft_losses = ("soft_cross_entropy", "kl")
    default_scores = ("distance", "agreement")
    config: Mapping[str, Any] = {"problem_type": "single_label_classification"}
    higher_is_better: Mapping[str, bool] = {"distance": False, "agreement": True}

    def missing(self, outputs: int) -> int:
        return -100

    def labelled(self, labels: Any) -> Any:
        return labels >= 0

    def values(self, logits: Any) -> Any:
        return torch.as_tensor(logits).double().softmax(-1).numpy()

    def logits_of(self, values: Any) -> Any:
        return np.log(np.maximum(values, 1e-7)).astype(np.float32)

    def supervised_term(
        self, loss: LabelLossConfig, weight: float, labels: Any, names: Sequence[str]
    ) -> Term:
        if loss.class_weights is not None:
            raise ConfigError("loss.class_weights: levels have no weights")
        return RankedProbability(weight)

    def scores(
        self, logits: Any, labels: Any, teacher_logits: Any | None = None
    ) -> dict[str, float]:
        known = labels >= 0
        gap = np.abs(RANKS[self.answers(logits)] - RANKS[labels])[known]
        scores = {"distance": float(gap.mean())}
        if teacher_logits is not None:
            scores["agreement"] = float(self.same(logits, teacher_logits)[known].mean())
        return scores

    def details(self, logits: Any, labels: Any, names: Sequence[str]) -> dict[str, Any]:
        return {}

    def answers(self, logits: Any) -> Any:
        return np.asarray(logits).argmax(-1)

    def same(self, first: Any, second: Any) -> Any:
        return self.answers(first) == self.answers(second)

    def columns(self, logits: Any, names: Sequence[str]) -> dict[str, Any]:
        return {"prediction": self.answers(logits)}

    def written(self, logits: Any, names: Sequence[str]) -> Mapping[str, Sequence[Any]]:
        answers = self.answers(logits)
        return {"level": [names[one] for one in answers], "rank": RANKS[answers].tolist()}

    def teacher_columns(self, logits: Any) -> dict[str, Any]:
        return {"teacher": self.answers(logits), "teacher_confidence": np.ones(len(logits))}

    def only_answer(self, logits: Any, labels: Any, names: Sequence[str]) -> str | None:
        return None

    def trivial(self, labels: Any, score: str) -> Median:
        return Median(labels)


ORDINAL: Problem = Ordinal()


def rows(count: int) -> list[dict[str, str]]:
    """Of how many of three letters is the text made? One: poor, two: fair, three: good."""
    texts = ("a b a c b", "b c c a a", "c a b b c")
    made = []
    for number in range(count):
        level = number % 3
        letters = {0: "x x x", 1: "x x y", 2: "y y y"}[level]
        label = ("poor", "fair", "good")[level]
        made.append({"text": f"{letters} {texts[number % 2]} {'abc'[number % 3]}", "label": label})
    return made


@pytest.fixture
def data() -> TextData:
    return from_splits({"train": rows(40), "validation": rows(12)}, problem=ORDINAL)


@pytest.fixture
def base(bert: Callable[..., BertForSequenceClassification], tokenizer: BertTokenizer) -> Any:
    model = bert(4, 32, dropout=0, seed=2)
    model.config.num_labels = model.num_labels = 3
    model.classifier = torch.nn.Linear(32, 3)
    model.config.id2label = dict(enumerate(LEVELS))
    model.config.label2id = {name: index for index, name in enumerate(LEVELS)}
    return Classifier(model, tokenizer, "a tiny model")


RECIPE = {"epochs": 3, "batch_size": 4, "learning_rate": 2e-3, "log_every": 2, "save_every": 2}


class Kill(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt


def test_a_kind_of_label_of_ones_own_reaches_everything(
    base: Classifier, data: TextData, tmp_path: Path
) -> None:
    taught = teach_from(base, data, TeachConfig.model_validate({"training": RECIPE}))
    teacher = taught.student
    assert (
        taught.history[-1]["eval_validation_distance"]
        < Median(np.array(data.splits["validation"]["label"][:])).value
    )
    settings = DistillConfig.model_validate(
        {
            "preset": "quick",
            "training": {**RECIPE, "selection": "holdout", "holdout_fraction": 0.25},
        }
    )

    def distil(name: str, **options: Any) -> Any:
        out = tmp_path / name
        return distill_from(teacher, copy_blocks(teacher, 2), data, settings, out=out, **options)

    straight = distil("straight")
    with pytest.raises(KeyboardInterrupt):
        distil("killed", callbacks=[Kill()])
    resumed = distil("killed", resume=True)
    first, second = (
        load_file(one.folder / "student" / "model.safetensors") for one in (straight, resumed)
    )
    assert all(first[name].equal(second[name]) for name in first)

    record = read_result(straight.folder)
    assert (record.problem, record.metric) == ("ordinal", "distance")
    assert (record.formula or "").startswith("L = 1·L_sup[ranked probability] + 1·L_logit")
    assert record.calibration is None
    by_epoch = [
        line["eval_holdout_distance"]
        for line in straight.history
        if "eval_holdout_distance" in line
    ]
    best = 1 + by_epoch.index(min(by_epoch))  # less is better
    assert record.metrics.selected is not None
    assert record.metrics.selected.epoch == best
    written = pq.read_table(straight.folder / "predictions.parquet")
    assert {"prediction", "teacher"} <= set(written.column_names)
    page, _ = report(straight.folder)
    text = page.read_text(encoding="utf-8")
    assert "distance" in text
    assert "so it keeps" not in text  # a share of the teacher's distance means nothing

    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(9)))
    run = str(straight.folder)
    scores = evaluate(run, DataConfig(path=str(file)), problem=ORDINAL)[file.name]
    assert scores["rows"] == 9
    assert scores["distance"] >= 0
    predict(run, str(file), str(tmp_path / "out.jsonl"), problem=ORDINAL)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert list(lines[0]) == ["text", "level", "rank"]
    assert all(RANKS[LEVELS.index(line["level"])] == line["rank"] for line in lines)
    with pytest.raises(ModelError, match="of the kind 'ordinal', wanted one of classification"):
        predict(run, str(file), str(tmp_path / "other.jsonl"))


def test_its_trivial_answer_and_its_options_are_asked(base: Classifier, data: TextData) -> None:
    torch.nn.init.zeros_(base.model.classifier.weight)  # it answers one level
    with pytest.raises(WeakTeacherError, match="always answering the middle has"):
        distill_from(base, copy_blocks(base, 2), data, DistillConfig(preset="quick"))
    weighted = TeachConfig.model_validate({"loss": {"class_weights": "balanced"}})
    with pytest.raises(ConfigError, match="levels have no weights"):
        teach_from(base, data, weighted)
    other = {"preset": "quick", "teacher": {"allow_weak": True}, "loss": {"supervised": "mse"}}
    with pytest.raises(ConfigError, match=r"loss\.supervised is mse, but the labels of these data"):
        distill_from(base, copy_blocks(base, 2), data, DistillConfig.model_validate(other))
