"""What stands on the pages of runs and studies, whole and damaged."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from layermix.errors import ReportError
from layermix.evaluation.statistics import row_bootstrap
from layermix.report import build, run_page
from layermix.report.build import page_of, report
from layermix.report.html import render
from layermix.report.study_page import study_page
from layermix.runs.reader import RunFiles
from layermix.studies.declarations import declare
from layermix.studies.folder import Study

from ..study_folders import fill, make
from .conftest import NASTY

Make = Callable[..., Any]


def data_of(file: Path) -> dict[str, Any]:
    """What the page's script reads."""
    text = file.read_text("utf-8")
    found: dict[str, Any] = json.loads(
        text.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    )
    return found


def rows_of(file: Path, figure: str) -> list[dict[str, Any]]:
    return list(data_of(file)["figures"][figure]["datasets"]["rows"])


# -- a run -----------------------------------------------------------------------------------------


def test_the_headline_of_a_run(run_folder: Make) -> None:
    page, place = page_of(run_folder())
    assert place.name == "report.html"
    assert page.title == "run: letters"
    assert page.status == "ok"
    assert page.notes == []
    first, second, majority, third, last = page.headline
    assert majority == "Always predicting the most frequent class is right on 50.0%."
    assert first == (
        "The student has accuracy 0.8000 on validation (last epoch: 2); its teacher has 0.9000, so "
        "it keeps 88.9%."
    )
    assert second.startswith("Student minus teacher: -10.0 points, 95 % interval over the 40 ")
    assert second.endswith("their predictions agree on 70.0% of the rows.")
    assert third.startswith("It has 1.0 million parameters (4.1 MB on disk), 25.0% of the teacher")
    assert "A text takes 2.5 ms instead of 9.0, so it is 3.6 times as fast (medians" in third
    assert "run a study" in last


def test_the_interval_of_a_run_is_a_paired_bootstrap(run_folder: Make) -> None:
    folder = run_folder()
    answers = RunFiles(folder).predictions("last")
    assert answers is not None
    found = row_bootstrap(answers.predicted[0], answers.teacher[0], answers.labels, "accuracy")
    shown = page_of(folder)[0].headline[1]
    assert f"{100 * found.low:+.1f} to {100 * found.high:+.1f}" in shown


def test_the_figures_of_a_run(run_folder: Make) -> None:
    file, _ = report(run_folder())
    assert list(data_of(file)["figures"]) == [
        "by-epoch",
        "parameters",
        "milliseconds",
        "losses",
        "alpha",
        "entropy",
        "confusion",
        "calibration",
    ]
    last = [row for row in rows_of(file, "alpha") if row["step"] == 20]
    assert [(row["student"], row["teacher"], row["alpha"]) for row in last[:3]] == [
        (0, 2, 0.7),
        (0, 5, 0.1),
        (0, 8, 0.2),
    ]
    confusion = {(r["model"], r["label"], r["prediction"]): r for r in rows_of(file, "confusion")}
    assert confusion["teacher", "no", "no"]["share"] == 0.9
    assert confusion["student", "no", "no"]["rows"] == 16
    sure = [row for row in rows_of(file, "calibration") if row["model"] == "student"]
    (bin_,) = sure
    assert (bin_["accuracy"], bin_["rows"]) == (0.8, 40)
    assert bin_["confidence"] == pytest.approx(0.8)


def test_the_rows_on_which_teacher_and_student_disagree(run_folder: Make) -> None:
    file, _ = report(run_folder())
    (rows,) = data_of(file)["searches"]
    assert {row[0] for row in rows} == {str(row) for row in (*range(128, 136), *range(136, 140))}
    long = next(row for row in rows if row[0] == "130")
    assert long[1].endswith("… (1,048,576 characters)")
    assert len(long[1]) < 1000
    assert long[3:] == ["no (90%)", f"{NASTY} (80%)"]
    assert file.stat().st_size < 2_000_000


def test_without_texts_rows_have_their_numbers_only(run_folder: Make) -> None:
    folder = run_folder()
    (folder / "texts.parquet").unlink()
    page, _ = page_of(folder)
    search = page.sections[-1].search
    assert search is not None
    assert search.note.endswith("Only row numbers are on record here, not the texts.")
    assert search.rows[0][1] == ""


def test_a_page_is_made_without_torch_and_asks_no_network(run_folder: Make, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from layermix.report.build import report; "
        "report(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    folder = run_folder()
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    text = (folder / "report.html").read_text("utf-8")
    page = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


def test_a_fine_tuning_has_a_page_of_its_own(run_folder: Make) -> None:
    changes = {"teacher": {"parameters": 9, "classes": ["a", "b"]}, "student": None, "mix": None}
    folder = run_folder(**changes)
    result = json.loads((folder / "result.json").read_text())
    del result["student"]
    (folder / "result.json").write_text(json.dumps(result))
    table = pq.read_table(folder / "predictions.parquet")
    table = table.drop_columns(["teacher", "teacher_confidence"])
    pq.write_table(table, folder / "predictions.parquet")
    page, _ = page_of(folder)
    assert page.headline == ["accuracy 0.8000 on validation (last epoch: 2)."]
    assert page.record["To repeat it"].startswith("layermix teach ")
    models = {
        row["model"] for figure in page.figures for row in figure.data["rows"] if "model" in row
    }
    assert models == {"model"}


def test_a_teacher_that_is_always_wrong_keeps_no_share(run_folder: Make) -> None:
    folder = run_folder(teacher={"metrics": {"validation": {"accuracy": 0.0}}})
    assert page_of(folder)[0].headline[0].endswith("its teacher has 0.0000.")


def test_a_fixed_alpha_is_one_picture(run_folder: Make) -> None:
    folder = run_folder()
    lines = [{"step": step, "alpha": [[1.0, 0.0], [0.0, 1.0]]} for step in (1, 2)]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page, _ = page_of(folder)
    (alpha,) = (one for one in page.figures if one.name == "alpha")
    assert alpha.steps == [2]
    assert not any(one.name == "entropy" for one in page.figures)


def test_rows_without_labels_have_answers_but_no_confusion(run_folder: Make) -> None:
    folder = run_folder()
    table = pq.read_table(folder / "predictions.parquet")
    unknown = table.set_column(3, "label", pa.array([-100] * 40))
    pq.write_table(unknown, folder / "predictions.parquet")
    page, _ = page_of(folder)
    assert not any(figure.name == "confusion" for figure in page.figures)
    search = page.sections[-1].search
    assert search is not None
    assert {row[2] for row in search.rows} == {"–"}


def test_many_disagreements_are_cut_and_that_is_told(
    run_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_page, "MOST_ROWS", 5)
    search = page_of(run_folder())[0].sections[-1].search
    assert search is not None
    assert len(search.rows) == 5
    assert (
        search.note
        == "12 of 40 rows; the 5 with the most disagreement or the highest confidence are shown."
    )


def test_scores_on_test_rows_stand_in_the_table(run_folder: Make) -> None:
    metrics = {
        "last": {"epoch": 2, "validation": {"accuracy": 0.8}},
        "test": {"accuracy": 0.75, "per_class": {}},
    }
    (table,) = page_of(run_folder(metrics=metrics))[0].sections[0].tables
    assert [row[0] for row in table.rows] == [
        "teacher, validation",
        "last (epoch 2), validation",
        "test",
    ]
    assert table.rows[2][1] == "0.7500"


def test_the_entropy_of_a_study_is_the_mean_of_the_seeds(study_folder: Make) -> None:
    study: Study = study_folder(family=[])
    plan = json.loads((study.folder / "small.plan.json").read_text())
    learned = [cell["name"] for cell in plan["cells"] if cell["arm"] == "learned"]
    for number, name in enumerate(learned):
        row = [1.0, 0.0] if number % 2 else [0.0, 1.0]
        lines = [{"step": step, "alpha": [[0.5, 0.5], row]} for step in (10,)]
        lines.append({"step": 20, "alpha": [row, row]})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (study.filed(name) / "history.jsonl").write_text(text)
    (entropy,) = (one for one in page_of(study.folder)[0].figures if "entropy" in one.name)
    found = {(row["layer"], row["step"]): row["entropy"] for row in entropy.data["rows"]}
    assert found["0", 10] == pytest.approx(0.6931, abs=1e-4)
    assert [found["1", 10], found["0", 20], found["1", 20]] == pytest.approx([0, 0, 0])


# -- unfinished, failed, damaged -------------------------------------------------------------------


def test_a_run_that_goes_on_has_a_page(run_folder: Make) -> None:
    folder = run_folder("going.partial")
    for name in ("result.json", "environment.json", "predictions.parquet", "texts.parquet"):
        (folder / name).unlink()
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"step": 25, "lo')
    page, place = page_of(folder.with_name("going"))
    assert place == folder.with_name("going.report.html")
    assert page.title.startswith("going: ")
    assert page.status == "unfinished"
    assert page.headline == ["This run is not finished: it is at step 20."]
    assert page.notes == []
    assert [one.name for one in page.figures] == ["by-epoch", "losses", "alpha", "entropy"]
    (folder / "history.jsonl").unlink()
    assert page_of(folder)[0].headline == ["This run is not finished: no step is logged yet."]


def test_a_run_that_failed_says_why(run_folder: Make) -> None:
    folder = run_folder("broken.partial")
    (folder / "result.json").write_text('{"status": "failed", "error": "OSError(28)"}')
    page, _ = page_of(folder)
    assert page.status == "failed"
    assert page.headline[0].startswith("This run failed: OSError(28). The same command with --res")


@pytest.mark.parametrize(
    "name",
    ["result.json", "environment.json", "history.jsonl", "predictions.parquet", "config.yaml"],
)
@pytest.mark.parametrize("how", ["missing", "torn", "another"])
def test_what_is_missing_or_damaged_is_told(run_folder: Make, name: str, how: str) -> None:
    folder = run_folder()
    file = folder / name
    if how == "missing":
        file.unlink()
    elif how == "torn":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] + b"\xff")
    else:
        file.write_bytes(b"[1, 2]")
    page, _ = page_of(folder)
    render(page)
    told = " ".join(page.notes)
    if how == "missing":
        assert f"{name} is missing" in told
    elif name == "history.jsonl":
        assert "1 damaged lines of history.jsonl" in told
    elif name == "config.yaml":
        assert page.record[name] == ("seed�" if how == "torn" else "[1, 2]")  # shown as it is
    else:
        assert f"{name} is damaged" in told


def test_every_file_damaged_at_once_still_gives_a_page(run_folder: Make) -> None:
    folder = run_folder()
    for file in folder.iterdir():
        file.write_bytes(b"\x00\xff{")
    page, _ = page_of(folder)
    assert len(page.notes) >= 3
    assert "damaged" in render(page)


@pytest.mark.parametrize(
    "value", [None, 7, [], "text", {"last": None}, {"last": {"validation": 1}}]
)
def test_results_of_another_shape_are_no_traceback(run_folder: Make, value: Any) -> None:
    keys = ("metrics", "teacher", "student", "mix", "notes", "data")
    for key in keys:
        page_of(run_folder(key, **{key: value}))
    render(page_of(run_folder("all", **dict.fromkeys(keys, value)))[0])


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no run and no study; wanted a folder that `layermix"):
        page_of(tmp_path)
    with pytest.raises(ReportError, match="no run and no study"):
        page_of(tmp_path / "nowhere")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ReportError, match=r"found no x\.plan\.json beside it"):
        page_of(tmp_path / "x.json")


# -- a study ---------------------------------------------------------------------------------------


def test_the_page_of_a_study(study_folder: Make) -> None:
    study = study_folder(published={"mrpc": {"fixed": {"accuracy": 0.7}}})
    file, _ = report(study.folder)
    assert file == study.folder / "small.html"
    page, _ = page_of(study.folder / "small.json")
    assert page.status == "ok"
    assert page.headline[0] == "1 comparison declared beforehand: 1 better."
    assert page.headline[1].startswith(
        "mrpc: by arm, the students keep 85.8% to 86.9% of the teacher's"
    )
    assert page.sections[0].text[0].startswith("Learned is better than fixed on mrpc: ")
    assert "gradients-mrpc" not in data_of(file)["figures"]
    assert list(data_of(file)["figures"]) == [
        "scores-mrpc",
        "differences-mrpc",
        "by-epoch-mrpc",
        "losses-mrpc",
        "alpha-mrpc-learned",
        "alpha-seeds-mrpc-learned",
        "entropy-mrpc-learned",
        "parameters-mrpc",
        "confusion-mrpc",
        "calibration-mrpc",
        "published",
    ]
    dots = rows_of(file, "scores-mrpc")
    assert len(dots) == 24
    judged = [row["points"] for row in rows_of(file, "differences-mrpc")[:8]]
    assert judged == pytest.approx([1.0] * 8)
    assert "8 of 8" in {cell for row in data_of(file)["searches"][0] for cell in row}


def test_a_place_where_no_page_can_be_is_told_first(run_folder: Make, tmp_path: Path) -> None:
    source = run_folder()
    for out, told in ((tmp_path, "is a folder"), (tmp_path / "nope/p.html", "there is no folder")):
        with pytest.raises(ReportError, match=told):
            report(source, out)


def test_a_study_without_a_finished_cell_has_a_page(study_folder: Make, tmp_path: Path) -> None:
    study = study_folder(family=[])
    for cell in (study.folder / "cells").iterdir():
        (cell / "result.json").unlink()
    page, _ = page_of(study.folder)
    assert page.headline == ["No cell is finished yet."]
    assert page.status == "unfinished"
    assert "0 of 24 cells are finished" in page.notes[0]


def test_a_study_that_is_half_finished_says_so(study_folder: Make) -> None:
    arms = {name: {"mix": name} for name in ("fixed", "learned", "uniform")}
    study: Study = study_folder(
        arms=arms | {"fixed": {"mix": "fixed", "seeds": 1}},
        family=[["learned", "fixed"], ["learned", "uniform"]],
    )
    plan = json.loads((study.folder / "small.plan.json").read_text())
    for cell in plan["cells"]:
        if cell["arm"] == "uniform":
            (study.filed(cell["name"]) / "result.json").unlink()
        else:
            history = study.filed(cell["name"]) / "history.jsonl"
            norms = {"step": 1, "gradient_hidden": 1.0, "gradient_logit": 3.0}
            history.write_text(history.read_text() + json.dumps(norms) + "\n")
    page, _ = page_of(study.folder)
    assert page.status == "unfinished"
    assert page.headline[0] == (
        "2 comparisons declared beforehand; 9 of 17 cells are finished: 1 without a verdict (too "
        "few seeds), 1 not finished."
    )
    assert (
        page.sections[0].text[1]
        == "learned against uniform on mrpc: no seed of both is finished yet."
    )
    (shares,) = (one for one in page.figures if one.name == "gradients-mrpc")
    assert {row["part"]: row["share"] for row in shares.data["rows"]} == {
        "hidden": 0.25,
        "logit": 0.75,
    }
    (scores,) = (one for one in page.figures if one.name == "scores-mrpc")
    assert {row["arm"]: row["low"] for row in scores.data["summary"]}["fixed"] is None


def test_a_published_score_needs_two_seeds_to_be_placed(study_folder: Make) -> None:
    study = study_folder(seeds=1, published={"mrpc": {"fixed": {"accuracy": 0.7}}})
    section = page_of(study.folder)[0].sections[-1]
    assert section.title == "Comparison with published scores"
    assert not section.figures
    (table,) = section.tables
    assert [row[3:] for row in table.rows] == [["none (one seed, or all equal)", "–"]] * 2


def test_damaged_cells_are_told_and_left_out(study_folder: Make) -> None:
    study = study_folder(arms={"fixed": {"mix": "fixed"}, "learned": {"mix": "learned"}})
    damaged = sorted((study.folder / "cells").iterdir())[:2]
    (damaged[0] / "predictions.parquet").write_bytes(b"PAR1 or not")
    (damaged[1] / "result.json").write_text("{")
    page, _ = page_of(study.folder)
    render(page)
    assert sum("is damaged and left out" in note for note in page.notes) == 2


def test_cells_without_the_teacher_s_answers_have_no_table_of_disagreements(
    study_folder: Make,
) -> None:
    study = study_folder()
    for file in (study.folder / "cells").glob("*/predictions.parquet"):
        table = pq.read_table(file).drop_columns(["teacher", "teacher_confidence"])
        pq.write_table(table, file)
    page, _ = page_of(study.folder)
    assert not any(section.search for section in page.sections)
    assert any(one.name == "confusion-mrpc" for one in page.figures)


def test_arms_scored_on_other_rows_are_not_put_beside(study_folder: Make) -> None:
    study: Study = study_folder(family=[])
    plan = json.loads((study.folder / "small.plan.json").read_text())
    for cell in plan["cells"]:
        if cell["arm"] == "uniform":
            file = study.filed(cell["name"]) / "predictions.parquet"
            table = pq.read_table(file)
            moved = pa.array([row + 1 for row in table["row_id"].to_pylist()])
            pq.write_table(table.set_column(1, "row_id", moved), file)
    page, _ = page_of(study.folder)
    (confusion,) = (one for one in page.figures if one.name == "confusion-mrpc")
    assert {row["model"] for row in confusion.data["rows"]} == {"teacher", "fixed", "learned"}


def test_a_damaged_plan_is_told_with_the_way_out(study_folder: Make) -> None:
    study = study_folder()
    (study.folder / "small.plan.json").write_text('{"study": {}}')
    with pytest.raises(ReportError, match="run the study's own command again"):
        page_of(study.folder)


def test_of_several_studies_one_must_be_named(study_folder: Make) -> None:
    study = study_folder()
    (study.folder / "other.plan.json").write_text("{}")
    with pytest.raises(ReportError, match=r"found 2 studies; give one of .*other\.plan\.json, "):
        page_of(study.folder)
    assert page_of(study.folder / "small.plan.json")[1].name == "small.html"


@pytest.mark.slow
def test_a_large_study_is_a_small_page(tmp_path: Path) -> None:
    names = ("fixed", "uniform", "learned", "reverse", "all_to_one", "last_only", "random")
    arms: dict[str, Any] = {name: {"mix": name} for name in names}
    arms |= {
        "ce_only": {"loss": {"logit_weight": 0, "hidden_weight": 0}},
        "logit_only": {"loss": {"hidden_weight": 0}},
    }
    tasks = {"a": {}, "b": {"data": "E"}, "c": {"data": "F"}}
    plan = make(tasks=tasks, arms=arms, seeds=20, family=[["learned", "fixed"]])
    study = Study(tmp_path / "large")
    declare(plan, study)
    steps = range(10, 1210, 10)
    history = [
        {"step": s, **{f"loss_{part}": 1 / s for part in "abcd"}, "alpha": [[s / 2000, 0.2]] * 4}
        for s in steps
    ] + [{"epoch": n, "eval_validation_accuracy": 0.7} for n in range(10)]
    fill(plan, study, history=history)
    text = render(study_page(plan, study))
    assert len(text.encode()) < 8_000_000


def test_every_seed_is_compared_with_its_own_teacher(study_folder: Make) -> None:
    study: Study = study_folder(arms={"learned": {"mix": "learned"}}, family=[])
    plan = json.loads((study.folder / "small.plan.json").read_text())
    for cell in plan["cells"]:  # every student says what its own teacher says
        file = study.filed(cell["name"]) / "predictions.parquet"
        table = pq.read_table(file)
        at = table.column_names.index("teacher")
        pq.write_table(table.set_column(at, "teacher", table["prediction"]), file)
    page, _ = page_of(study.folder)
    (search,) = (one.search for one in page.sections if one.search)
    assert search.rows == []
    (confusion,) = (one for one in page.figures if one.name == "confusion-mrpc")
    shares = {
        (row["model"], row["label"], row["prediction"]): row["share"]
        for row in confusion.data["rows"]
    }
    assert 0.7 < shares["teacher", "no", "no"] < 0.8


def test_a_cell_without_its_teacher_s_answers_hides_no_other(study_folder: Make) -> None:
    study: Study = study_folder(family=[])
    plan = json.loads((study.folder / "small.plan.json").read_text())
    first = study.filed(plan["cells"][0]["name"]) / "predictions.parquet"
    pq.write_table(pq.read_table(first).drop_columns(["teacher", "teacher_confidence"]), first)
    (search,) = (one.search for one in page_of(study.folder)[0].sections if one.search)
    assert any("7 of 7" in row for row in search.rows)
    assert any("8 of 8" in row for row in search.rows)


def test_rows_that_a_recipe_is_confirmed_on_are_not_shown(study_folder: Make) -> None:
    base = {"teacher": "T", "data": "D", "training": {"selection": "holdout"}}
    study = study_folder(base=base, split="holdout", family=[])
    page, _ = page_of(study.folder)
    task = page.sections[1]
    assert "not shown" in task.text[0]
    assert task.search is None
    assert not any(one.name.startswith(("confusion", "calibration")) for one in page.figures)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", {"alpha": [[None]]}),
        ("result.json", {"teacher": {"fingerprint": "t"}}),
        ("result.json", {"mix": "fixed"}),
        ("result.json", {"metrics": {"last": {"validation": {"accuracy": float("nan")}}}}),
        ("result.json", []),
        ("environment.json", []),
        ("environment.json", {}),
        ("history.jsonl", b""),
        ("history.jsonl", b"[1]\n"),
        ("predictions.parquet", None),
    ],
)
@pytest.mark.parametrize("seeds", [1, 8])
def test_a_damaged_cell_is_told_whatever_is_wrong(
    study_folder: Make, name: str, content: Any, seeds: int
) -> None:
    study: Study = study_folder(seeds=seeds)
    plan = json.loads((study.folder / "small.plan.json").read_text())
    file = study.filed(plan["cells"][0]["name"]) / name
    if content is None:
        whole = bytearray(file.read_bytes())
        whole[200:1500] = b"\xff" * 1300  # its pages, not its foot
        file.write_bytes(whole)
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        if isinstance(content, dict) and content and name == "result.json":
            content = json.loads(file.read_text()) | content
        file.write_text(json.dumps(content))
    page, _ = page_of(study.folder)
    render(page)
    assert page.status == "unfinished"
    assert sum("is damaged and left out" in note for note in page.notes) == 1


def test_a_damaged_declaration_is_a_note(study_folder: Make) -> None:
    study = study_folder()
    (study.folder / "small.declared.json").write_text("[{")
    page, _ = page_of(study.folder)
    assert "records what was declared before the runs" in page.notes[0]


def test_a_study_of_an_older_version_is_told_the_way(study_folder: Make) -> None:
    study = study_folder()
    (study.folder / "small.plan.json").unlink()
    with pytest.raises(ReportError, match="run the study's own command again"):
        page_of(study.folder)


def test_many_classes_stay_small(run_folder: Make) -> None:
    folder = run_folder(student={"classes": [f"class {n}" for n in range(150)], "parameters": 1})
    table = pq.read_table(folder / "predictions.parquet")
    labels = pa.array([149 - n for n in range(40)])
    pq.write_table(table.set_column(3, "label", labels), folder / "predictions.parquet")
    file, _ = report(folder)
    assert 40 <= len(rows_of(file, "confusion")) <= 160
    assert file.stat().st_size < 2_000_000


# -- watching --------------------------------------------------------------------------------------


def test_here_and_with_its_working_name(run_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder()
    monkeypatch.chdir(folder)
    assert page_of(Path())[0].title == "run: letters"
    assert page_of(folder.with_name("run.partial"))[0].title == "run: letters"


def test_watching_outlives_the_end_of_a_run(
    run_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "POLL_SECONDS", 0.01)
    folder = run_folder("going.partial")
    result = (folder / "result.json").read_text()
    (folder / "result.json").unlink()
    whole = build.render
    seen: list[str] = []

    def render_slowly(page: Any, live: bool) -> str:
        if folder.is_dir():  # the run ends just now
            (folder / "result.json").write_text(result)
            folder.rename(folder.with_name("going"))
        return whole(page, live)

    class EnoughError(Exception):
        pass

    def told(page: Path) -> None:
        seen.append(page.name)
        if page.name == "report.html":
            raise EnoughError

    monkeypatch.setattr(build, "render", render_slowly)
    with pytest.raises(EnoughError):
        build.watch(folder, None, told)
    assert seen == ["going.report.html", "report.html"]
    assert 'id="live"' not in (folder.with_name("going") / "report.html").read_text("utf-8")


def test_watching_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no run and no study"):
        build.watch(tmp_path / "nowhere", None, print)


def test_watching_makes_the_page_again_when_a_file_changes(
    run_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "POLL_SECONDS", 0.05)
    folder = run_folder("going.partial")
    (folder / "result.json").unlink()
    made: list[str] = []

    class EnoughError(Exception):
        pass

    def told(page: Path) -> None:
        made.append(page.read_text("utf-8"))
        if len(made) == 2:
            raise EnoughError
        history = folder / "history.jsonl"

        def grow() -> None:
            time.sleep(0.2)
            with history.open("a") as file:
                file.write('{"step": 30, "loss_hidden": 0.125}\n')

        threading.Thread(target=grow).start()

    with pytest.raises(EnoughError):
        build.watch(folder.with_name("going"), None, told)
    first, second = made
    assert 'id="live"' in first
    assert "0.125" not in first.split('id="data"')[1]
    assert "0.125" in second.split('id="data"')[1]
