"""Pages of runs and studies whose rows have a tag for each word."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layermix.data import splits
from layermix.evaluation.predictions import FORM
from layermix.report.answers import ANSWERS, ShownRow
from layermix.report.build import page_of
from layermix.report.html import Page, render
from layermix.runs.reader import WORDS, RunFiles, read_words
from layermix.studies.analysis import analyse
from layermix.studies.declarations import declare
from layermix.studies.folder import Study

from ..study_folders import SEEDS, fill, make

NAMES = ["O", "B-PER", "I-PER", "B-<LOC>", "I-<LOC>"]
ROWS = [["Ann", "Lee", "in", "Oslo"], ["in", "<b>New", "York"], ["it", "rains"], ["so", "there"]]
LABELS = [[1, 2, 0, 3], [0, 3, 4], [0, 0], [-100, -100]]
TEACHER = [[1, 2, 0, 3], [0, 3, 4], [0, 0], [0, 0]]
STUDENT = [[1, 2, 0, 0], [0, 3, 3], [0, 0], [0, 1]]


def padded(rows: list[list[int]]) -> Any:
    return np.array([row + [-100] * (4 - len(row)) for row in rows])


def spans(row: list[str]) -> list[int]:
    """Where words are, with one space between them."""
    starts = np.cumsum([0, *(len(word) + 1 for word in row[:-1])])
    return [int(x) for word, at in zip(row, starts, strict=True) for x in (at, at + len(word))]


def texts(numbers: list[int]) -> pa.Table:
    return pa.table(
        {
            "row_id": numbers,
            "text": [" ".join(ROWS[row % len(ROWS)]) for row in range(len(numbers))],
            "words": [spans(ROWS[row % len(ROWS)]) for row in range(len(numbers))],
        }
    )


def answered(columns: dict[str, Any]) -> pa.Table:
    listed = {name: list(v) if np.ndim(v) > 1 else v for name, v in columns.items()}
    return pa.table(listed).replace_schema_metadata({FORM: b"tags"})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    columns = {"label": padded(LABELS), "prediction": padded(STUDENT), "teacher": padded(TEACHER)}
    numbers = [7, 8, 9, 10]
    table = answered({"report": ["last"] * 4, "row_id": numbers, **columns})
    pq.write_table(table, folder / "predictions.parquet")
    pq.write_table(texts(numbers), folder / "texts.parquet")
    result = {
        "status": "ok",
        "task": "names",
        "form": "tags",
        "metric": "entity_f1",
        "metrics": {"last": {"epoch": 1, "validation": {"entity_f1": 0.4}}},
        "teacher": {"parameters": 100, "metrics": {"validation": {"entity_f1": 1.0}}},
        "student": {"parameters": 50, "classes": NAMES},
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "history.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "environment.json").write_text("{}")
    return folder


def page(folder: Path) -> Page:
    return page_of(folder)[0]


def disagreements(page: Page) -> list[list[str]]:
    search = next(section.search for section in page.sections if section.search)
    return [list(row) for row in search.rows]


def test_entities_are_marked_where_teacher_and_student_disagree(run: Path) -> None:
    found = page(run)
    assert found.notes == []
    assert disagreements(found) == [
        [
            "7",
            "[Ann Lee PER] in [Oslo <LOC>]",
            "*<LOC>: Oslo; PER: Ann Lee",
            "*<LOC>: Oslo; PER: Ann Lee",
            "PER: Ann Lee",
        ],
        [
            "8",
            "in [<b>New York <LOC>]",
            "*<LOC>: <b>New York",
            "*<LOC>: <b>New York",
            "*<LOC>: <b>New; *<LOC>: York",
        ],
        ["10", "so there", "–", "(none)", "*PER: there"],
    ]
    text = render(found)
    assert "<b>New" not in text
    assert "Entities with * come first" in text


def test_the_headline_and_the_chart_are_of_entities(run: Path) -> None:
    found = page(run)
    told = " ".join(found.headline)
    # student: PER, LOC, LOC of which 1 is right, 3 are true; the teacher has all
    assert "Student minus teacher: -66.7 points" in told
    assert "they give the same tags to the words of 25.0% of the rows." in told
    assert "Always predicting O, the most frequent tag, is right on 44.4% of the words." in told
    (chart,) = next(one.figures for one in found.sections if one.title == "Predictions")
    assert chart.title == "F1 of each type of entity"
    f1 = {(row["model"], row["label"]): (row["f1"], row["rows"]) for row in chart.data["rows"]}
    assert f1 == {
        ("teacher", "PER"): (1, 1),
        ("teacher", "<LOC>"): (1, 2),
        ("student", "PER"): (1, 1),
        ("student", "<LOC>"): (0, 2),
    }


def test_tags_that_are_no_entities_show_the_words_that_differ(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    result["student"]["classes"] = ["ADP", "NOUN", "PROPN", "VERB"]  # one is not named
    (run / "result.json").write_text(json.dumps(result))
    found = page(run)
    assert disagreements(found) == [
        ["7", "Ann Lee in Oslo", "Oslo/VERB", "Oslo/VERB", "Oslo/ADP"],
        ["8", "in <b>New York", "York/4", "York/4", "York/VERB"],
        ["10", "so there", "–", "there/ADP", "there/NOUN"],
    ]
    (chart,) = next(one.figures for one in found.sections if one.title == "Predictions")
    assert chart.title == "F1 of each tag"
    assert {row["label"] for row in chart.data["rows"]} == {"ADP", "NOUN", "PROPN", "VERB", "4"}


def test_without_texts_words_have_numbers(run: Path) -> None:
    (run / "texts.parquet").unlink()
    rows = disagreements(page(run))
    assert rows[0][1:] == ["", *["*<LOC>: word 4; PER: words 1 to 2"] * 2, "PER: words 1 to 2"]


def test_one_tag_for_every_word_is_told(run: Path) -> None:
    table = pq.read_table(run / "predictions.parquet")
    outside = np.where(padded(STUDENT) < 0, -100, 0)
    changed = table.set_column(3, "prediction", pa.array(list(outside)))
    pq.write_table(changed, run / "predictions.parquet")
    told = " ".join(page(run).headline)
    assert "This student predicts O for every word: it has learned nothing yet." in told


def test_answers_of_rows() -> None:
    shown = ANSWERS["tags"]
    first, second = np.array([[0, 1, -100], [2, 2, 2]]), np.array([[0, 2, 2], [1, 1, 2]])
    assert shown.differ(first, second).tolist() == [True, True]
    assert shown.differ(first[:, :1], second[:, :1]).tolist() == [False, True]
    assert shown.differ(first[:, 2:], second[:, 2:]).tolist() == [False, False]
    assert shown.strength(first, second, np.zeros(2)).tolist() == [1, 2]
    assert shown.text(NAMES, first[0]) == "O B-PER"
    assert shown.text(NAMES, np.array([-100])) == "–"
    row = ShownRow("a b c", [(0, 1), (2, 3), (4, 5)])
    assert shown.text_in(row, ["X", "Y", "Z"], first[0], [first[0]]) == "(no difference)"
    assert shown.marked(row, NAMES, np.array([1, 2, 0])) == "[a b PER] c"


def test_words_of_a_run_are_read(run: Path, tmp_path: Path) -> None:
    assert WORDS == splits.WORDS
    files = RunFiles(run)
    assert files.texts[7] == ("Ann Lee in Oslo",)
    assert files.words[9] == [(0, 2), (3, 8)]
    problems: list[Any] = []
    assert read_words(tmp_path / "none.parquet", problems) == {}
    plain = tmp_path / "texts.parquet"
    pq.write_table(texts([1]).drop_columns(["words"]), plain)
    assert read_words(plain, problems) == {}
    assert problems == []
    for spoiled in ([[0, 1, 2]], [["a", "b"]], [None], [5]):
        pq.write_table(pa.table({"row_id": [1], "text": ["a"], "words": spoiled}), plain)
        assert read_words(plain, problems) == {}
        assert "texts.parquet is damaged" in problems.pop().text
    pq.write_table(pa.table({"row_id": [1], "text": ["a"], "words": [[0, 1]]}), plain)
    plain.write_bytes(plain.read_bytes()[:-9])
    assert read_words(plain, problems) == {}
    assert len(problems) == 1


def test_a_study_of_entities_has_verdicts_a_bootstrap_and_a_page(tmp_path: Path) -> None:
    study = Study(tmp_path / "study", "small")
    plan = make(family=[["learned", "fixed"]])
    declare(plan, study)
    fill(plan, study)
    draw = np.random.default_rng(0)
    count = 80
    labels = np.tile(padded(LABELS), (count // 4, 1))
    for cell in plan.cells:
        folder = study.filed(cell.name)
        share = 0.97 if cell.arm == "learned" else 0.6
        kept = draw.random(labels.shape) < share
        answers = np.where(kept | (labels < 0), labels, 0)
        answers[3::4, :2] = 0
        teacher = np.where(labels < 0, answers, labels)
        columns = {"label": labels, "prediction": answers, "teacher": teacher}
        report = {"report": ["last"] * count, "row_id": np.arange(count)}
        pq.write_table(answered({**report, **columns}), folder / "predictions.parquet")
        result = json.loads((folder / "result.json").read_text())
        scores = {"entity_f1": share - cell.seed / 1000, "agreement": 0.9}
        result |= {
            "form": "tags",
            "metric": "entity_f1",
            "metrics": {"last": {"epoch": 1, "validation": scores}},
            "teacher": {"parameters": 9, "metrics": {"validation": {"entity_f1": 1.0}}},
            "student": {"parameters": 5, "classes": NAMES},
        }
        (folder / "result.json").write_text(json.dumps(result))
    study.texts("d").parent.mkdir(exist_ok=True)
    pq.write_table(texts(list(range(count))), study.texts("d"))
    record = analyse(plan, study)
    assert record.notes == ()
    (verdict,) = record.family
    assert verdict.outcome == "better"
    assert verdict.p == 2 / 2**SEEDS
    assert verdict.bootstrap is not None
    assert verdict.bootstrap.low > 0.05
    assert record.tasks["mrpc"].metric == "entity_f1"
    agreement = record.tasks["mrpc"].arms["fixed"].agreement
    assert agreement is not None
    assert agreement.correlation is None
    found = page(study.folder)
    rows = disagreements(found)
    text, label, teacher = rows[0][1:4]
    assert text in ("[Ann Lee PER] in [Oslo <LOC>]", "in [<b>New York <LOC>]")
    assert label == teacher
    assert label.startswith("*")
    assert any("F1 of each type" in one.title for part in found.sections for one in part.figures)
    render(found)
