"""A student of probabilities: those in the data, and the mean of several teachers'."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from layermix.config import DistillConfig
from layermix.core.signals import LOGITS_ONLY
from layermix.data.texts import TextData, from_splits
from layermix.errors import ConfigError, ModelError, ResumeError, WeakTeacherError
from layermix.evaluation.metrics import UNLABELLED, softmax
from layermix.models.encoder import Classifier, HFEncoder
from layermix.models.inference import TorchRunner, logits_of
from layermix.models.soft_label_teacher import SoftLabelTeacher
from layermix.models.students import copy_blocks
from layermix.problems.classification import CLASSIFICATION, SMALLEST
from layermix.runs import pipeline
from layermix.runs.model_card import model_card
from layermix.runs.reader import RunFiles
from layermix.runs.schema import read_result
from layermix.runs.soft_labels import prepare_mean, prepare_soft

SMALL = {
    "preset": "soft",
    "teacher": {"allow_weak": True},
    "training": {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "log_every": 1,
        "precision": "fp32",
    },
    "cache": {"precision": "fp32"},
}


def config(**sections: Any) -> DistillConfig:
    merged = {name: {**SMALL.get(name, {}), **own} for name, own in sections.items()}
    return DistillConfig.model_validate({**SMALL, **merged})


@pytest.fixture
def teacher(bert: Callable[..., Any], tokenizer: Any) -> Classifier:
    return Classifier(bert(4, 16, seed=2), tokenizer, "one teacher")


@pytest.fixture
def other(bert: Callable[..., Any], tokenizer: Any) -> Classifier:
    return Classifier(bert(2, 16, seed=3), tokenizer, "runs/another")


def student_of(teacher: Classifier) -> Classifier:
    return copy_blocks(teacher, 2)


def rows_with(
    texts: TextData, probabilities: Mapping[str, Any], labels: bool = True
) -> dict[str, list[dict[str, Any]]]:
    """The rows of texts with two columns of probabilities, to six decimals as `predict` writes."""
    return {
        split: [
            {"text": row["text"], "p_0": round(float(no), 6), "p_1": round(float(yes), 6)}
            | ({"label": row["label"]} if labels else {})
            for row, (no, yes) in zip(texts.splits[split], probabilities[split], strict=True)
        ]
        for split in texts.splits
    }


def of_teacher(teacher: Classifier, texts: TextData) -> dict[str, Any]:
    """Split -> the probabilities that a teacher gives its rows."""
    prepared = pipeline.prepare(
        teacher, teacher, texts, config(data={"augment": None}), pipeline.Reporter(quiet=True)
    )
    run = TorchRunner(HFEncoder(teacher.model))
    return {
        split: softmax(logits_of(run, rows, prepared.collate))
        for split, rows in prepared.splits.items()
    }


@pytest.fixture
def data(texts: Callable[..., TextData]) -> TextData:
    return texts(26, 10)


@pytest.fixture
def soft(teacher: Classifier, data: TextData) -> TextData:
    return from_splits(rows_with(data, of_teacher(teacher, data)), soft_labels="beside")


def losses(result: pipeline.Result, part: str = "loss_logit") -> list[float]:
    return [line[part] for line in result.history if part in line]


def test_the_signal_of_soft_labels() -> None:
    given = SoftLabelTeacher(
        np.array([7, 3]), CLASSIFICATION.logits_of(np.array([[1.0, 0.0], [0.25, 0.75]]))
    )
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    signal = given({"row_id": torch.tensor([3, 7]), "attention_mask": mask})
    expected = torch.tensor([[0.25, 0.75], [1, 0]])
    assert torch.allclose(signal.logits.softmax(-1), expected, atol=2 * SMALLEST)
    assert (given.provides, signal.hidden) == (LOGITS_ONLY, None)
    assert signal.mask.tolist() == mask.bool().tolist()
    with pytest.raises(ModelError, match="row 4 has no soft label"):
        given({"row_id": torch.tensor([4]), "attention_mask": mask[:1]})
    assert np.isfinite(CLASSIFICATION.logits_of(np.eye(3))).all()


def test_soft_labels_of_a_teacher_teach_what_it_teaches(
    teacher: Classifier, data: TextData, soft: TextData
) -> None:
    wanted = config(data={"augment": None}, loss={"supervised_weight": 1})
    live = pipeline.distill_from(teacher, student_of(teacher), data, wanted)
    given = pipeline.distill_from(None, student_of(teacher), soft, wanted)
    assert live.record.signals.startswith("stored")
    assert given.record.signals == "soft labels"
    assert len(losses(live)) == 14
    assert losses(given) == pytest.approx(losses(live), abs=1e-5)
    for name in ("accuracy", "agreement"):
        one, two = (run.metrics["last"]["validation"][name] for run in (live, given))
        assert one == two


def test_the_run_folder_of_soft_labels(teacher: Classifier, soft: TextData, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pipeline.distill_from(None, student_of(teacher), soft, config(), out=out)
    record = read_result(out)
    assert record.teacher.place == "the columns p_0, p_1"
    assert record.teacher.parameters is None
    assert record.teacher.score("accuracy") is not None
    assert record.interval.difference is not None
    columns = pq.read_table(out / "predictions.parquet").column_names
    assert {"teacher", "teacher_confidence"} <= set(columns)
    assert "`the columns p_0, p_1`" in (out / "student" / "README.md").read_text()
    assert RunFiles(out).problems == []


def test_a_card_takes_the_names_of_columns_for_no_path(teacher: Classifier, soft: TextData) -> None:
    record = pipeline.distill_from(None, student_of(teacher), soft, config()).record
    columns = "the columns " + ", ".join(f"p_role/{number}/code" for number in range(60))
    known = record.teacher.model_copy(update={"place": columns})
    card = model_card(record.model_copy(update={"teacher": known}), "student")
    assert f"from `{columns}` on" in card


def test_rows_without_a_label_are_skipped_by_the_loss_on_labels(
    teacher: Classifier, data: TextData
) -> None:
    rows = rows_with(data, of_teacher(teacher, data), labels=False)
    texts = from_splits(rows, soft_labels="beside")
    result = pipeline.distill_from(None, student_of(teacher), texts, config())
    assert losses(result, "loss_supervised") == []
    assert result.record.formula == "L = 1·L_logit[soft_cross_entropy]"
    assert min(losses(result)) > 0
    assert result.record.data.guessed == {"validation": 10}
    assert result.record.interval.difference is None
    assert result.record.teacher.score("accuracy") is None  # it would be right by construction
    for options in ({"class_weights": "balanced"}, {"label_smoothing": 0.1}):
        with pytest.raises(ConfigError, match="act on labels, and no training row has one"):
            pipeline.distill_from(None, student_of(teacher), texts, config(loss=options))
    prepared = prepare_soft(student_of(teacher), texts, config())
    assert set(prepared.splits["train"]["labels"]) == {UNLABELLED}
    # A held-out row is scored, so its most probable class stands for its label.
    held_out = config(training={"selection": "holdout", "holdout_fraction": 0.3})
    prepared = prepare_soft(student_of(teacher), texts, held_out)
    assert UNLABELLED not in prepared.splits["holdout"]["labels"][:]
    assert set(prepared.splits["train"]["labels"]) == {UNLABELLED}


def test_resumed_with_other_soft_labels(
    teacher: Classifier, soft: TextData, tmp_path: Path
) -> None:
    class Stop(pipeline.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    saving, out = config(training={"save_every": 2}), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        pipeline.distill_from(None, student_of(teacher), soft, saving, out=out, callbacks=[Stop()])
    rows = {
        split: [
            {"text": row["text"], "label": row["label"], "p_0": 0.6, "p_1": 0.4} for row in texts
        ]
        for split, texts in soft.splits.items()
    }
    changed = from_splits(rows, soft_labels="beside")
    again = {"out": out, "resume": True}
    with pytest.raises(ResumeError, match="or the soft labels"):
        pipeline.distill_from(None, student_of(teacher), changed, saving, **again)
    resumed = pipeline.distill_from(None, student_of(teacher), soft, saving, **again)
    whole = pipeline.distill_from(None, student_of(teacher), soft, saving)
    assert [*resumed.history] == [*whole.history]


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        ({"hidden_weight": 10}, ["loss.hidden_weight is 10, but the term needs hidden states"]),
        ({"logit": "mse"}, ["loss.logit is mse, which compares logits"]),
        (
            {"embedding_weight": 1, "attention_weight": 0.5},
            ["loss.embedding_weight is 1", "loss.attention_weight is 0.5"],
        ),
    ],
)
def test_terms_that_need_more_are_refused(
    teacher: Classifier, other: Classifier, soft: TextData, loss: Any, told: list[str]
) -> None:
    wanted, student, quiet = config(loss=loss), student_of(teacher), pipeline.Reporter(quiet=True)
    for call in (
        lambda: prepare_soft(student, soft, wanted),
        lambda: prepare_mean([teacher, other], student, soft, wanted, quiet),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        for part in (*told, "--preset soft"):
            assert part in str(caught.value)


def test_new_rows_and_rows_without_probabilities_need_a_teacher_model(
    teacher: Classifier, soft: TextData
) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.augment is 9, but without a teacher model nobody"
    ):
        prepare_soft(student_of(teacher), soft, config(data={"augment": 9}))
    rows = {split: list(texts) for split, texts in soft.splits.items()}
    for row in (row for split in rows.values() for row in split):
        row["p_0"], row["p_1"] = row.pop("probabilities")
    texts = from_splits(rows | {"unlabeled": [{"text": "a b"}]}, soft_labels="beside")
    share = config(training={"unlabeled_share": 0.5})
    prepared = prepare_soft(student_of(teacher), texts, share)
    assert len(prepared.splits["train"]) == len(soft.splits["train"])
    assert prepared.unlabeled_share is None
    assert {"unlabeled-left-out", "unused-settings"} <= {note.code for note in prepared.notes}


def test_soft_labels_that_are_no_better_than_one_class(teacher: Classifier, data: TextData) -> None:
    wrong = {
        split: [[row["label"], 1 - row["label"]] for row in rows]
        for split, rows in data.splits.items()
    }
    texts = from_splits(rows_with(data, wrong), soft_labels="beside")
    strict = config(teacher={"allow_weak": False})
    with pytest.raises(WeakTeacherError, match=r"memory: the soft labels have accuracy 0\.0000 on"):
        pipeline.distill_from(None, student_of(teacher), texts, strict)


def test_neither_a_teacher_nor_soft_labels(teacher: Classifier, data: TextData) -> None:
    with pytest.raises(ConfigError, match="found neither a teacher nor soft labels"):
        pipeline.distill_from(None, student_of(teacher), data, config())


@pytest.mark.parametrize("cache", [True, False])
def test_the_mean_of_several_teachers(
    teacher: Classifier, other: Classifier, data: TextData, cache: bool
) -> None:
    wanted = config(data={"augment": 12}, cache={"use": cache})
    quiet = pipeline.Reporter(quiet=True)
    prepared = prepare_mean([teacher, other], student_of(teacher), data, wanted, quiet)
    one, two = (of_teacher(each, data) for each in (teacher, other))
    means = {split: (one[split] + two[split]) / 2 for split in one}
    signal = pipeline.soft_label_teacher(prepared)
    rows = prepared.splits["train"]
    batch = prepared.collate([rows[index] for index in range(len(rows))])
    assert np.allclose(signal(batch).logits.softmax(-1)[:26].numpy(), means["train"], atol=1e-5)
    assert np.allclose(softmax(prepared.teacher_logits["validation"]), means["validation"], 1e-4)
    assert prepared.texts.soft_labels == "the mean of one teacher, another"
    # The new rows have probabilities, and no label.
    assert rows["labels"][26:] == [UNLABELLED] * 12
    assert np.allclose(signal(batch).logits.softmax(-1).sum(-1), 1)


def test_several_teachers_by_name(
    teacher: Classifier, other: Classifier, data: TextData, tmp_path: Path
) -> None:
    for name, model in (("a", teacher), ("b", other)):
        model.model.save_pretrained(tmp_path / name)
        model.tokenizer.save_pretrained(tmp_path / name)
    folder = tmp_path / "data"
    folder.mkdir()
    for split, rows in data.splits.items():
        lines = [json.dumps({"text": row["text"], "label": row["label"]}) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    wanted = config(
        teacher={"model": f"{tmp_path / 'a'},{tmp_path / 'b'}"},
        data={"path": str(folder), "augment": None},
    )
    result = pipeline.distill(wanted, tmp_path / "run")
    assert result.record.teacher.place == "the mean of a, b"
    assert result.record.signals == "soft labels"
    assert result.student.model.config.num_hidden_layers == 2  # half of the first teacher's
    again = pipeline.distill(wanted)
    assert [*again.history] == [*result.history]
    with pytest.raises(pipeline.CacheError, match="found several teachers, wanted one"):
        pipeline.build_cache(wanted)


def test_blocks_of_a_model_without_a_teacher(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    teacher.model.save_pretrained(tmp_path / "model")
    teacher.tokenizer.save_pretrained(tmp_path / "model")
    for given, blocks in (({"layers": 2}, 2), ({"blocks": [3]}, 1), ({}, 4)):
        student = {"model": str(tmp_path / "model"), **given}
        made = pipeline.make_student(config(student=student), None, data)
        assert made.model.config.num_hidden_layers == blocks
    with pytest.raises(ConfigError, match="without a teacher model the student must be one"):
        pipeline.make_student(config(student={"layers": 2}), None, data)


def test_only_labels_say_how_good_the_soft_labels_are(teacher: Classifier, data: TextData) -> None:
    """Most validation rows have no label, and where they have one the soft labels are wrong."""
    sides = {
        split: [[0.9, 0.1] if n % 2 else [0.2, 0.8] for n in range(len(texts))]
        for split, texts in data.splits.items()
    }
    rows = rows_with(data, sides, labels=False)
    for row in rows["validation"][:4]:
        row["label"] = int(row["p_0"] > row["p_1"])
    texts = from_splits(rows, soft_labels="beside")
    assert len(set(texts.splits["validation"]["label"][:4])) == 2
    with pytest.raises(WeakTeacherError, match=r"the soft labels have accuracy 0\.0000 on 4 valid"):
        prepare_soft(student_of(teacher), texts, config(teacher={"allow_weak": False}))
    prepared = prepare_soft(student_of(teacher), texts, config())
    assert prepared.teacher_scores["validation"]["accuracy"] == 0
    assert prepared.guessed("validation").sum() == 6


def test_a_mean_is_known_by_its_teachers(
    teacher: Classifier, other: Classifier, data: TextData
) -> None:
    """Not by its numbers, which differ by the number of threads."""
    quiet, student = pipeline.Reporter(quiet=True), student_of(teacher)
    wanted = config(data={"augment": None})
    one, two, alone = (
        prepare_mean(teachers, student, data, wanted, quiet).teacher_fingerprint
        for teachers in ([teacher, other], [teacher, other], [teacher, teacher])
    )
    assert one == two != alone
    assert str(one).split()[0] == str(alone).split()[1]
