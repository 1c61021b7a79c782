"""Exported files answer as PyTorch does; int8 costs what is told; a refusal hands out nothing."""

import csv
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from datasets import Dataset
from filelock import FileLock
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertTokenizer,
)

from layermix.config import DataConfig, DistillConfig
from layermix.console import Reporter
from layermix.data.texts import TextData
from layermix.errors import ConfigError, ExportError, ModelError, RunExistsError
from layermix.evaluation.metrics import UNLABELLED
from layermix.models.encoder import Classifier
from layermix.runs.pipeline import distill_from
from layermix.runs.schema import ExportRecord
from layermix.serving.evaluate import evaluate
from layermix.serving.evaluation_rows import EvaluationRows, evaluation_rows
from layermix.serving.export import compare, cost_text, export, measure_cost
from layermix.serving.predict import predict
from layermix.serving.predictor import OnnxRunner, open_predictor

NO_DATA = DataConfig()
QUIET = Reporter(quiet=True)
Make = Callable[..., BertForSequenceClassification]


@pytest.fixture(scope="module")
def run(
    bert: Make,
    tokenizer: BertTokenizer,
    texts: Callable[..., TextData],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A distilled run, exported with int8."""
    out = tmp_path_factory.mktemp("export") / "run"
    config = DistillConfig.model_validate(
        {"preset": "quick", "teacher": {"allow_weak": True}, "training": {"epochs": 1}}
    )
    teacher, student = (Classifier(bert(n, seed=n), tokenizer, f"BERT {n}") for n in (4, 2))
    distill_from(teacher, student, texts(40, 40), config, out=out)
    export(str(out), NO_DATA, int8=True, max_drop=100)
    return out


@pytest.fixture
def model(bert: Make, tokenizer: BertTokenizer, tmp_path: Path) -> Path:
    """A random classifier, and rows that it answers without a mistake, as it says itself."""
    return saved(bert(2, seed=3), tokenizer, tmp_path)


def saved(model: BertForSequenceClassification, tokenizer: BertTokenizer, place: Path) -> Path:
    folder = place / "model"
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    draw = random.Random(1)
    texts = [" ".join(draw.choices("abcdefgh", k=draw.randint(1, 9))) for _ in range(60)]
    with torch.no_grad():
        answers = [int(model(**tokenizer(t, return_tensors="pt")).logits.argmax()) for t in texts]
    with (place / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, answers, strict=True)])
    return folder


@pytest.fixture(scope="module")
def exported(
    bert: Make, tokenizer: BertTokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The model with `onnx/` in its folder, and a folder that serves without the weights."""
    place = tmp_path_factory.mktemp("exported")
    folder = saved(bert(2, seed=3), tokenizer, place)
    export(str(folder), rows_of(folder))
    export(str(folder), rows_of(folder), out=place / "served")
    return folder, place / "served"


@pytest.fixture
def with_onnx(exported: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the model with `onnx/` in its folder."""
    return Path(shutil.copytree(exported[0], tmp_path / "with_onnx"))


@pytest.fixture
def served(exported: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the folder that serves without the weights."""
    return Path(shutil.copytree(exported[1], tmp_path / "served"))


def rows_of(folder: Path) -> DataConfig:
    return DataConfig(path=str(folder.parent / "rows.csv"))


def test_the_file_takes_any_batch_and_length_and_says_what_pytorch_says(run: Path) -> None:
    folder = run / "student"
    session = onnxruntime.InferenceSession(folder / "onnx/model.onnx")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    for texts in (["a"], ["a b c d", "e"], ["z y x w v u t s r q", "b c", "d"]):
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            wanted = model(**batch).logits.numpy()
        feeds = {one.name: batch[one.name].numpy() for one in session.get_inputs()}
        np.testing.assert_allclose(session.run(["logits"], feeds)[0], wanted, atol=1e-5)


def test_no_sum_of_two_int8_products_saturates_in_16_bits(run: Path) -> None:
    graph = onnx.load(run / "student/onnx/model_quantized.onnx").graph
    products = {name for node in graph.node if "MatMul" in node.op_type for name in node.input}
    weights = [
        onnx.numpy_helper.to_array(tensor).astype(int)
        for tensor in graph.initializer
        if tensor.name in products and tensor.data_type == onnx.TensorProto.INT8
    ]
    assert sum(weight.ndim == 2 for weight in weights) >= 6
    largest = max(abs(weight).max() for weight in weights)
    assert largest > 60
    assert 2 * 255 * largest < 2**15


def test_the_length_of_training_is_the_limit_of_what_is_served(run: Path, tmp_path: Path) -> None:
    export(str(run), NO_DATA, out=tmp_path / "served")
    trained = json.loads((run / "result.json").read_text(encoding="utf-8"))["data"]["max_length"]
    assert trained < 32
    limits = {"student": 32, "served": trained}
    for name, folder in (("student", run / "student"), ("served", tmp_path / "served")):
        assert AutoTokenizer.from_pretrained(folder).model_max_length == limits[name]


def test_what_is_told(run: Path) -> None:
    record = json.loads((run / "student/onnx/export.json").read_text(encoding="utf-8"))
    assert record["opset"] == 18
    assert record["rows"] == "validation rows of run"
    assert (record["parity"]["rows"], record["parity"]["alone"]) == (40, 16)
    assert record["parity"]["max_difference"] < 1e-5
    assert record["int8"]["rows"] == 40
    files = {"onnx": "model.onnx", "int8": "model_quantized.onnx"}
    for name, file in files.items():
        assert record["bytes"][name] == (run / "student/onnx" / file).stat().st_size
    card = (run / "student/README.md").read_text(encoding="utf-8")
    assert "`onnx/model.onnx`" in card
    assert f"it costs {record['int8']['drop']:.2f} points" in card
    assert card.count("<!-- layermix: export -->") == 1


def test_a_file_knows_nothing_of_the_machine_it_was_made_on(run: Path) -> None:
    for file in (run / "student/onnx").iterdir():
        assert b"site-packages" not in file.read_bytes()
        assert str(Path.home()).encode() + b"/" not in file.read_bytes()
        assert str(run.parent).encode() not in file.read_bytes()


@pytest.mark.parametrize("runtime", ["onnx", "int8"])
def test_predict_and_evaluate_run_the_exported_files(
    run: Path, tmp_path: Path, runtime: Any
) -> None:
    source = tmp_path / "in.csv"
    rows = [("a b c", "0"), ("n o", "1"), ("x y z a b", "0"), ("q", "1")]
    source.write_text(
        "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8"
    )
    found = {}
    for one in ("torch", runtime):
        out = tmp_path / f"{one}.jsonl"
        predict(str(run), str(source), str(out), runtime=one)
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        found[one] = np.array([[line["p_0"], line["p_1"]] for line in lines])
    near = 1e-5 if runtime == "onnx" else 0.1
    np.testing.assert_allclose(found[runtime], found["torch"], atol=near)
    assert (found[runtime] != found["torch"]).any() == (runtime == "int8")
    scores = evaluate(str(run), DataConfig(path=str(source)), runtime=runtime)["in.csv"]
    right = [int(label) for _, label in rows] == found[runtime].argmax(-1)
    assert scores["accuracy"] == pytest.approx(np.mean(right))


def test_a_file_exported_from_other_weights_is_not_run(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "student"
    shutil.copytree(run / "student", model)
    source = tmp_path / "in.csv"
    source.write_text("text\na b\n", encoding="utf-8")
    predict(str(model), str(source), str(tmp_path / "before.csv"), runtime="onnx")
    weights = load_file(model / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    for runtime in ("onnx", "int8"):
        with pytest.raises(
            ModelError, match=r"have changed since they were exported.* --int8 --force`"
        ):
            predict(str(model), str(source), str(tmp_path / "after.csv"), runtime=runtime)
    predict(str(model), str(source), str(tmp_path / "after.csv"))
    (model / "model.safetensors").unlink()  # nothing left to differ from
    predict(str(model), str(source), str(tmp_path / "alone.csv"), runtime="onnx")


def test_classes_in_another_order(run: Path, tmp_path: Path) -> None:
    """A file whose classes come in another order is scored by name, whatever runs the model."""
    config = run / "student/config.json"
    before = config.read_text(encoding="utf-8")
    named = json.loads(before) | {"id2label": {"0": "no", "1": "yes"}}
    source = tmp_path / "in.csv"
    texts = ["a b", "n o", "x y z", "q", "b", "c d e"]
    source.write_text(
        "text,label\n" + "".join(f"{text},yes\n{text} m,no\n" for text in texts),
        encoding="utf-8",
    )
    try:
        config.write_text(json.dumps(named), encoding="utf-8")
        both = [
            evaluate(str(run), DataConfig(path=str(source)), runtime=one)["in.csv"]
            for one in ("torch", "onnx")
        ]
        predictor = open_predictor(str(run), "onnx").in_order(("yes", "no"))
        plain = open_predictor(str(run), "onnx")
        batch = predictor.tokenizer(texts, padding=True, return_tensors="pt")
        np.testing.assert_array_equal(predictor.run(batch), plain.run(batch)[:, ::-1])
        assert [note.code for note in predictor.notes] == ["classes-reordered"]
    finally:
        config.write_text(before, encoding="utf-8")
    assert both[0]["accuracy"] == both[1]["accuracy"]


def test_a_folder_of_its_own_serves_without_the_weights(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "served"
    folder, _ = export(str(model), rows_of(model), out=out)
    assert folder == out
    assert not list(out.rglob("*.safetensors"))
    assert not (model / "onnx").exists()
    assert {"config.json", "tokenizer.json", "README.md", "onnx"} <= {f.name for f in out.iterdir()}
    assert open_predictor(str(out)).runtime == "onnx"
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.model_max_length == 32  # what the model takes: it was trained by no run
    scores = evaluate(str(out), rows_of(model))["rows.csv"]
    assert scores["accuracy"] == 1
    with pytest.raises(RunExistsError, match="already exists, and layermix does not overwrite it"):
        export(str(model), rows_of(model), out=out)
    with pytest.raises(ConfigError, match="there is no folder"):
        export(str(model), rows_of(model), out=tmp_path / "no" / "served")


def test_what_is_there_is_made_anew_only_if_asked(run: Path) -> None:
    files = sorted((run / "student").rglob("*"))
    times = [file.stat().st_mtime_ns for file in files]
    with pytest.raises(RunExistsError, match="--force replaces it"):
        export(str(run), NO_DATA)
    assert [file.stat().st_mtime_ns for file in files] == times
    assert sorted((run / "student").rglob("*")) == files


def test_force_replaces_what_an_export_made_and_its_section_of_the_card_only(model: Path) -> None:
    export(str(model), rows_of(model), int8=True, max_drop=100)
    (model / "onnx/model_fp16.onnx").write_bytes(b"somebody else's")
    card = model / "README.md"
    card.write_text("# Mine\n" + card.read_text(encoding="utf-8") + "and mine\n", encoding="utf-8")
    export(str(model), rows_of(model), force=True)
    text = card.read_text(encoding="utf-8")
    assert text.startswith("# Mine\n")
    assert text.endswith("and mine\n")
    assert "int8" not in text
    names = sorted(file.name for file in (model / "onnx").iterdir())
    assert names == ["export.json", "model.onnx", "model_fp16.onnx"]
    assert not [file for file in model.iterdir() if file.name.startswith(".")]


def test_what_a_killed_export_left_is_removed(model: Path) -> None:
    left = model / ".onnx.writing/onnx/model.onnx"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"torn")
    export(str(model), rows_of(model))
    assert not [file for file in model.iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_export_killed_as_it_got_its_name_is_whole_and_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    out = tmp_path / "served" if elsewhere else None
    made = model / "onnx" if out is None else out
    left = made.with_name(f".{made.name}.writing")
    locked = made.with_name(f".{made.name}.exporting")
    with monkeypatch.context() as patch:
        patch.setattr("layermix.serving.export._lock_file", lambda _: tmp_path / "lock")
        export(str(model), rows_of(model), out=out)
    files = sorted(tmp_path.rglob("*"))
    left.mkdir()
    locked.touch()
    with pytest.raises(RunExistsError, match="already exists"):
        export(str(model), rows_of(model), out=out)
    assert sorted(tmp_path.rglob("*")) == files


def test_an_export_killed_before_it_got_its_name_does_not_stand_in_the_way(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            export(str(model), rows_of(model))
    assert not (model / "onnx").exists()
    export(str(model), rows_of(model))
    assert (model / "onnx/export.json").is_file()
    assert "onnx" in (model / "README.md").read_text(encoding="utf-8")


def test_two_exports_to_one_place(model: Path) -> None:
    busy = pytest.raises(RunExistsError, match="another process is exporting to this folder; wait")
    with FileLock(model / ".onnx.exporting"), busy:
        export(str(model), rows_of(model))
    assert not (model / "onnx").exists()


# -- int8 as it is served --


def test_an_int8_answer_does_not_depend_on_the_other_texts(run: Path, tmp_path: Path) -> None:
    draw = random.Random(2)
    texts = [" ".join(draw.choices("abcdefghnoxyz", k=draw.randint(1, 12))) for _ in range(24)]
    shuffled = draw.sample(texts, len(texts))
    found = []
    for name, lines, size in (("one", texts, 1), ("many", texts, 24), ("mixed", shuffled, 7)):
        source, out = tmp_path / f"{name}.txt", tmp_path / f"{name}.jsonl"
        source.write_text("\n".join([*lines, ""]), encoding="utf-8")
        predict(str(run), str(source), str(out), runtime="int8", batch_size=size)
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        found.append({row["text"]: (row["p_0"], row["p_1"]) for row in rows})
    assert found[0] == found[1] == found[2]


def test_the_cost_is_that_of_rows_one_by_one_and_batches_are_told(run: Path) -> None:
    record = ExportRecord.from_json((run / "student/onnx/export.json").read_text(encoding="utf-8"))
    cost = record.int8
    assert cost is not None
    assert cost.in_batches is not None
    predictor = open_predictor(str(run), "int8")
    rows = evaluation_rows(str(run), NO_DATA, predictor, QUIET)
    alone = np.concatenate([predictor.run(predictor.encode([text])) for text in rows.tuples])
    assert cost.int8 == pytest.approx((alone.argmax(-1) == rows.labels).mean())
    assert cost.in_batches.batch_size == 32
    assert cost.in_batches.max_change > 0
    told = f"a probability would move by up to {cost.in_batches.max_change:.3f}"
    assert told in cost_text(cost)
    card = (run / "student/README.md").read_text(encoding="utf-8")
    assert "Run one text at a time." in card


# -- rows that choose, and rows that judge --


def test_rows_that_judge_int8_do_not_choose_it_where_there_are_enough() -> None:
    labels = [UNLABELLED if row % 5 == 0 else row % 2 for row in range(600)]
    rows = EvaluationRows(Dataset.from_dict({"label": labels}), "accuracy", "rows")
    steering, judging = rows.steering_and_judging()
    again = rows.steering_and_judging()
    assert (len(steering), len(judging)) == (240, 240)
    assert not set(steering) & set(judging)
    assert (rows.labels[np.concatenate([steering, judging])] != UNLABELLED).all()
    assert (steering == again[0]).all()
    assert (judging == again[1]).all()
    few = EvaluationRows(Dataset.from_dict({"label": labels[:499]}), "accuracy", "rows")
    steering, judging = few.steering_and_judging()
    assert len(steering) == 399
    assert (steering == judging).all()


def test_an_export_says_which_rows_judge(run: Path, model: Path, tmp_path: Path) -> None:
    record = ExportRecord.from_json((run / "student/onnx/export.json").read_text(encoding="utf-8"))
    assert record.int8 is not None
    assert (record.int8.judged_on, record.int8.rows) == ("same-rows", 40)
    assert "This version was chosen on the same rows" in cost_text(record.int8)
    lines = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "rows.csv").write_text("\n".join([*lines, *lines[1:] * 6, ""]), encoding="utf-8")
    _, record = export(str(model), rows_of(model), int8=True, max_drop=100)
    cost = record.int8
    assert cost is not None
    assert (cost.judged_on, cost.rows, cost.steering_rows) == ("other-rows", 210, 210)
    assert "This version was chosen on 210 other rows" in cost_text(cost)
    assert [(one.in_float, one.drop) for one in cost.tries] == [(0, cost.drop)]


def test_rows_that_turn_a_version_down_are_no_longer_neutral(
    spoiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Int8 gives one class only: rows of that class like it, and those of the other do not."""
    found = {}
    for steering_class in (0, 1):

        def by_class(rows: EvaluationRows, kind: int = steering_class) -> Any:
            return np.flatnonzero(rows.labels == kind), np.flatnonzero(rows.labels != kind)

        monkeypatch.setattr(EvaluationRows, "steering_and_judging", by_class)
        _, record = export(str(spoiled), rows_of(spoiled), int8=True, max_drop=50, force=True)
        cost = record.int8
        assert cost is not None
        assert [one.in_float > 0 for one in cost.tries] == [False, True]
        assert cost.judged_on is not None
        found[cost.judged_on] = cost
        made = shutil.copyfile(spoiled / "onnx/model.onnx", tmp_path / "model.onnx")
        monkeypatch.setattr(  # torch needs seconds to make the same file again
            "layermix.serving.export.write_onnx",
            lambda _, file, made=made: shutil.copyfile(made, file),
        )
    assert set(found) == {"rows-that-rejected", "other-rows"}
    first = found["rows-that-rejected"].tries[0]
    assert first.steering_drop <= 50 < first.drop
    told = cost_text(found["rows-that-rejected"])
    assert f"was rejected on these rows ({first.drop:.2f} points)" in told


# -- int8 that costs too much --


@pytest.fixture
def spoiled(bert: Make, tokenizer: BertTokenizer, tmp_path: Path) -> Path:
    """One huge embedding of a word that no row has leaves int8 nothing to tell the others apart."""
    model = bert(2, seed=3)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[tokenizer.vocab["z"]] = 1e4
    return saved(model, tokenizer, tmp_path)


def test_what_hurts_most_is_left_in_float_at_the_second_try(spoiled: Path) -> None:
    folder = spoiled
    reporter, said = Reporter(), io.StringIO()
    reporter.console.file = said
    _, record = export(str(folder), rows_of(folder), int8=True, max_drop=5, reporter=reporter)
    assert "more than 5 points, so the effect of each quantised part is measured" in said.getvalue()
    cost = record.int8
    assert cost is not None
    assert cost.drop <= 5
    assert any("embedding" in part or "gather" in part.lower() for part in cost.in_float)
    assert cost.float32 == 1
    session = OnnxRunner(folder / "onnx/model_quantized.onnx", 2)
    assert record.bytes.int8 == (folder / "onnx/model_quantized.onnx").stat().st_size
    assert session.inputs == ["input_ids", "attention_mask", "token_type_ids"]


def test_too_much_is_refused_with_the_numbers_and_float32_stays(model: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export(str(model), rows_of(model), int8=True, max_drop=-1)
    told = str(caught.value)
    assert told.startswith("int8 costs more than -1 points, so its file was not kept; the float32")
    assert told.count("95 % interval over rows") == 2
    assert "parts left in float" in told
    assert sorted(file.name for file in (model / "onnx").iterdir()) == ["export.json", "model.onnx"]
    assert "int8" not in json.loads((model / "onnx/export.json").read_text(encoding="utf-8"))


def test_the_cost_is_paired_and_in_points(texts: Callable[..., TextData]) -> None:
    rows = texts(10, 8).splits["validation"]
    labelled = EvaluationRows(rows, "accuracy", "eight rows")
    labels = labelled.labels
    right = np.eye(2, dtype=np.float32)[labels]
    wrong_once = right.copy()
    wrong_once[0] = wrong_once[0, ::-1]
    cost = measure_cost(right, wrong_once, labelled)
    assert (cost.float32, cost.int8, cost.drop) == (1, 0.875, 12.5)
    assert cost.low == 0 < cost.high
    assert "so no loss is shown" in cost_text(cost)
    assert cost.same_answers == 0.875
    gained = measure_cost(wrong_once, right, labelled)
    assert gained.drop == -12.5


# -- parity --


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([[0.0, 1.0], [2.0, 0.01]], "logits differ by up to 1.0e-02"),
        ([[0.0, 1.0], [2.0, np.nan]], "logits differ by up to nan"),
        ([[1e-4, 0.0], [2.0, 0.0]], "1 predictions differ"),
    ],
)
def test_other_answers_than_pytorch_are_refused(found: list[list[float]], told: str) -> None:
    wanted = [[0.0, 1.0 if "predictions" not in told else 1e-4], [2.0, 0.0]]
    with pytest.raises(ExportError, match=told):
        compare(np.array(wanted, np.float32), np.array(found, np.float32))


def test_nothing_is_written_without_parity(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layermix.serving.export.TOLERANCE", 0.0)
    with pytest.raises(ExportError, match="nothing was written"):
        export(str(model), rows_of(model))
    assert not (model / "onnx").exists()
    assert not (model / "README.md").exists()
    assert not [file for file in model.iterdir() if file.name.startswith(".")]


# -- rows --


def test_a_model_alone_has_no_rows(model: Path) -> None:
    with pytest.raises(ConfigError, match="not in a run folder, so there are no validation rows"):
        export(str(model), NO_DATA)


def test_rows_without_labels_cannot_judge_int8(model: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train", "validation"):
        lines = (tmp_path / "rows.csv").read_text(encoding="utf-8")
        (tmp_path / "data" / f"{name}.csv").write_text(lines, encoding="utf-8")
    predictor = open_predictor(str(model))
    rows = evaluation_rows(
        str(model), DataConfig(path=str(tmp_path / "data")), predictor, QUIET
    ).texts
    unlabelled = rows.map(lambda row: {"label": -100})
    with pytest.MonkeyPatch.context() as patch:
        rows_of_run = EvaluationRows(unlabelled, "accuracy", "unlabelled rows")
        patch.setattr("layermix.serving.export.evaluation_rows", lambda *_: rows_of_run)
        with pytest.raises(ConfigError, match="no row has a label, so the cost of int8 cannot be"):
            export(str(model), NO_DATA, int8=True)
    assert not (model / "onnx").exists()


def test_damaged_rows_of_a_run_are_told(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "texts.parquet").write_bytes(b"torn")
    with pytest.raises(ConfigError, match=r"texts.parquet is damaged .*; give --data FOLDER"):
        export(str(copy), NO_DATA, force=True)


# -- models that cannot be used --


def test_what_is_no_model(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        export("org/model", NO_DATA)
    with pytest.raises(ModelError, match=r"has no onnx/model\.onnx; `layermix export"):
        open_predictor(str(model), "onnx")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:500]), "cannot be loaded by onnxruntime"),
        (lambda file: file.write_bytes(b"import os"), "cannot be loaded by onnxruntime"),
        (
            lambda file: (file.parent.parent / "config.json").write_text(
                (file.parent.parent / "config.json")
                .read_text(encoding="utf-8")
                .replace('"num_labels"', '"x"')
                .replace('"architectures"', '"id2label": {"0": "a", "1": "b", "2": "c"}, "archs"'),
                encoding="utf-8",
            ),
            "attention_mask and token_type_ids, and one logit for each of 3 classes",
        ),
    ],
)
def test_a_damaged_or_other_file_is_refused(
    served: Path, damage: Callable[[Path], object], told: str
) -> None:
    damage(served / "onnx/model.onnx")
    with pytest.raises(ModelError, match=told):
        open_predictor(str(served))


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"layermix": "x"}, "the entry `layermix` of its config.json is not what a run writes"),
        ({"layermix": {"max_length": 0}}, "max_length: found 0, wanted more than 0"),
        ({"layermix": {"text_columns": 5}}, "text_columns: found 5, wanted a list"),
        ({"id2label": {"1": "a", "2": "b"}}, "wanted one for each number from 0 to 1"),
    ],
)
@pytest.mark.parametrize("kind", ["model", "served"])
def test_a_config_that_no_run_wrote(
    request: pytest.FixtureRequest, entries: dict[str, Any], told: str, kind: str
) -> None:
    folder: Path = request.getfixturevalue(kind)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | entries), encoding="utf-8")
    with pytest.raises(ModelError, match=told):
        open_predictor(str(folder))


def test_a_file_with_other_inputs_is_refused(with_onnx: Path) -> None:
    file = with_onnx / "onnx/model.onnx"
    graph = onnx.load(file)
    for place in (graph.graph.input[2], *graph.graph.node):
        if place is graph.graph.input[2]:
            place.name = "position_ids"
        else:
            place.input[:] = [
                "position_ids" if name == "token_type_ids" else name for name in place.input
            ]
    onnx.save(graph, file)
    with pytest.raises(ModelError, match="takes input_ids, attention_mask, position_ids and"):
        open_predictor(str(with_onnx), "onnx")


def test_a_text_that_is_longer_than_the_file_takes(with_onnx: Path) -> None:
    predictor = open_predictor(str(with_onnx), "onnx")
    batch = predictor.tokenizer(["a " * 100], return_tensors="pt", verbose=False)
    with pytest.raises(ModelError, match=r"cannot run it on a batch of shape \(1, 102\)"):
        predictor.run(batch)


def test_the_metric_of_the_run_judges_other_rows_too(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    record = json.loads((copy / "result.json").read_text(encoding="utf-8"))
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\na b,0\nc n,1\nz,0\n", encoding="utf-8")
    reporter, said = Reporter(), io.StringIO()
    reporter.console.file = said
    for metric, wanted in (("f1", "f1"), ("nll", "accuracy")):
        (copy / "result.json").write_text(json.dumps(record | {"metric": metric}), encoding="utf-8")
        predictor = open_predictor(str(copy))
        found = evaluation_rows(str(copy), DataConfig(path=str(rows)), predictor, reporter)
        assert found.metric == wanted
    assert "nll has no interval, so accuracy is compared" in said.getvalue()


def test_inside_the_models_own_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run / "student")
    assert (
        evaluation_rows(".", NO_DATA, open_predictor("."), QUIET).source == "validation rows of run"
    )


def test_a_card_that_is_not_utf8_is_told_before_the_work(model: Path) -> None:
    (model / "README.md").write_bytes("für mich".encode("latin-1"))
    with pytest.raises(ModelError, match=r"README\.md: not UTF-8"):
        export(str(model), rows_of(model))
    assert not (model / "onnx").exists()


def test_the_snippets_of_a_pair(model: Path, tmp_path: Path) -> None:
    lines = (tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()[1:]
    pairs = [("text", "text_pair", "label"), *((line[0], *line.split(",")) for line in lines)]
    with (tmp_path / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(pairs)
    data = DataConfig(path=str(tmp_path / "pairs.csv"))
    export(str(model), data, int8=True, max_drop=100)
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "'max_length': 32" in card
    assert 'tokenizer("one text", "the other", **cut)' in card
    assert 'onnx/model_quantized.onnx")' in card
    assert "text_pair: 'the other'" in card
