"""Runs with a label for each word: from a file to scores, report, predictions, exported files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from seqeval.metrics import f1_score
from transformers import TrainerCallback, pipeline

from layermix.config import DataConfig, DistillConfig, TeachConfig
from layermix.console import Reporter
from layermix.data.texts import load_texts
from layermix.errors import ConfigError, ModelError
from layermix.evaluation.predictions import combine, read_rows
from layermix.models.loading import load_classifier, problem_of_model
from layermix.models.students import copy_blocks
from layermix.problems.kinds import PROBLEMS
from layermix.report.build import report
from layermix.runs.pipeline import distill, distill_from, teach
from layermix.runs.prepare import prepare
from layermix.runs.schema import read_result
from layermix.serving.benchmark import bench
from layermix.serving.evaluate import evaluate, scores_text
from layermix.serving.export import export
from layermix.serving.predict import predict
from layermix.serving.predictor import ONNX_FILES, OnnxRunner, open_predictor
from layermix.teacher_cache import answers

RECIPE = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "log_every": 2, "precision": "fp32"}
NAMES = ("O", "B-PLACE", "I-PLACE", "B-WHO", "I-WHO")


def tagged(rows: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """`a` or `b` mostly begins a name of one of two types, and every `c` after it belongs to it."""
    draw, made = np.random.default_rng(seed), []
    for _ in range(rows):
        tokens = draw.choice(list("abcdef"), draw.integers(3, 9)).tolist()
        tags: list[str] = []
        for token in tokens:
            before = tags[-1] if tags else "O"
            goes_on = token == "c" and before != "O"
            begun = {"a": "B-WHO", "b": "B-PLACE"}.get(token, "O") if draw.random() < 0.9 else "O"
            tags.append(f"I-{before[2:]}" if goes_on else begun)
        made.append((tokens, tags))
    return made


def write_conll(file: Path, rows: list[tuple[list[str], list[str]]]) -> Path:
    file.parent.mkdir(exist_ok=True, parents=True)
    sentences = ("".join(f"{w}\t{t}\n" for w, t in zip(*row, strict=True)) for row in rows)
    file.write_text("\n".join(sentences), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conll")
    write_conll(folder / "train.conll", tagged(64, 0))
    write_conll(folder / "validation.conll", tagged(24, 1))
    return folder


@pytest.fixture(scope="module")
def teacher(
    data: Path, bert: Callable[..., Any], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run folder of a model that was taught by config alone, from an encoder without tags."""
    place = tmp_path_factory.mktemp("teacher")
    bert(2, 32, dropout=0, seed=2).base_model.save_pretrained(place / "base")
    tokenizer.save_pretrained(place / "base")
    config = TeachConfig.model_validate(
        {
            "model": str(place / "base"),
            "data": {"path": str(data), "problem": "entities"},
            "training": {**RECIPE, "epochs": 12},
        }
    )
    return teach(config, place / "run").folder or place


def settings(teacher: Path | str, data: Path, **sections: Any) -> DistillConfig:
    training = {**RECIPE, "selection": "holdout", "holdout_fraction": 0.25, "save_every": 5}
    return DistillConfig.model_validate(
        {
            "preset": "quick",
            "teacher": {"model": str(teacher)},
            "student": {"layers": 1},
            "data": {"path": str(data)} | sections.pop("data_options", {}),
            "training": training | sections.pop("training", {}),
            "cache": {"precision": "fp32"},
            **sections,
        }
    )


@pytest.fixture(scope="module")
def run(teacher: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("student") / "run"
    return distill(settings(teacher, data), out).folder or out


def test_the_record_has_entities_scores_interval_and_temperature(teacher: Path, run: Path) -> None:
    assert problem_of_model(str(teacher)) is PROBLEMS["entities"]
    of_teacher, record = read_result(teacher), read_result(run)
    assert (record.problem, record.form, record.metric) == ("entities", "tags", "entity_f1")
    assert record.trained.classes == NAMES
    assert (record.signals or "").startswith("stored")
    saved, taught = record.metrics.saved.validation, of_teacher.metrics.saved.validation
    assert saved is not None
    assert taught is not None
    assert taught.numbers["entity_f1"] > 0.8
    assert 0.2 < saved.numbers["entity_f1"] <= 1
    assert saved.numbers.keys() == PROBLEMS["entities"].higher_is_better.keys()
    assert record.interval is not None
    assert record.interval.low <= saved.numbers["entity_f1"] <= record.interval.high
    assert record.calibration is not None
    assert record.calibration.temperature is not None
    assert record.calibration.calibrated["nll"] < record.calibration.scores["nll"]
    config = json.loads((run / "student/config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["layermix"]["problem"] == "entities"


def test_stored_answers_on_scored_rows_are_those_of_a_live_teacher(
    teacher: Path, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(answers, "STORED_FROM", 1)
    texts = load_texts(DataConfig(path=str(data)), problem=PROBLEMS["entities"])
    model = load_classifier(str(teacher), texts.label_names, problem=texts.problem)
    live, first, again = (
        prepare(
            model,
            copy_blocks(model, 1),
            texts,
            settings(teacher, data, cache={"folder": str(tmp_path), "use": use}),
            Reporter(quiet=True),
        )
        for use in (False, True, True)
    )
    assert list(tmp_path.rglob("*.safetensors"))
    assert live.teacher_logits["validation"].ndim == 3
    for found in (first, again):
        assert found.teacher_logits.keys() == {"validation", "holdout"}
        for name, logits in live.teacher_logits.items():
            assert np.array_equal(found.teacher_logits[name], logits)


def test_predictions_on_record_give_the_score_of_the_record(run: Path, data: Path) -> None:
    stored = combine([read_rows(run / "predictions.parquet")], "selected")
    assert stored is not None
    assert stored.form == "tags"
    assert stored.known.all()
    assert stored.has_teacher.all()
    rows = tagged(24, 1)
    predicted = [
        [NAMES[tag] for tag in row[: len(tokens)]]
        for row, (tokens, _) in zip(stored.predicted[0], rows, strict=True)
    ]
    saved = read_result(run).metrics.saved.validation
    assert saved is not None
    score = f1_score([tags for _, tags in rows], predicted)
    assert saved.numbers["entity_f1"] == pytest.approx(score)


def test_the_page_marks_names_and_the_card_names_the_pipeline(run: Path) -> None:
    page = report(run)[0].read_text(encoding="utf-8")
    assert "Where teacher and student disagree" in page
    assert "WHO: " in page
    card = (run / "student/README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: token-classification" in card
    assert 'pipeline("token-classification"' in card


@pytest.mark.parametrize("ending", ["conll", "jsonl", "csv"])
def test_predict_finds_names_and_evaluate_reads_its_file_again(
    run: Path, tmp_path: Path, ending: str
) -> None:
    rows = tagged(12, 2)
    if ending == "conll":
        file = write_conll(tmp_path / "new.conll", rows)
    else:
        file = tmp_path / f"new.{ending}"
        lines = [" ".join(tokens) for tokens, _ in rows]
        as_json = "".join(json.dumps({"text": line}) + "\n" for line in lines)
        file.write_text(as_json if ending == "jsonl" else "text\n" + "\n".join(lines))
    found = tmp_path / ("found.csv" if ending == "csv" else "found.jsonl")
    predict(str(run), str(file), str(found))
    predictor = open_predictor(str(run))
    if ending != "csv":
        lines = found.read_text(encoding="utf-8").splitlines()
        for line, (tokens, _) in zip(map(json.loads, lines), rows, strict=True):
            assert list(line) == ["text", "entities"]
            assert line["text"] == " ".join(tokens)
            tags = predictor.problem.answers(predictor.run(predictor.encode([(line["text"],)])))[0]
            begun = [at for at, tag in enumerate(tags) if NAMES[tag].startswith("B-")]
            assert len(line["entities"]) >= len(begun)
            for entity in line["entities"]:
                assert line["text"][entity["start"] : entity["end"]] == entity["text"]
                assert 0 < entity["probability"] <= 1
    scores = evaluate(str(run), DataConfig(path=str(found)))[found.name]
    assert scores["rows"] == 12
    assert scores["entity_f1"] == scores["accuracy"] == 1  # its own answers are the labels


def test_the_pipeline_of_transformers_finds_the_same_names(run: Path, tmp_path: Path) -> None:
    texts = [" ".join(tokens) for tokens, _ in tagged(8, 3)]
    (tmp_path / "new.txt").write_text("\n".join(texts))
    predict(str(run), str(tmp_path / "new.txt"), str(tmp_path / "found.jsonl"))
    ours = map(json.loads, (tmp_path / "found.jsonl").read_text(encoding="utf-8").splitlines())
    find = pipeline(
        "token-classification", model=str(run / "student"), aggregation_strategy="first"
    )
    count = 0
    for line, theirs in zip(ours, find(texts), strict=True):
        assert [(e["start"], e["end"], e["label"]) for e in line["entities"]] == [
            (e["start"], e["end"], e["entity_group"]) for e in theirs
        ]
        assert [e["probability"] for e in line["entities"]] == pytest.approx(
            [float(e["score"]) for e in theirs], abs=1e-5
        )
        count += len(theirs)
    assert count > 8


def test_exported_files_answer_alike_and_int8_is_judged_by_entity_f1(
    run: Path, data: Path, tmp_path: Path
) -> None:
    model = tmp_path / "copy"
    shutil.copytree(run, model)
    _, exported = export(str(model), DataConfig(), int8=True, max_drop=100)
    assert exported.parity.other_answers == 0
    assert exported.int8 is not None
    assert exported.int8.metric == "entity_f1"
    assert exported.int8.low <= exported.int8.drop <= exported.int8.high
    own, other = (
        evaluate(str(model), DataConfig(path=str(data)), runtime=runtime)["validation"]
        for runtime in ("torch", "onnx")
    )
    assert other.pop("per_class") == own["per_class"]
    assert other == pytest.approx({name: own[name] for name in other}, abs=1e-4)
    shown = scores_text({"validation": own})
    assert "  type " in shown
    assert "entity_f1" in shown
    file = model / "student" / ONNX_FILES["onnx"]
    for classes, by_word in ((4, True), (5, False)):
        with pytest.raises(ModelError, match=f"one logit for each of {classes} classes"):
            OnnxRunner(file, classes, by_word=by_word)
    record = bench([str(model)], DataConfig(), rounds=1)
    assert {row.runtime for row in record.models} == {"torch", "onnx", "int8"}


class Kill(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 7:
            raise KeyboardInterrupt


def test_a_killed_run_goes_on_to_the_same_bits(teacher: Path, data: Path, tmp_path: Path) -> None:
    problem = PROBLEMS["entities"]
    texts = load_texts(DataConfig(path=str(data)), problem=problem)
    model = load_classifier(str(teacher), texts.label_names, problem=problem)

    def distil(name: str, **options: Any) -> Any:
        student, out = copy_blocks(model, 1), tmp_path / name
        return distill_from(model, student, texts, settings(teacher, data), out=out, **options)

    distil("straight")
    with pytest.raises(KeyboardInterrupt):
        distil("killed", callbacks=[Kill()])
    distil("killed", resume=True)
    first, second = (
        load_file(tmp_path / name / "student/model.safetensors") for name in ("straight", "killed")
    )
    assert all(first[name].equal(second[name]) for name in first)


def test_the_default_recipe_makes_new_rows_of_words(
    teacher: Path, data: Path, tmp_path: Path
) -> None:
    config = settings(teacher, data, data_options={"augment": 40})
    made = distill(config, tmp_path / "new").record.data.rows
    without = distill(settings(teacher, data), tmp_path / "own").record.data.rows
    assert made["train"] == without["train"] + 40


def test_a_student_with_another_tokenizer_learns_the_logits_of_words(
    teacher: Path, data: Path, tmp_path: Path, bert: Callable[..., Any]
) -> None:
    from transformers import BertTokenizer

    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"fedcba"]
    bert(1, 16, dropout=0).base_model.save_pretrained(tmp_path / "other")
    BertTokenizer(vocab={word: at for at, word in enumerate(letters)}).save_pretrained(
        tmp_path / "other"
    )
    config = settings(
        teacher,
        data,
        student={"model": str(tmp_path / "other")},
        loss={"hidden_weight": 0},
        training={"epochs": 12, "selection": "none"},
    )
    record = distill(config, tmp_path / "run").record
    saved = record.metrics.saved.validation
    assert saved is not None
    assert saved.numbers["agreement"] > 0.8


def test_tags_of_other_kinds_are_scored_by_word(
    bert: Callable[..., Any], tokenizer: Any, data: Path, tmp_path: Path
) -> None:
    bert(1, 32, dropout=0, seed=2).base_model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    config = TeachConfig.model_validate(
        {
            "model": str(tmp_path / "base"),
            "data": {"path": str(data), "problem": "tags"},
            "training": {**RECIPE, "epochs": 6},
        }
    )
    record = teach(config, tmp_path / "run").record
    assert (record.problem, record.metric) == ("tags", "accuracy")
    predict(str(tmp_path / "run"), str(data / "validation.conll"), str(tmp_path / "out.jsonl"))
    first = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert list(first) == ["text", "words", "tags"]
    assert len(first["words"]) == len(first["tags"]) == len(tagged(24, 1)[0][0])


def test_what_words_cannot_have_is_refused(
    teacher: Path, data: Path, tmp_path: Path, bert: Callable[..., Any], tokenizer: Any
) -> None:
    config = settings(f"{teacher},{teacher}", data)
    with pytest.raises(ConfigError, match=r"labels of words .* are learned from one teacher model"):
        distill(config)
    bert(2, 32).save_pretrained(tmp_path / "texts")
    tokenizer.save_pretrained(tmp_path / "texts")
    wrong = settings(tmp_path / "texts", data, data_options={"problem": "entities"})
    with pytest.raises(ModelError, match="has no classification head, the data have"):
        distill(wrong)
