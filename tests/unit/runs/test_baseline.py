"""A model without a neural network beside the others: of files and of every kind of label."""

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from layermix.cli import main
from layermix.config import TeachConfig
from layermix.data.texts import from_splits
from layermix.errors import ConfigError
from layermix.evaluation.tfidf import tfidf_values
from layermix.models.labels import name_classes
from layermix.problems.kinds import PROBLEMS
from layermix.runs.baseline import baseline, baseline_of
from layermix.studies.baselines import add_baselines, read_baselines
from layermix.studies.folder import Study
from layermix.studies.plan import make_plan
from layermix.studies.spec import load_study

WORDS = {"good": 1, "fine": 1, "bad": 0, "dull": 0}
QUIET = TeachConfig()
needs_model2vec = pytest.mark.skipif(
    find_spec("model2vec") is None, reason="the extra static is not installed"
)


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    found = []
    for word in draw.choice(list(WORDS), count):
        others = draw.choice(["film", "book", "day", "the", "a"], 3)
        found.append({"text": " ".join([word, *others]), "label": WORDS[word]})
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split, count, seed in (("train", 60, 0), ("validation", 20, 1), ("test", 20, 2)):
        lines = [
            json.dumps(row | {"label": ["no", "yes"][row["label"]]}) for row in rows(count, seed)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def config(data: Path, **training: Any) -> TeachConfig:
    return TeachConfig.model_validate({"data": {"path": str(data)}, "training": training})


def test_every_split_but_the_training_rows_is_scored(data: Path) -> None:
    found = baseline(config(data))
    assert list(found) == ["validation", "test"]
    assert (found["validation"]["rows"], found["validation"]["accuracy"]) == (20, 1)
    assert set(found["validation"]["per_class"]) == {"no", "yes"}
    train, validation = rows(60, 0), rows(20, 1)
    probabilities = tfidf_values(
        [(row["text"],) for row in train],
        np.array([row["label"] for row in train]),
        [(row["text"],) for row in validation],
        "class",
        2,
    )
    chance = probabilities[range(20), [row["label"] for row in validation]]
    assert found["validation"]["nll"] == pytest.approx(-np.log(chance).mean(), rel=1e-5)


def test_held_out_rows_are_not_fitted_to(data: Path) -> None:
    found = baseline(config(data, selection="holdout", holdout_fraction=0.5))
    assert set(found) == {"holdout", "validation", "test"}
    assert found["holdout"]["rows"] in range(20, 41)
    assert found["validation"]["nll"] > baseline(config(data))["validation"]["nll"]


@pytest.mark.parametrize("kind", ["multi_label", "regression", "relevance"])
def test_other_kinds_of_label(kind: str) -> None:
    made: dict[str, list[dict[str, Any]]] = {}
    for split, count in (("train", 60), ("validation", 20)):
        made[split] = [
            row | {"label": [["bad"], ["good", "all"]][row["label"]]}
            if kind == "multi_label"
            else row | {"label": 0.25 + 0.5 * row["label"]}
            for row in rows(count, len(split))
        ]
    found = baseline_of(from_splits(made, problem=PROBLEMS[kind]), QUIET)["validation"]
    assert found["f1_micro" if kind == "multi_label" else "pearson"] > 0.95


def test_labels_of_words_have_none_and_rows_need_labels() -> None:
    tagged = [{"tokens": ["a", "b"], "tags": ["O", "B-X"]}] * 4
    with pytest.raises(ConfigError, match="there is no baseline for entities: each word has a la"):
        baseline_of(
            from_splits({"train": tagged, "validation": tagged}, problem=PROBLEMS["entities"]),
            QUIET,
        )


def test_the_command_shows_the_scores(data: Path) -> None:
    words = ["baseline", "--data", str(data)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("TF-IDF and a linear model\nvalidation (20 rows)\n  accuracy")
    assert "no static embeddings: they are made of a model's tokens, and none is giv" in done.stderr
    found = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert found == {"TF-IDF": baseline(config(data))}
    alone = CliRunner().invoke(main, [*words, "--kind", "tfidf"])
    assert (alone.stdout, alone.stderr) == (done.stdout, "")
    without = CliRunner().invoke(main, [*words, "--kind", "static"])
    assert without.exit_code == 2
    assert "none is given; give --model, such as minilm" in without.stderr


def test_without_the_extra_it_is_named_and_words_are_counted_all_the_same(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skeletoken", None)
    words = ["baseline", "--data", str(data), "--model", "minilm"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0
    assert done.stdout.startswith("TF-IDF and a linear model\n")
    assert re.search(r"no static embeddings: .* is not installed.*'\.\[static\]'", done.stderr)
    alone = CliRunner().invoke(main, [*words, "--kind", "static"])
    assert (alone.exit_code, alone.stdout) == (2, "")
    assert "Static embeddings need the extra `static`" in alone.stderr


@pytest.fixture
def letters(bert: Any, tokenizer: Any, tmp_path: Path) -> Path:
    """A classifier in `teacher`; rows of letters, whose label says whether an a is among them."""
    bert(1).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    draw = np.random.default_rng(0)
    for split, count in (("train", 120), ("validation", 40)):
        lines = [
            json.dumps({"text": " ".join(row), "label": ["no", "yes"]["a" in row]}) + "\n"
            for row in draw.choice(list("abcdef"), (count, 4))
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


@needs_model2vec
def test_static_embeddings_stand_beside_the_words(letters: Path) -> None:
    words = ["baseline", "--data", str(letters), "--model", str(letters / "teacher"), "--json"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert f"static embeddings are made of {letters / 'teacher'}, which" in done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["TF-IDF", "static embeddings"]
    assert found["static embeddings"]["validation"]["accuracy"] > 0.9
    assert found["static embeddings"] != found["TF-IDF"]
    alone = CliRunner().invoke(main, [*words, "--kind", "static"])
    assert json.loads(alone.stdout) == {"static embeddings": found["static embeddings"]}


@needs_model2vec
def test_a_study_has_both_and_adds_what_is_missing(letters: Path) -> None:
    file = letters / "study.yaml"
    file.write_text(
        f"teach: {{model: {letters / 'teacher'}}}\ntasks: {{letters: {{data: {letters}}}}}\n"
        "arms: {one: {}}\nseeds: 1\n"
    )
    study, said = Study(letters / "study"), list[str]()
    plan = make_plan(load_study(file), study.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "model2vec", None)
        add_baselines(plan, study, said.append)
    assert list(read_baselines(study)["letters"]) == ["TF-IDF"]
    assert [line.split(":")[0] for line in said] == ["no static embeddings", "letters"]
    add_baselines(plan, study, said.append)
    score = read_baselines(study)["letters"]["static embeddings"].score("accuracy")
    assert said[-1] == f"letters: static embeddings and a linear model have accuracy {score:.4f}"
    count = len(said)
    add_baselines(plan, study, said.append)
    assert len(said) == count


@pytest.fixture
def several(bert: Any, tokenizer: Any, tmp_path: Path) -> Path:
    """Rows with a list of labels, and in `teacher` a model that was trained on such."""
    model = bert(1)
    model.config.problem_type = "multi_label_classification"
    name_classes(model.config, ("bad", "good"))
    model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    for split, count in (("train", 60), ("validation", 20)):
        lines = [
            json.dumps(row | {"label": [["bad"], ["good"]][row["label"]]}) + "\n"
            for row in rows(count, len(split))
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_the_command_takes_the_kind_of_label_from_the_model(several: Path) -> None:
    words = ["baseline", "--data", str(several), "--kind", "tfidf", "--json"]
    done = CliRunner().invoke(main, [*words, "--model", str(several / "teacher")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["TF-IDF"]["validation"]["f1_micro"] == 1
    told = CliRunner().invoke(main, [*words, "--data.problem", "multi_label"])
    assert told.stdout == done.stdout
    lost = CliRunner().invoke(main, [*words, "--model", str(several / "nothing")])
    assert lost.exit_code == 2
    assert "nothing" in lost.stderr


def test_a_study_takes_the_kind_of_label_from_a_teacher_that_it_does_not_make(
    several: Path,
) -> None:
    """Such a study need not say it: `distill` takes it from the teacher, too."""
    file = several / "study.yaml"
    file.write_text(
        f"base: {{teacher: {several / 'teacher'}}}\n"
        f"tasks: {{words: {{data: {several}}}}}\n"
        "arms: {one: {}}\nseeds: 1\n",
        encoding="utf-8",
    )
    study, said = Study(several / "study"), list[str]()
    add_baselines(make_plan(load_study(file), study.folder), study, said.append)
    found = read_baselines(study)["words"]["TF-IDF"]
    assert found.score("f1_micro") == 1
    assert "words: TF-IDF and a linear model have f1_micro 1.0000" in said
