"""A run with each kind of label, from texts to its record, page, predictions and exported file."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, TrainerCallback, pipeline

from layermix.config import DataConfig, DistillConfig, TeachConfig
from layermix.data.texts import TextData, from_splits
from layermix.errors import ConfigError, ModelError, WeakTeacherError
from layermix.evaluation.predictions import combine, read_rows
from layermix.models.encoder import Classifier
from layermix.models.loading import load_classifier, problem_of_model
from layermix.models.students import copy_blocks
from layermix.problems.kinds import PROBLEMS
from layermix.report.build import report
from layermix.runs.pipeline import distill, distill_from, teach, teach_from
from layermix.runs.schema import read_result
from layermix.serving.evaluate import evaluate
from layermix.serving.export import export
from layermix.serving.predict import predict
from layermix.serving.predictor import open_predictor, predictor_of

KINDS = ("multi_label", "regression", "relevance")
NAMES = {"multi_label": ("a", "b", "c"), "regression": ("score",), "relevance": ("score",)}
RECIPE = {"epochs": 2, "batch_size": 4, "learning_rate": 3e-3, "log_every": 2, "precision": "fp32"}


def label_of(kind: str, letters: str) -> Any:
    """The letters that a text has, or how many of them are an `a`."""
    if kind == "multi_label":
        return sorted(set(letters))
    count = letters.count("a")
    return count / 4 if kind == "relevance" else 2.0 * count - 1


def rows_of(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    column = "labels" if kind == "multi_label" else "score"
    rows = []
    for _ in range(count):
        letters = "".join(draw.choice(["a", "b", "c"], 4, p=draw.dirichlet([0.5] * 3)))
        rows.append({"text": " ".join(letters), column: label_of(kind, letters)})
    return rows


def texts_of(kind: str) -> TextData:
    splits = {"train": rows_of(kind, 48, 0), "validation": rows_of(kind, 16, 1)}
    return from_splits(splits, problem=PROBLEMS[kind])


@pytest.fixture(scope="module")
def base(bert: Callable[..., Any], tokenizer: Any) -> Callable[[str], Classifier]:
    def make(kind: str) -> Classifier:
        model = bert(2, 32, dropout=0, seed=2)
        names = NAMES[kind]
        model.config.num_labels = model.num_labels = len(names)
        torch.manual_seed(0)
        model.classifier = torch.nn.Linear(32, len(names))
        model.config.id2label = dict(enumerate(names))
        model.config.label2id = {name: index for index, name in enumerate(names)}
        return Classifier(model, tokenizer, "a tiny model")

    return make


@pytest.fixture(scope="module")
def taught(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a fine-tuned model of each kind; each is made once."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            config = TeachConfig.model_validate({"training": {**RECIPE, "epochs": 8}})
            out = tmp_path_factory.mktemp("taught") / kind
            made[kind] = teach_from(base(kind), texts_of(kind), config, out=out).folder or out
        return made[kind]

    return make


def settings(**sections: Any) -> DistillConfig:
    training = {**RECIPE, "selection": "holdout", "holdout_fraction": 0.25, "save_every": 5}
    training |= sections.pop("training", {})
    return DistillConfig.model_validate(
        {
            "preset": "quick",
            "training": training,
            "teacher": {"allow_weak": True},
            "cache": {"precision": "fp32"},
            **sections,
        }
    )


class Kill(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 7:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_each_kind_reaches_everything(kind: str, taught: Any, tmp_path: Path) -> None:
    teacher_folder, texts, problem = taught(kind), texts_of(kind), PROBLEMS[kind]
    assert problem_of_model(str(teacher_folder)) is problem
    teacher = load_classifier(str(teacher_folder), texts.label_names, problem=problem)

    student, out = copy_blocks(teacher, 1), tmp_path / "run"
    distill_from(teacher, student, texts, settings(), out=out)
    record = read_result(out)
    supervised, logit = problem.supervised, problem.logit_losses[0]
    assert (record.problem, record.form) == (kind, problem.form)
    assert record.metric == problem.default_scores[0]
    assert (record.formula or "").startswith(f"L = 1·L_sup[{supervised}] + 1·L_logit[{logit}]")
    assert record.interval is not None
    assert record.interval.difference is not None
    if problem.form == "number":
        assert record.calibration is None
    by_name = record.metrics.saved.validation
    assert by_name is not None
    assert by_name.numbers.keys() == problem.higher_is_better.keys()

    page, _ = report(out)
    shown = page.read_text(encoding="utf-8")
    assert record.metric in shown
    assert f"Always answering {'the mean' if problem.form == 'number' else ''}" in shown
    assert "Where teacher and student disagree" in shown
    card = (out / "student/README.md").read_text(encoding="utf-8")
    assert {"multi_label": "any of these labels", "regression": "a number"}.get(kind, "") in card

    stored = combine([read_rows(out / "predictions.parquet")], "selected")
    assert stored is not None
    assert stored.form == problem.form
    assert stored.known.all()
    assert stored.has_teacher.all()
    wanted = texts.splits["validation"]["label"][:]
    np.testing.assert_allclose(stored.labels, wanted, rtol=1e-6)

    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind, 12, 2)))
    scores = evaluate(str(out), DataConfig(path=str(file)))[file.name]
    assert scores["rows"] == 12
    predict(str(out), str(file), str(tmp_path / "out.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert list(lines[0])[:2] == ["text", "label"]


@pytest.mark.parametrize(
    "kind", ["multi_label", pytest.param("regression", marks=pytest.mark.slow)]
)
def test_exported_files_answer_alike_and_int8_is_judged_by_the_main_score(
    kind: str, taught: Any, tmp_path: Path
) -> None:
    out = tmp_path / "served"
    folder, exported = export(str(taught(kind)), DataConfig(), int8=True, max_drop=100, out=out)
    assert exported.parity.other_answers == 0
    assert exported.int8 is not None
    assert exported.int8.metric == PROBLEMS[kind].default_scores[0]
    assert exported.int8.low <= exported.int8.drop <= exported.int8.high
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind, 12, 2)))
    own, other = (
        evaluate(str(one), DataConfig(path=str(file)), runtime=runtime)[file.name]
        for one, runtime in ((taught(kind), "torch"), (folder, "onnx"))
    )
    assert other[exported.int8.metric] == pytest.approx(own[exported.int8.metric], abs=1e-3)


def test_a_killed_run_with_several_labels_goes_on_to_the_same_bits(
    taught: Any, tmp_path: Path
) -> None:
    texts, problem = texts_of("multi_label"), PROBLEMS["multi_label"]
    teacher = load_classifier(str(taught("multi_label")), texts.label_names, problem=problem)

    def distil(name: str, **options: Any) -> Any:
        student = copy_blocks(teacher, 1)
        return distill_from(teacher, student, texts, settings(), out=tmp_path / name, **options)

    distil("straight")
    with pytest.raises(KeyboardInterrupt):
        distil("killed", callbacks=[Kill()])
    distil("killed", resume=True)
    first, second = (
        load_file(tmp_path / name / "student/model.safetensors") for name in ("straight", "killed")
    )
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_other_programs_read_the_logits_in_the_same_way(kind: str, taught: Any) -> None:
    folder = taught(kind) / "teacher"
    predictor = open_predictor(str(folder))
    logits = predictor.run(predictor.encode([("a b a c",), ("c c c c",)]))
    own = predictor.problem.values(logits)
    classify = pipeline("text-classification", model=str(folder), top_k=None)
    for text, values in zip(("a b a c", "c c c c"), own, strict=True):
        theirs = {one["label"]: one["score"] for one in classify([text])[0]}
        mine = dict(zip(predictor.label_names, values, strict=True))
        assert theirs == pytest.approx(mine, abs=1e-5)


@pytest.mark.parametrize("kind", ["regression", "relevance"])
def test_sentence_transformers_reads_it_as_a_cross_encoder(kind: str, taught: Any) -> None:
    from sentence_transformers import CrossEncoder

    folder = taught(kind) / "teacher"
    predictor = open_predictor(str(folder))
    pairs = [("a b", "a c"), ("c c", "b c")]
    own = predictor.problem.answers(predictor.run(predictor.encode(pairs)))
    theirs = CrossEncoder(str(folder), device="cpu").predict(pairs)
    np.testing.assert_allclose(theirs, own, rtol=1e-4)


def test_a_cross_encoder_of_sentence_transformers_is_a_teacher(base: Any, tmp_path: Path) -> None:
    """One output, no problem_type: its numbers are from 0 to 1, unless it says otherwise."""
    model = base("relevance")
    folder = tmp_path / "cross-encoder"
    model.model.config.id2label, model.model.config.label2id = {0: "LABEL_0"}, {"LABEL_0": 0}
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    assert problem_of_model(str(folder)) is PROBLEMS["relevance"]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of("relevance", 60, 0)))
    config = settings(
        teacher={"model": str(folder), "allow_weak": True},
        data={"path": str(data)},
        student={"layers": 1},
        training={"epochs": 1, "selection": "none"},
    )
    result = distill(config, tmp_path / "run")
    assert result.record.problem == "relevance"
    assert result.folder is not None
    again = AutoModelForSequenceClassification.from_pretrained(result.folder / "student")
    assert again.config.id2label == {0: "LABEL_0"}
    for key in ("sentence_transformers", "sbert_ce_default_activation_function"):
        written = json.loads((folder / "config.json").read_text())
        identity = "torch.nn.modules.linear.Identity"
        written[key] = {"activation_fn": identity} if key[1] == "e" else identity
        (folder / "config.json").write_text(json.dumps(written))
        assert problem_of_model(str(folder)) is PROBLEMS["regression"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_several_teachers(kind: str, taught: Any, tmp_path: Path) -> None:
    folder = taught(kind)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind, 60, 0)))

    def run(*teachers: str) -> Any:
        config = DistillConfig.model_validate(
            {
                "preset": "soft",
                "teacher": {"model": ",".join(teachers), "allow_weak": True},
                "data": {"path": str(data), "augment": 0},
                "student": {"layers": 1},
                "training": {**RECIPE, "epochs": 1, "log_every": 1},
                "cache": {"precision": "fp32"},
            }
        )
        return distill(config)

    one, twice = run(str(folder)), run(str(folder), str(folder))
    assert twice.record.signals == "soft labels"
    losses = [[line["loss"] for line in each.history if "loss" in line] for each in (one, twice)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_probabilities_of_several_labels_teach_what_their_teacher_teaches(
    taught: Any, tmp_path: Path
) -> None:
    folder, rows = taught("multi_label"), rows_of("multi_label", 40, 3)
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    predict(str(folder), str(bare), str(tmp_path / "answers.jsonl"))
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    files = {"hard": tmp_path / "hard.jsonl", "soft": tmp_path / "soft.jsonl"}
    files["hard"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    files["soft"].write_text(
        "".join(
            json.dumps(row | {name: p for name, p in one.items() if name[:2] == "p_"}) + "\n"
            for row, one in zip(rows, answers, strict=True)
        )
    )
    common = {
        "preset": "soft",
        "training": {**RECIPE, "epochs": 1, "log_every": 1},
        "cache": {"precision": "fp32"},
        "loss": {"supervised_weight": 1},
    }
    data = {name: {"path": str(file), "problem": "multi_label"} for name, file in files.items()}
    live = {
        **common,
        "data": {**data["hard"], "augment": 0},
        "teacher": {"model": str(folder), "allow_weak": True},
        "student": {"layers": 1},
    }
    given = {
        **common,
        "data": data["soft"],
        "teacher": {"allow_weak": True},
        "student": {"model": str(folder), "layers": 1, "copied": "spread"},
    }
    found = [
        [line["loss_logit"] for line in run.history if "loss_logit" in line]
        for run in (distill(DistillConfig.model_validate(one)) for one in (live, given))
    ]
    np.testing.assert_allclose(*found, rtol=1e-5)
    # Held out rows without labels of their own: nothing is fitted to what was guessed.
    for row in rows:
        del row["labels"]
    files["soft"].write_text(
        "".join(
            json.dumps(row | {name: p for name, p in one.items() if name[:2] == "p_"}) + "\n"
            for row, one in zip(rows, answers, strict=True)
        )
    )
    held_out = {**RECIPE, "selection": "holdout", "holdout_fraction": 0.3}
    del given["data"]["problem"]  # the student says what the labels are
    run = distill(DistillConfig.model_validate({**given, "training": held_out}))
    assert run.record.problem == "multi_label"
    assert run.record.calibration is None


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_labels_of_each_kind(kind: str, taught: Any, tmp_path: Path) -> None:
    """New rows, and a test split whose labels are not known."""
    bare = [{"text": "a b c"}, {"text": "c b a"}]
    column = "labels" if kind == "multi_label" else "score"
    hidden = [{**row, column: None} for row in bare]
    splits = {"train": rows_of(kind, 40, 0), "validation": rows_of(kind, 12, 1)}
    texts = from_splits({**splits, "test": hidden, "unlabeled": bare}, problem=PROBLEMS[kind])
    teacher = load_classifier(str(taught(kind)), texts.label_names, problem=texts.problem)
    config = settings(training={"selection": "none", "epochs": 1}, data={"augment": 12})
    run = distill_from(teacher, copy_blocks(teacher, 1), texts, config, out=tmp_path / "run")
    assert run.record.data.rows["train"] > 40 + 2
    assert all(math.isfinite(line["loss"]) for line in run.history if "loss" in line)
    assert run.record.metrics.test is None


def test_thresholds_follow_the_order_of_the_labels(taught: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(taught("multi_label") / "teacher", folder)
    config = json.loads((folder / "config.json").read_text())
    config["layermix"]["thresholds"] = [0.2, 0.5, 0.8]
    (folder / "config.json").write_text(json.dumps(config))
    own = load_classifier(str(folder))
    other = load_classifier(str(folder), ("c", "a", "b"), problem=PROBLEMS["multi_label"])
    assert other.model.config.layermix["thresholds"] == [0.8, 0.2, 0.5]
    answers = []
    for classifier in (own, other):
        predictor = predictor_of(classifier).calibrated()
        logits = predictor.run(predictor.encode([("a b a c",), ("c c c c",)]))
        answers.append(dict(zip(predictor.label_names, logits.T.tolist(), strict=True)))
    assert answers[0] == {name: pytest.approx(of, abs=1e-5) for name, of in answers[1].items()}


def test_a_head_of_one_label_needs_its_name(base: Any, tmp_path: Path) -> None:
    model = base("relevance")
    model.model.config.problem_type = "multi_label_classification"
    model.model.save_pretrained(tmp_path / "one")
    model.tokenizer.save_pretrained(tmp_path / "one")
    problem = PROBLEMS["multi_label"]
    assert load_classifier(str(tmp_path / "one"), ("score",), problem=problem).label_names
    with pytest.raises(ModelError, match=r"has the classes \['score'\], the data have"):
        load_classifier(str(tmp_path / "one"), ("insult",), problem=problem)


def test_a_new_head_leaves_nothing_of_the_former_one(taught: Any) -> None:
    fresh = load_classifier(str(taught("relevance")), ("no", "yes"), seed=0)
    assert not hasattr(fresh.model.config, "sentence_transformers")
    again = load_classifier(
        str(taught("relevance")), ("score",), seed=0, problem=PROBLEMS["regression"]
    )
    assert again.notes[-1].text.endswith("a new head was initialised for ['score'] (regression)")


def test_evaluate_refuses_another_kind(taught: Any, tmp_path: Path) -> None:
    data = DataConfig(path=str(tmp_path), problem="classification")
    with pytest.raises(ConfigError, match="was trained on labels for regression; leave it out"):
        evaluate(str(taught("regression")), data)


def test_calibrated_answers_use_the_thresholds_of_held_out_rows(
    taught: Any, tmp_path: Path
) -> None:
    kind = "multi_label"
    texts = texts_of(kind)
    teacher = load_classifier(str(taught(kind)), texts.label_names, problem=PROBLEMS[kind])
    run = distill_from(teacher, copy_blocks(teacher, 1), texts, settings(), out=tmp_path / "run")
    calibration = run.record.calibration
    assert calibration.thresholds is not None
    assert calibration.temperature is None
    config = json.loads((run.folder / "student/config.json").read_text())
    assert config["layermix"]["thresholds"] == list(calibration.thresholds)
    assert config["problem_type"] == "multi_label_classification"
    plain = open_predictor(str(run.folder))
    text = plain.encode([("a b a c",)])
    wanted = plain.problem.values(plain.run(text)) >= np.array(calibration.thresholds)
    found = plain.problem.answers(plain.calibrated().run(text)).astype(bool)
    assert found.tolist() == wanted.tolist()
    file = tmp_path / "validation.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind, 16, 1)))
    scores = evaluate(str(run.folder), DataConfig(path=str(file)), calibrated=True)[file.name]
    assert scores["f1_micro"] == pytest.approx(calibration.calibrated["f1_micro"])


def test_heads_and_losses_of_another_kind_are_refused(
    taught: Any, base: Any, tmp_path: Path
) -> None:
    folder = taught("regression")
    with pytest.raises(ModelError, match="has a head for regression with 1 output"):
        load_classifier(str(folder), ("no", "yes"))
    with pytest.raises(ModelError, match="the labels of the data are for relevance"):
        load_classifier(str(folder), ("score",), problem=PROBLEMS["relevance"])
    fresh = load_classifier(str(folder), ("no", "yes"), seed=0)
    assert fresh.model.config.problem_type == "single_label_classification"
    assert fresh.model.config.num_labels == 2
    assert fresh.model.config.layermix is None

    texts, teacher = texts_of("regression"), load_classifier(str(folder))
    student = copy_blocks(teacher, 1)
    for options, told in (
        ({"supervised": "cross_entropy"}, r"loss\.supervised is cross_entropy, but the labels"),
        ({"logit": "kl"}, r"loss\.logit is kl, .* for regression; set it to mse, or leave it out"),
        ({"label_smoothing": 0.1}, "are for classes, and the labels are numbers"),
    ):
        with pytest.raises(ConfigError, match=told):
            distill_from(teacher, student, texts, settings(loss=options))
    untaught = base("regression")
    torch.nn.init.zeros_(untaught.model.classifier.weight)
    weak = DistillConfig.model_validate({"preset": "quick"})
    with pytest.raises(WeakTeacherError, match="always answering the mean has 0"):
        distill_from(untaught, student, texts, weak)


def test_a_number_that_is_the_same_for_every_row_is_told(base: Any, tmp_path: Path) -> None:
    texts = texts_of("regression")
    model = base("regression")
    torch.nn.init.zeros_(model.model.classifier.weight)
    config = TeachConfig.model_validate(
        {"training": {"epochs": 1, "learning_rate": 1e-12, "batch_size": 16}}
    )
    result = teach_from(model, texts, config, out=tmp_path / "flat")
    warned = [note.text for note in result.record.warnings if note.code == "one-class-predicted"]
    assert len(warned) == 1
    assert result.metrics["last"]["validation"]["pearson"] == pytest.approx(0, abs=1e-6)


def test_teach_and_distill_by_config_alone(tmp_path: Path, base: Any) -> None:
    model = base("regression")
    folder = tmp_path / "model"
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    data = tmp_path / "data"
    data.mkdir()
    for split, seed in (("train", 0), ("validation", 1)):
        lines = [json.dumps(row) + "\n" for row in rows_of("regression", 40, seed)]
        (data / f"{split}.jsonl").write_text("".join(lines))
    config = {
        "model": str(folder),
        "training": {**RECIPE, "epochs": 1},
        "data": {"path": str(data), "problem": "regression"},
    }
    taught = teach(TeachConfig.model_validate(config), tmp_path / "teacher")
    assert taught.record.problem == "regression"
    student = distill(
        settings(
            teacher={"model": str(tmp_path / "teacher"), "allow_weak": True},
            data={"path": str(data)},  # what the labels are is the teacher's to say
            student={"layers": 1},
            training={"epochs": 1},
        ),
        tmp_path / "student",
    )
    assert student.record.problem == "regression"
    table = pq.read_table(tmp_path / "student/predictions.parquet")
    assert math.isfinite(table["prediction"][0].as_py())


def test_intervals_draw_groups_whole(taught: Any, tmp_path: Path) -> None:
    def rows(count: int, seed: int) -> list[dict[str, Any]]:
        given = rows_of("regression", count, seed)
        return [{**row, "author": f"author {place // 3}"} for place, row in enumerate(given)]

    splits = {"train": rows(40, 0), "validation": rows(18, 1)}
    texts = from_splits(splits, problem=PROBLEMS["regression"], group_column="author")
    teacher = load_classifier(str(taught("regression")), texts.label_names, problem=texts.problem)
    run = distill_from(teacher, copy_blocks(teacher, 1), texts, settings(), out=tmp_path / "run")
    interval = run.record.interval
    assert interval is not None
    assert (interval.rows, interval.groups) == (18, 6)
    card = (tmp_path / "run/student/README.md").read_text(encoding="utf-8")
    assert "over the 18 rows in 6 groups" in card
    page, _ = report(tmp_path / "run")
    assert "18 examples in 6 groups" in page.read_text(encoding="utf-8")
    lone = {split: [{**row, "author": "one"} for row in of] for split, of in splits.items()}
    texts = from_splits(lone, problem=PROBLEMS["regression"], group_column="author")
    run = distill_from(
        teacher, copy_blocks(teacher, 1), texts, settings(training={"selection": "none"})
    )
    assert run.record.interval is None


def test_losses_that_do_not_suit_are_refused_before_models_are_loaded(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of("regression", 40, 0)))
    given = {"path": str(data), "problem": "regression"}
    nowhere = {"model": str(tmp_path / "nowhere")}
    for loss, told in (({"logit": "kl"}, "kl"), ({"class_weights": "balanced"}, "are for classes")):
        config = {"data": given, "loss": loss, "teacher": nowhere}
        with pytest.raises(ConfigError, match=told):
            distill(DistillConfig.model_validate(config))
    taught = {**nowhere, "data": given, "loss": {"label_smoothing": 0.1}}
    with pytest.raises(ConfigError, match="are for classes"):
        teach(TeachConfig.model_validate(taught))
