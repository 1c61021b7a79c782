"""A whole run: in memory, with a folder, stopped, resumed, refused."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from layermix.config import DistillConfig, TeachConfig, load
from layermix.console import Reporter
from layermix.core.checkpoints import CHECKSUMS, seal
from layermix.data.texts import TextData
from layermix.errors import ConfigError, ModelError, NonFiniteLossError, Note, RunExistsError
from layermix.evaluation import metrics
from layermix.models.encoder import Classifier, HFEncoder
from layermix.models.inference import TorchRunner, logits_of
from layermix.models.loading import load_classifier
from layermix.models.students import copy_blocks
from layermix.runs import pipeline, training
from layermix.runs.callbacks import needed_to_resume, score_table
from layermix.runs.environment import environment
from layermix.runs.layout import RESULT
from layermix.runs.prepare import prepare
from layermix.runs.reader import RunFiles
from layermix.runs.schema import FORMAT, EnvironmentRecord, RunRecord, read_result

from ...tiny_configs import whole

CONFIG = {
    "teacher": {"allow_weak": True},
    "training": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "log_every": 2},
}

SAME_AGAIN = ("history.jsonl", "alpha.jsonl", "predictions.parquet", "student/model.safetensors")
"""Files of a run that the same seed gives byte for byte."""


@pytest.fixture
def teacher(bert: Callable[..., Any], tokenizer: Any) -> Classifier:
    return Classifier(bert(4, 16, seed=2), tokenizer, "a tiny teacher")


@pytest.fixture
def data(texts: Callable[..., TextData]) -> TextData:
    return texts(26, 10)


@pytest.fixture
def data_folder(tmp_path: Path, data: TextData) -> Path:
    folder = tmp_path / "letters"
    folder.mkdir()
    for name, split in data.splits.items():
        lines = [f"{row['text']}\t{row['label']}\n" for row in split]
        (folder / f"{name}.tsv").write_text("text\tlabel\n" + "".join(lines))
    return folder


@pytest.fixture
def teacher_folder(tmp_path: Path, teacher: Classifier) -> Path:
    folder = tmp_path / "teacher"
    teacher.model.save_pretrained(folder)
    teacher.tokenizer.save_pretrained(folder)
    return folder


class Listening(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.console = Console(record=True, stderr=True, width=1000, quiet=False)
        self.said: list[str] = []

    def say(self, note: Note | str, style: str | None = None) -> None:
        self.said.append(str(note))


def config(**sections: Any) -> DistillConfig:
    """The small config above, with sections laid over it."""
    merged = {name: {**CONFIG.get(name, {}), **own} for name, own in sections.items()}
    return whole(**{**CONFIG, **merged})


def test_in_memory_nothing_is_kept(
    teacher: Classifier, data: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, config())
    assert list(result.metrics) == ["last", "best_on_dev"]
    assert result.metrics["last"]["epoch"] == 2
    assert 0 <= result.metrics["last"]["validation"]["agreement"] <= 1
    assert np.allclose(np.sum(result.record.alpha, -1), 1)
    assert result.folder is None
    assert list(tmp_path.iterdir()) == []


def test_the_run_folder(teacher: Classifier, data: TextData, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, config(), out=out)
    assert sorted(path.name for path in out.iterdir()) == [
        "alpha.jsonl",
        "config.yaml",
        "environment.json",
        "history.jsonl",
        "predictions.parquet",
        "result.json",
        "student",
        "texts.parquet",
    ]
    assert not (tmp_path / "run.partial").exists()
    record = read_result(out)
    assert record == result.record
    assert record.format == FORMAT
    assert record.to_dict()["metrics"] == result.metrics
    assert record.trained.blocks == (0, 1)
    assert record.data.rows == {"train": 26, "validation": 10}
    environment = EnvironmentRecord.from_json((out / "environment.json").read_text())
    assert environment.packages["torch"] == torch.__version__
    assert load(DistillConfig, out / "config.yaml") == config()
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert history == list(result.history)
    parts = history[0]
    weighted = parts["loss_supervised"] + parts["loss_logit"] + parts["loss_hidden"]
    assert parts["loss"] == pytest.approx(weighted - 0.1 * parts["loss_entropy"], rel=1e-5)
    assert parts["loss_entropy"] == pytest.approx(2 * np.log(2), rel=1e-3)
    assert np.shape(parts["alpha"]) == (2, 2)
    steps = [json.loads(line) for line in (out / "alpha.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == list(range(1, history[-1]["step"] + 1))
    assert steps[0]["alpha"] == [[0.5, 0.5]] * 2
    logged = {line["step"]: line["alpha"] for line in history if "alpha" in line}
    for line in steps:
        assert np.allclose(line["alpha"], logged.get(line["step"], line["alpha"]), atol=1e-6)
    assert steps[-1]["alpha"] != steps[0]["alpha"]


@pytest.mark.parametrize("selection", ["none", "holdout"])
def test_words_that_do_not_occur_in_training_stay_as_the_teacher_has_them(
    teacher: Classifier, data: TextData, selection: str
) -> None:
    config = whole(**{**CONFIG, "training": {**CONFIG["training"], "selection": selection}})
    student = copy_blocks(teacher, 2)
    pipeline.distill_from(teacher, student, data, config)
    found, start = (one.model.get_input_embeddings().weight for one in (student, teacher))
    moved = {token for token in range(len(start)) if not found[token].equal(start[token])}
    tokens = teacher.tokenizer(list(data.splits["train"]["text"]))["input_ids"]
    occur = {token for row in tokens for token in row}
    assert moved
    assert moved <= occur | {teacher.tokenizer.pad_token_id}
    assert occur < set(range(len(start)))


def test_the_saved_student_and_its_predictions_are_the_trained_one(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, config(), out=out)
    model = AutoModelForSequenceClassification.from_pretrained(out / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "student")
    stored = pq.read_table(out / "predictions.parquet")
    numbers = [
        kind
        for name, kind in zip(stored.schema.names, stored.schema.types, strict=True)
        if name != "report"
    ]
    assert {str(kind) for kind in numbers} == {"int32", "float"}
    table = stored.to_pylist()
    last = [row for row in table if row["report"] == "last"]
    assert [row["row_id"] for row in last] == data.splits["validation"]["row_id"][:]
    assert [row["label"] for row in last] == data.splits["validation"]["label"][:]
    texts = pq.read_table(out / "texts.parquet").to_pydict()
    assert texts == {name: data.splits["validation"][name][:] for name in ("row_id", "text")}
    for row, text in zip(last, data.splits["validation"]["text"], strict=True):
        with torch.no_grad():
            known = teacher.model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
            assert row["teacher"] == known.argmax()
            assert row["teacher_confidence"] == pytest.approx(float(known.max()), abs=1e-5)
            chance = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
        assert chance.tolist() == pytest.approx([row["p_0"], row["p_1"]], abs=1e-5)


def test_the_same_seed_gives_the_same_files_and_another_does_not(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        chosen = config().model_copy(update={"seed": seed})
        pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, chosen, out=tmp_path / name)
    for file in SAME_AGAIN:
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b
        assert a != c


def test_holdout_keeps_rows_out_and_saves_the_selected_epoch(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    chosen = config(training={"selection": "holdout", "holdout_fraction": 0.3, "epochs": 4})
    out = tmp_path / "run"
    result = pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, chosen, out=out)
    rows = result.record.data.rows
    assert rows["train"] + rows["holdout"] == 26
    assert list(result.metrics) == ["last", "selected"]
    scores = {
        line["epoch"]: line["eval_holdout_accuracy"]
        for line in result.history
        if "eval_holdout_accuracy" in line
    }
    best = max(scores.values())
    assert result.metrics["selected"]["epoch"] == min(e for e, s in scores.items() if s == best)
    prepared = prepare(teacher, result.student, data, chosen, Reporter(quiet=True))
    logits = logits_of(
        TorchRunner(HFEncoder(result.student.model)),
        prepared.splits["validation"],
        prepared.collate,
    )
    again = metrics.scores(logits, np.asarray(prepared.splits["validation"]["labels"]))
    assert again["nll"] == pytest.approx(result.metrics["selected"]["validation"]["nll"], rel=1e-4)
    selected = result.metrics["selected"]["epoch"]
    assert selected < 4  # else α at the end would be right, too
    (alpha,) = (
        line["alpha"] for line in result.history if line["epoch"] == selected and "alpha" in line
    )
    assert result.record.to_dict()["alpha"] == alpha


def test_a_teacher_that_saw_the_held_out_rows_is_told(
    teacher_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    training = {**CONFIG["training"], "selection": "holdout", "holdout_fraction": 0.3, "epochs": 1}
    named = {"teacher": str(teacher_folder), "data": str(data_folder), "training": training}
    reporter = Listening()
    weak = {"teacher": {"model": str(teacher_folder), "allow_weak": True}}
    pipeline.distill(DistillConfig.model_validate({**named, **weak}), reporter=reporter)
    assert pipeline.HOLDOUT_WARNING.text in reporter.said

    taught = tmp_path / "taught"
    teach = {"model": str(teacher_folder), "data": str(data_folder), "training": training}
    pipeline.teach(TeachConfig.model_validate(teach), taught)
    assert (taught / "teacher" / "model.safetensors").is_file()
    reporter = Listening()
    weak = {"teacher": {"model": str(taught), "allow_weak": True}}
    pipeline.distill(DistillConfig.model_validate({**named, **weak}), reporter=reporter)
    assert pipeline.HOLDOUT_WARNING.text not in reporter.said


@pytest.mark.parametrize("strategy", ["fixed", "learned"])
def test_settings_of_a_learned_mix_are_told_where_none_is_learned(
    teacher: Classifier, data: TextData, strategy: str
) -> None:
    reporter = Listening()
    mix = {"strategy": strategy, "learning_rate": 0.05, "schedule": "constant"}
    chosen = whole(**CONFIG, mix=mix, loss={"entropy_weight": 5})
    pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, chosen, reporter=reporter)
    told = [said for said in reporter.said if "without effect" in said]
    names = "without effect: mix.learning_rate, mix.schedule, loss.entropy_weight; they need"
    assert len(told) == (strategy == "fixed")
    assert all(names in one for one in told)


def test_teach_leaves_rows_without_labels_out(
    teacher: Classifier, data: TextData, data_folder: Path, tmp_path: Path
) -> None:
    (data_folder / "unlabeled.txt").write_text("q w e r t y\nz x c v b\n")
    chosen = TeachConfig.model_validate(
        {"data": str(data_folder), "training": {**CONFIG["training"], "epochs": 1}}
    )
    loaded = pipeline.load_texts(chosen.data)
    assert len(loaded.splits["unlabeled"]) == 2
    found = pipeline.teach_from(teacher, loaded, chosen)
    assert found.record.data.rows["train"] == len(data.splits["train"])
    assert any(note.code == "unlabeled-left-out" for note in found.record.notes)


def test_unlabelled_rows_teach_through_the_teacher_only(
    teacher: Classifier, texts: Callable[..., TextData], data_folder: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more.txt"
    more.write_text("q w e r t y\nz x c v b\n")
    results = []
    for weights in ({}, {"logit_weight": 0, "hidden_weight": 0}):
        chosen = config(data={"path": str(data_folder), "unlabeled": str(more)}, loss=weights)
        loaded = pipeline.load_texts(chosen.data)
        results.append(pipeline.distill_from(teacher, copy_blocks(teacher, 2), loaded, chosen))
    assert [one.record.data.rows["train"] for one in results] == [28, 26]
    supervised = [result.history[0]["loss_supervised"] for result in results]
    assert supervised[0] == pytest.approx(supervised[1], rel=0.2)


def test_new_rows_are_mixed_in_at_their_share_and_a_stopped_run_goes_on_with_the_same(
    teacher: Classifier, data: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(
        data={"augment": 50},
        training={"unlabeled_share": 0.5, "save_every": 3, "selection": "holdout"},
    )
    result = pipeline.distill_from(
        teacher, copy_blocks(teacher, 2), data, chosen, out=tmp_path / "straight"
    )
    labelled = result.record.data.rows["train"] - 50
    assert labelled + result.record.data.rows["holdout"] == 26
    steps = -(-2 * labelled // 4)  # of an epoch: as many new rows as labelled ones
    assert [line["step"] for line in result.history if "eval_validation_accuracy" in line] == [
        steps,
        2 * steps,
    ]

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == steps + 5:
                raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(training, "training_bar", lambda *_: nullcontext(Stop()))
        with pytest.raises(KeyboardInterrupt):
            pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, chosen, out=out)
    again = pipeline.distill_from(
        teacher, copy_blocks(teacher, 2), data, chosen, out=out, resume=True
    )
    assert again.record.timings.resumed
    for file in SAME_AGAIN:
        assert (out / file).read_bytes() == (tmp_path / "straight" / file).read_bytes()


def test_a_run_stops_when_held_out_rows_show_no_progress(
    teacher: Classifier, data: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = config(
        training={"selection": "holdout", "patience": 2, "epochs": 9, "learning_rate": 1e-9}
    )
    listening = Listening()
    straight = pipeline.distill_from(
        teacher, copy_blocks(teacher, 2), data, chosen, out=tmp_path / "one", reporter=listening
    )
    assert straight.metrics["last"]["epoch"] == 3  # so small a rate changes no answer
    nll = [line["eval_holdout_nll"] for line in straight.history if "eval_holdout_nll" in line]
    assert len(nll) == 3
    # of equal accuracies, the lowest cross-entropy decides
    assert straight.metrics["selected"]["epoch"] == 1 + int(np.argmin(nll))
    told = (
        "stopped after epoch 3 of 9: accuracy on the held-out rows is no better than 2 epoch(s) "
        "before"
    )
    assert told in listening.said
    # A run that was killed after its last epoch goes no further when it is resumed.
    out, ended = tmp_path / "two", training.Training._write

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Training, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, chosen, out=out)
    monkeypatch.setattr(training.Training, "_write", ended)
    pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, chosen, out=out, resume=True)
    for file in SAME_AGAIN:
        assert (out / file).read_bytes() == (tmp_path / "one" / file).read_bytes()


def test_a_temperature_is_fitted_on_held_out_rows_and_kept(
    teacher: Classifier, texts: Callable[..., TextData], tmp_path: Path
) -> None:
    data, out = texts(120, 40), tmp_path / "run"
    chosen = config(
        loss={"hidden_weight": 0, "logit_weight": 0},
        training={"selection": "holdout", "holdout_fraction": 0.4, "learning_rate": 3e-3},
    )
    result = pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, chosen, out=out)
    calibration = read_result(out).calibration
    assert calibration == result.record.calibration
    student = load_classifier(str(out))
    assert student.model.config.layermix["temperature"] == calibration.temperature
    assert calibration.scores["nll"] == result.metrics["selected"]["validation"]["nll"]
    prepared = prepare(teacher, student, data, chosen, Reporter(quiet=True))
    run = TorchRunner(HFEncoder(student.model))
    rows = {name: prepared.splits[name] for name in ("holdout", "validation")}
    logits = {name: logits_of(run, split, prepared.collate) for name, split in rows.items()}
    labels = {name: np.asarray(split["labels"]) for name, split in rows.items()}
    fitted = metrics.fit_temperature(logits["holdout"], labels["holdout"])
    assert calibration.temperature == pytest.approx(fitted, rel=1e-3)
    cooled = metrics.scores(logits["validation"] / fitted, labels["validation"])
    assert calibration.calibrated["ece"] == pytest.approx(cooled["ece"], abs=1e-3)
    assert pipeline.distill_from(teacher, student, data, config()).record.calibration is None


def test_class_weights_are_those_of_the_training_rows(teacher: Classifier, data: TextData) -> None:
    labels = data.splits["train"]["label"][:]
    weight = len(labels) / 2 / labels.count(0)
    balanced = {"class_weights": "balanced"}
    result = pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, config(loss=balanced))
    other = len(labels) / 2 / labels.count(1)
    assert f"L_sup[cross_entropy, class weights {weight:.3g} {other:.3g}]" in result.record.formula
    assert weight != other
    own = TeachConfig.model_validate({"loss": balanced, "training": CONFIG["training"]})
    plain = own.model_copy(update={"loss": TeachConfig().loss})
    first = [
        pipeline.teach_from(copy_blocks(teacher, 2), data, one).history[0]["loss"]
        for one in (own, plain)
    ]
    assert first[0] != first[1]


@pytest.mark.parametrize(("share", "steps"), [(None, 26), (0.5, 13)])
def test_new_rows_of_auto_have_a_share_of_three_quarters_or_the_given_one(
    teacher: Classifier, data: TextData, share: float | None, steps: int
) -> None:
    chosen = config(data={"augment": "auto"}, training={"unlabeled_share": share, "epochs": 1})
    result = pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, chosen)
    assert result.record.data.rows["train"] == 26 + 5 * 26
    assert result.history[-1]["step"] == steps  # of four rows, with 26 labelled ones


def test_the_new_rows_of_a_file_are_those_of_a_run(
    teacher: Classifier, data: TextData, data_folder: Path, teacher_folder: Path, tmp_path: Path
) -> None:
    sections = {"teacher": {"model": str(teacher_folder)}, "data": {"path": str(data_folder)}}
    file = tmp_path / "new.jsonl"
    augmented = config(**{**sections, "data": {"path": str(data_folder), "augment": 30}})
    note = pipeline.new_rows(augmented, file)
    assert note.text.startswith("30 new rows without labels from 26 training rows: ")
    assert set(json.loads(file.read_text().splitlines()[0])) == {"text"}
    given = config(**{**sections, "data": {"path": str(data_folder), "unlabeled": str(file)}})
    one, other = (pipeline.distill(chosen) for chosen in (augmented, given))
    assert [line.get("loss") for line in one.history] == [
        line.get("loss") for line in other.history
    ]
    with pytest.raises(ConfigError, match="no teacher"):
        pipeline.new_rows(config(data={"path": str(data_folder), "augment": 30}), file)
    none = config(**{**sections, "data": {"path": str(data_folder), "augment": 0}})
    with pytest.raises(ConfigError, match=r"no new rows to write: --data\.augment 0 makes none"):
        pipeline.new_rows(none, file)
    own = tmp_path / "own.txt"
    own.write_text("k l m\n", encoding="utf-8")
    beside = {"path": str(data_folder), "unlabeled": str(own)}
    pipeline.new_rows(config(**{**sections, "data": {**beside, "augment": 4}}), tmp_path / "four")
    assert len((tmp_path / "four").read_text().splitlines()) == 4  # the new ones alone
    with pytest.raises(ConfigError, match="no new rows are made beside your 1 rows without labels"):
        pipeline.new_rows(config(**{**sections, "data": {**beside, "augment": "auto"}}), file)


def test_without_a_teacher_term_no_new_rows_are_made(teacher: Classifier, data: TextData) -> None:
    chosen = config(data={"augment": 50}, loss={"logit_weight": 0, "hidden_weight": 0})
    found = pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, chosen)
    assert found.record.data.rows["train"] == 26
    assert "no-new-rows" in {note.code for note in found.record.notes}


def test_a_share_of_rows_that_are_not_there_is_told(teacher: Classifier, data: TextData) -> None:
    chosen = config(training={"unlabeled_share": 0.5, "epochs": 1})
    found = pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, chosen)
    (note,) = [note for note in found.record.notes if note.code == "unused-settings"]
    assert note.text.startswith("training.unlabeled_share has no effect")


def test_a_student_may_have_another_dropout(
    teacher: Classifier, data: TextData, teacher_folder: Path
) -> None:
    chosen = config(student={"layers": 2, "dropout": 0.25}, teacher={"model": str(teacher_folder)})
    student = pipeline.make_student(chosen, teacher, data)
    assert {one.p for one in student.model.modules() if isinstance(one, torch.nn.Dropout)} == {0.25}
    plain = copy_blocks(teacher, 2).model.state_dict()
    assert all(value.equal(plain[name]) for name, value in student.model.state_dict().items())


def test_test_rows_are_scored_once_with_the_saved_student(
    teacher: Classifier, data: TextData
) -> None:
    with_test = TextData(
        **{**vars(data), "splits": {**data.splits, "test": data.splits["validation"]}}
    )
    result = pipeline.distill_from(teacher, copy_blocks(teacher, 2), with_test, config())
    last = result.metrics["last"]["validation"]
    assert result.metrics["test"]["nll"] == pytest.approx(last["nll"], rel=1e-4)
    assert "test (the saved model)" in score_table(result.record)


def test_a_failure_is_recorded_and_the_run_can_be_resumed(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    student = copy_blocks(teacher, 2)
    with torch.no_grad():
        student.model.bert.encoder.layer[0].output.LayerNorm.weight.fill_(torch.inf)
    with pytest.raises(NonFiniteLossError):
        pipeline.distill_from(teacher, student, data, config(), out=out)
    record = RunRecord.from_json((tmp_path / "run.partial" / RESULT).read_text())
    assert (record.format, record.status) == (FORMAT, "failed")
    assert record.error is not None
    assert "step 1" in record.error
    assert not out.exists()


def test_a_stopped_run_is_recorded_and_goes_on(
    teacher: Classifier, data: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = tmp_path / "straight"
    pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, config(), out=straight)

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 9:
                raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(training, "training_bar", lambda *_: nullcontext(Stop()))
        student = copy_blocks(teacher, 2)
        with pytest.raises(KeyboardInterrupt):
            pipeline.distill_from(teacher, student, data, config(), out=out)
    assert RunFiles(tmp_path / "run").status == "cancelled"
    with pytest.raises(RunExistsError, match="--resume"):
        pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, config(), out=out)
    (checkpoint,) = (tmp_path / "run.partial/checkpoints").glob("checkpoint-*/model.safetensors")
    whole_state = load_file(checkpoint)
    older = {name: one for name, one in whole_state.items() if "word_embeddings" not in name}
    save_file(older, checkpoint, metadata={"format": "pt"})
    reseal(checkpoint.parent)
    with pytest.raises(ModelError, match=r"written by another version.*start over with --restart"):
        pipeline.distill_from(
            teacher, copy_blocks(teacher, 2), data, config(), out=out, resume=True
        )
    save_file(whole_state, checkpoint, metadata={"format": "pt"})
    reseal(checkpoint.parent)
    result = pipeline.distill_from(
        teacher, copy_blocks(teacher, 2), data, config(), out=out, resume=True
    )
    assert result.record.timings.resumed
    for file in SAME_AGAIN:
        assert (out / file).read_bytes() == (straight / file).read_bytes()


def reseal(checkpoint: Path) -> None:
    """Write the checksums of a checkpoint again, as if a run had written its files."""
    (checkpoint / CHECKSUMS).unlink()
    seal(checkpoint, checkpoint.parent, needed_to_resume(checkpoint.parent.parent))


def test_the_recipe_of_tinybert_runs_its_teacher_live(teacher: Classifier, data: TextData) -> None:
    reporter = Listening()
    chosen = config(data={"max_length": 16}).model_dump(exclude_unset=True)
    recipe = DistillConfig.model_validate({**chosen, "preset": "tinybert"})
    result = pipeline.distill_from(
        teacher, copy_blocks(teacher, 2), data, recipe, reporter=reporter
    )
    assert any("outputs at padding" in line for line in reporter.said)
    formula = result.record.formula or ""
    assert "L_emb[tinybert_mean] + 1·L_att[tinybert_mean, heads matched]" in formula
    assert "L_sup" not in formula
    assert {"loss_hidden", "loss_embedding", "loss_logit"} <= result.history[0].keys()


def test_students_of_every_kind(teacher: Classifier, data: TextData, teacher_folder: Path) -> None:
    kinds = {
        "blocks": {"blocks": [0, 2]},
        "model": {"model": str(teacher_folder)},
        "fresh": {"layers": 3, "hidden": 8, "heads": 2, "ffn": 12},
    }
    for kind, wanted in kinds.items():
        student = pipeline.make_student(config(student=wanted), teacher, data)
        assert student.start["kind"] == kind
    assert len(pipeline.blocks_of(student.model)) == 3
    for copied, blocks in (("first", [0, 1]), ("spread", [1, 3])):
        wanted = {"layers": 2, "copied": copied}
        student = pipeline.make_student(config(student=wanted), teacher, data)
        assert student.start["blocks"] == blocks


def test_losses_for_other_labels_are_refused(teacher: Classifier, data: TextData) -> None:
    told = r"loss.supervised is mse, but the labels of these data are for classification"
    with pytest.raises(ConfigError, match=told):
        pipeline.distill_from(
            teacher, copy_blocks(teacher, 2), data, config(loss={"supervised": "mse"})
        )


def test_what_is_not_named_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--teacher FOLDER"):
        pipeline.distill(DistillConfig())
    with pytest.raises(ConfigError, match="--model FOLDER"):
        pipeline.teach(TeachConfig())


def test_a_teacher_that_saw_short_texts_takes_longer_ones(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    """The length of a training is on record for `predict`, and no limit for a later training."""
    longest = teacher.tokenizer.model_max_length
    short = {"data": {"max_length": 8}, "training": {**CONFIG["training"], "epochs": 1}}
    pipeline.teach_from(teacher, data, TeachConfig.model_validate(short), out=tmp_path / "taught")
    taught = load_classifier(str(tmp_path / "taught"), data.label_names)
    assert taught.model.config.layermix == {
        "text_columns": ["text"],
        "max_length": 8,
        "taught": data.train_hash,
        "split_off": False,
        "problem": "classification",
    }
    assert taught.tokenizer.model_max_length == taught.max_length == 32  # the model's own limit
    assert teacher.tokenizer.model_max_length == longest > 32
    chosen = config(data={"max_length": 20})
    result = pipeline.distill_from(taught, copy_blocks(taught, 2), data, chosen)
    assert result.record.data.max_length == 20


def test_the_environment_says_what_a_repeat_needs() -> None:
    found = environment(3)
    assert found.seed == 3
    assert found.packages["torch"] == torch.__version__


def test_trackers_get_the_logs_as_they_are_made(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wanted = config(
        mix={"strategy": "learned"}, training={"report_to": "tensorboard", "log_every": 1}
    )
    out = tmp_path / "run"
    result = pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, wanted, out=out)
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    logged = [scalar.value for scalar in events.Scalars("train/alpha/0/1")]
    alphas = [line["alpha"][0][1] for line in result.history if "alpha" in line]
    assert logged == pytest.approx(alphas)
    assert "train/loss_hidden" in events.Tags()["scalars"]
    assert "eval/validation_accuracy" in events.Tags()["scalars"]


def test_a_tracker_that_is_not_installed_is_told(
    teacher: Classifier, data: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "transformers.integrations.integration_utils.is_wandb_available"
    monkeypatch.setattr(place, lambda: False)
    wanted = config(training={"report_to": "wandb"})
    with pytest.raises(ConfigError, match="names wandb, which is not installed; pip install wandb"):
        pipeline.distill_from(teacher, copy_blocks(teacher, 2), data, wanted)


@pytest.mark.parametrize("bias", [0.0, 50.0])
def test_a_student_that_gives_one_answer_is_told(
    teacher: Classifier, data: TextData, bias: float
) -> None:
    reporter, student = Listening(), copy_blocks(teacher, 2)
    with torch.no_grad():
        student.model.get_submodule("classifier").bias[1] += bias
    chosen = config(training={"epochs": 1, "learning_rate": 1e-9})
    result = pipeline.distill_from(teacher, student, data, chosen, reporter=reporter)
    told = [text for text in reporter.said if "on every validation row" in text]
    assert [note.text for note in result.record.warnings] == told
    assert bool(told) == bool(bias)
    assert not bias or told[0].startswith("the model predicts '1' on every validation row: it has")
