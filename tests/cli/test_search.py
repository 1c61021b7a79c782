"""`layermix search`: from a teacher and data to the smallest student and a verdict on it."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from layermix.search.measure import way_to_run
from layermix.search.schema import Look, SearchRecord, SearchSettings

from .conftest import Cli, Done

BASELINES = ("TF-IDF", "static embeddings")
AXES = ("--axis", "student.layers=1,2", "--axis", "student.vocabulary=null,occurring")


@pytest.fixture(scope="module")
def command(teacher: Path, data: Path, recipe: tuple[str, ...]) -> tuple[str | Path, ...]:
    """The command without its folder."""
    short = ("--preset", "quick", *recipe, "--training.epochs", "6")
    of_search = ("--floor", "20", "--seeds", "3", "--jobs", "2", *AXES)
    return ("search", "--teacher", teacher, "--data", data, *short, *of_search)


@pytest.fixture(scope="module")
def searched(cli: Cli, command: tuple[str | Path, ...]) -> Done:
    """A finished search in the folder `search`."""
    done = cli(*command, "--out", "search", "--baselines")
    assert done.code == 0, done.err
    return done


def record_of(file: Path) -> SearchRecord:
    return SearchRecord.from_json(file.read_text(encoding="utf-8"))


def test_a_search_chooses_and_judges(searched: Done, place: Path) -> None:
    record = record_of(place / "search" / "floor-20.search.json")
    assert record.status == "ok"
    costs = [one.cost for one in record.candidates]
    assert len(costs) == 4
    assert all(cost is not None and cost.milliseconds > 0 for cost in costs)
    first, trimmed = record.candidates[0], record.candidates[1]
    assert (first.name, trimmed.name) == ("layers 1", "layers 1, vocabulary occurring")
    assert first.cost is not None
    assert record.candidates[2].cost is not None
    assert first.cost.bytes < record.candidates[2].cost.bytes  # one block less
    rounds = [len(one.rounds) for one in record.candidates]
    assert sorted(rounds, reverse=True) == [2, 2, 2, 1]  # three went on
    assert {one.rounds[0].epochs for one in record.candidates} == {3}
    last = [one.rounds[1] for one in record.candidates if len(one.rounds) == 2]
    assert {(of_round.epochs, len(of_round.scores)) for of_round in last} == {(6, 2)}
    assert record.chosen is not None
    assert record.teacher is not None
    chosen = record.candidate(record.chosen)
    enough = record.teacher.reference - 0.2
    good = [one for one in record.candidates if len(one.rounds) == 2]
    good = [one for one in good if one.rounds[1].mean >= enough - 1e-9]
    assert record.within == bool(good)
    assert chosen.cost is not None
    assert all(one.cost and one.cost.bytes >= chosen.cost.bytes for one in good)


def test_the_verdict_is_on_fresh_seeds_and_validation_rows(searched: Done, place: Path) -> None:
    folder = place / "search"
    record = record_of(folder / "floor-20.search.json")
    verdict = record.verdict
    assert verdict is not None
    assert verdict.rows == record.validation_rows == 24
    plan = json.loads((folder / "floor-20-last.plan.json").read_text())
    cells = [cell for cell in plan["cells"] if cell["arm"] == record.chosen]
    assert [cell["seed"] for cell in cells] == [1000, 1001, 1002]
    results = [
        json.loads((folder / "cells" / c["name"] / "result.json").read_text()) for c in cells
    ]
    scores = [result["metrics"]["last"]["validation"]["accuracy"] for result in results]
    assert list(verdict.scores) == pytest.approx(scores)
    assert [result["data"]["rows"]["train"] for result in results] == [64, 64, 64]
    of_teacher = results[0]["teacher"]["metrics"]["validation"]["accuracy"]
    below = 100 * (of_teacher - sum(scores) / 3)
    assert verdict.below == pytest.approx(below)
    assert verdict.limit >= verdict.below
    assert verdict.shown == (verdict.limit < 20)
    outcome = "shown" if verdict.shown else "not shown"
    assert f"at most 20 points below the teacher (95 %): {outcome}. accuracy " in searched.out


def test_students_of_other_depths_share_the_signals_of_the_teacher(
    searched: Done, place: Path
) -> None:
    folder = place / "search"

    def stored(name: str) -> set[str]:
        cells = json.loads((folder / f"floor-20-{name}.plan.json").read_text())["cells"]
        texts = [(folder / "logs" / f"{cell['name']}.yaml").read_text() for cell in cells]
        return {yaml.safe_load(text)["cache"]["layers"] for text in texts}

    assert stored("round-1") == stored("round-2") == {"all"}
    assert stored("last") == {"needed"}


def test_it_tells_what_can_be_shown_before_it_trains(searched: Done) -> None:
    told = searched.err
    plan = "4 students to try: student.layers 1, 2; student.vocabulary as it is, occurring."
    assert told.index(plan) < told.index("is shown to be within 20 points with a probability of")
    assert told.index("round 1 of 2: 4 students") < told.index("Chosen: ")
    assert told.index("The last comparison will show") < told.index("last comparison: ")
    assert "the teacher may have been trained on the held-out rows" in told


def test_baselines_stand_beside_it(searched: Done, place: Path) -> None:
    record = record_of(place / "search" / "floor-20.search.json")
    assert {"TF-IDF", "ce_only"} <= set(record.baselines) <= {*BASELINES, "ce_only"}
    assert {"TF-IDF"} <= set(record.baselines_held_out) <= set(BASELINES)
    assert f"TF-IDF {record.baselines['TF-IDF']:.4f}" in searched.out


def test_the_student_is_a_plain_model(searched: Done, place: Path, cli: Cli, data: Path) -> None:
    folder = place / "search" / "floor-20-student"
    record = record_of(place / "search" / "floor-20.search.json")
    assert record.chosen is not None
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    layers = record.candidate(record.chosen).changes["student"]["layers"]
    assert model.config.num_hidden_layers == layers
    assert f"layermix predict {Path('search/floor-20-student')}" in searched.out
    done = cli("evaluate", folder, "--data", data, "--json")
    assert done.code == 0, done.err
    score = json.loads(done.out)["validation"]["accuracy"]
    assert record.verdict is not None
    assert score == pytest.approx(record.verdict.scores[0])


def test_a_finished_search_is_not_repeated(
    searched: Done, cli: Cli, command: tuple[str | Path, ...], untouched: None
) -> None:
    again = cli(*command, "--out", "search", "--baselines")
    assert again.code == 0
    assert again.out == searched.out


def test_another_floor_shares_what_is_trained(
    searched: Done, cli: Cli, command: tuple[str | Path, ...], place: Path
) -> None:
    cells = set((place / "search" / "cells").iterdir())
    first = record_of(place / "search" / "floor-20.search.json")
    mb = max(one.cost.bytes for one in first.candidates if one.cost) / 1e6 - 1e-6
    done = cli(*command, "--out", "search", "--floor", "45", "--mb", str(mb))
    assert done.code == 0, done.err
    name = SearchSettings(floor=45, mb=mb).name
    record = record_of(place / "search" / f"{name}.search.json")
    refused = [one for one in record.candidates if one.refused]
    assert {one.refused for one in refused} == {"too large"}
    assert 0 < len(refused) < 4
    assert all(one.rounds == () for one in refused)
    assert ": not trained" in done.err
    assert [one.cost for one in record.candidates] == [one.cost for one in first.candidates]
    plan = json.loads((place / "search" / f"{name}-round-1.plan.json").read_text())
    assert {cell["name"] for cell in plan["cells"]} <= {cell.name for cell in cells}
    assert (place / "search" / "floor-20.search.json").is_file()


def test_more_seeds_are_another_look_and_nothing_is_lost_before(
    searched: Done, cli: Cli, command: tuple[str | Path, ...], place: Path
) -> None:
    file = place / "search" / "floor-20.search.json"
    before = record_of(file)
    export = place / "search" / "floor-20-student" / "notes.txt"
    export.write_text("of the user", encoding="utf-8")
    done = cli(*command, "--out", "search", "--baselines", "--seeds", "4")
    assert done.code == 0, done.err
    after = record_of(file)
    assert before.verdict is not None
    assert after.verdict is not None
    assert after.verdict.scores[:3] == pytest.approx(before.verdict.scores)
    assert len(after.verdict.scores) == 4
    assert "were judged on the same validation rows before" in done.err
    assert f"{before.chosen} with 3 seeds" in done.err
    assert export.read_text(encoding="utf-8") == "of the user"
    fewer = cli(*command, "--out", "search", "--baselines")
    assert fewer.code == 2
    assert "is the record of a search with 4 fresh seeds, and 3 are wanted" in fewer.err
    file.write_text(before.to_json(), encoding="utf-8")


def test_another_teacher_in_the_place_of_the_first_is_noticed(
    searched: Done, cli: Cli, command: tuple[str | Path, ...], teacher: Path, place: Path
) -> None:
    kept = [*(place / "search").glob("*.json"), *teacher.glob("teacher/model.safetensors")]
    contents = {file: file.read_bytes() for file in kept}
    weights = load_file(kept[-1])
    save_file({name: weight + 1 for name, weight in weights.items()}, kept[-1], {"format": "pt"})
    same = cli(*command, "--out", "search", "--baselines")
    other_floor = cli(*command, "--out", "search", "--floor", "21")
    records = [file for file in kept if file.name.startswith("floor-20")]
    assert all(file.read_bytes() == contents[file] for file in records)
    for file, content in contents.items():
        file.write_bytes(content)
    assert same.code == 2
    assert "is the record of a search with another teacher, although the names a" in same.err
    assert other_floor.code == 1
    assert "had another teacher or other data, although the names are the same" in other_floor.err
    back = cli(*command, "--out", "search", "--floor", "21")
    assert back.code == 0, back.err
    for left in (place / "search").glob("floor-21*.json"):
        left.unlink()


def test_looks_are_kept_whatever_the_floor_and_the_names(
    searched: Done, cli: Cli, command: tuple[str | Path, ...], place: Path
) -> None:
    folder = place / "search"
    file = folder / "floor-20.search.json"
    before = record_of(file)
    assert [len(one.cells) for one in before.looks] == [3]
    assert before.chosen is not None
    other = Look(student=before.chosen, cells=("a", "b", "c"))  # of another recipe
    killed = before.model_copy(update={"status": "unfinished", "looks": (other, *before.looks)})
    file.write_text(killed.to_json(), encoding="utf-8")
    again = cli(*command, "--out", "search", "--baselines")
    assert f"before ({before.chosen} with 3 seeds)" in again.err
    assert record_of(file).looks == (other, *before.looks)
    near = cli(*command, "--out", "search", "--floor", "20.0000001")
    assert near.code == 0, near.err
    record = record_of(folder / "floor-20.0000001.search.json")
    assert record.settings.floor == 20.0000001
    assert record.chosen == before.chosen
    assert record.looks == before.looks
    assert [note.code for note in record.notes].count("other-looks") == 1
    file.write_text(before.to_json(), encoding="utf-8")
    for left in folder.glob("floor-20.0000001*.json"):
        left.unlink()


def test_a_student_that_was_removed_is_named(
    searched: Done, cli: Cli, command: tuple[str | Path, ...], place: Path
) -> None:
    folder = place / "search"
    cell = folder / "cells" / record_of(folder / "floor-20.search.json").looks[0].cells[0]
    (folder / "floor-20-student").rename(place / "kept")
    (cell / "student").rename(place / "kept-cell")
    done = cli(*command, "--out", "search", "--baselines")
    (place / "kept-cell").rename(cell / "student")
    again = cli(*command, "--out", "search", "--baselines")
    assert done.code == 1
    assert "the students of 1 finished trainings are missing; remove" in done.err
    assert str(cell.relative_to(place)) in done.err
    assert again.code == 0, again.err
    weights = [one / "model.safetensors" for one in (folder / "floor-20-student", place / "kept")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_sizes_and_times_are_measured_again_if_their_file_is_removed(
    searched: Done, cli: Cli, command: tuple[str | Path, ...], place: Path
) -> None:
    file = place / "search" / "measured.json"
    content = file.read_text(encoding="utf-8")
    file.unlink()
    done = cli(*command, "--out", "search", "--baselines")
    assert done.code == 0, done.err
    keys = [json.loads(text)["models"].keys() for text in (file.read_text("utf-8"), content)]
    assert keys[0] <= keys[1]
    assert len(keys[0]) == 5


def test_sizes_and_times_of_another_machine_are_measured_again(
    searched: Done, cli: Cli, command: tuple[str | Path, ...], place: Path
) -> None:
    file = place / "search" / "measured.json"
    before = json.loads(file.read_text(encoding="utf-8"))
    here = way_to_run(int8=False)
    assert all(key.endswith(f"-{here}") for key in before["models"])
    elsewhere = {
        key.replace(here, "torch on a slow processor, 1 threads"): {**cost, "milliseconds": 1e9}
        for key, cost in before["models"].items()
    }
    file.write_text(json.dumps(before | {"models": elsewhere}), encoding="utf-8")
    done = cli(*command, "--out", "search", "--baselines", "--floor", "22", "--ms", "1e6", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    costs = [found["teacher"]["cost"], *(one["cost"] for one in found["candidates"])]
    assert max(cost["milliseconds"] for cost in costs) < 1e6
    again = json.loads(file.read_text(encoding="utf-8"))["models"]
    assert elsewhere.items() <= again.items()
    assert again.keys() == elsewhere.keys() | before["models"].keys()


def test_a_damaged_cell_is_named(
    searched: Done, cli: Cli, command: tuple[str | Path, ...], place: Path
) -> None:
    folder = place / "search"
    plan = json.loads((folder / "floor-20-round-1.plan.json").read_text())
    file = folder / "cells" / plan["cells"][0]["name"] / "predictions.parquet"
    content = file.read_bytes()
    file.write_bytes(b"damaged")
    done = cli(*command, "--out", "search", "--floor", "21")
    file.write_bytes(content)
    assert done.code == 1
    assert f"remove {file.parent.relative_to(place)}" in done.err


def test_a_student_of_short_texts_is_not_compared_with_the_others(
    cli: Cli, teacher: Path, data: Path, recipe: tuple[str, ...], place: Path
) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(teacher / "teacher")
    base.config.max_position_embeddings = 4
    short = type(base)(base.config)
    short.save_pretrained(place / "short")
    AutoTokenizer.from_pretrained(teacher / "teacher").save_pretrained(place / "short")
    models = f"student.model=short,{teacher / 'teacher'}"
    given = ("--teacher", teacher, "--data", data, *recipe, "--axis", models, "--seeds", "3")
    one = ("--preset", "quick", "--training.epochs", "1", "--floor", "70", "--out", "shorter")
    done = cli("search", *given, *one, "--json")
    assert done.code == 0, done.err
    cut, whole = json.loads(done.out)["candidates"]
    assert "texts are cut to 4 tokens with it, for its teacher, too" in cut["failed"]
    assert "failed" not in whole


def test_the_page_shows_every_student(searched: Done, cli: Cli, place: Path) -> None:
    done = cli("report", place / "search" / "floor-20.search.json")
    assert done.code == 0, done.err
    page = (place / "search" / "floor-20.search.html").read_text(encoding="utf-8")
    for one in record_of(place / "search" / "floor-20.search.json").candidates:
        assert one.name in page
    assert "at most 20 points below the teacher (95 %)" in page


def test_dry_run_writes_nothing(
    cli: Cli, command: tuple[str | Path, ...], searched: Done, untouched: None
) -> None:
    done = cli(*command, "--out", "nowhere", "--dry-run")
    assert done.code == 0, done.err
    assert "4 students to try" in done.err
    as_json = cli(*command, "--out", "nowhere", "--dry-run", "--json", "--quiet")
    assert len(json.loads(as_json.out)["candidates"]) == 4
    assert cli(*command, "--out", "search", "--dry-run").code == 0


def test_other_settings_need_another_folder(
    searched: Done, cli: Cli, command: tuple[str | Path, ...], untouched: None
) -> None:
    done = cli(*command, "--out", "search", "--training.epochs", "3")
    assert done.code == 2
    assert "is the record of a search with other axes or settings; choose another --out" in done.err


def test_int8_files_are_judged_and_a_student_that_cannot_be_made_costs_only_itself(
    cli: Cli, teacher: Path, data: Path, recipe: tuple[str, ...], place: Path
) -> None:
    axis = ("--axis", "student.layers=1,9", "--training.epochs", "2", "--preset", "quick")
    given = ("--teacher", teacher, "--data", data, *recipe, *axis, "--seeds", "3")
    done = cli("search", *given, "--floor", "60", "--out", "int8", "--int8", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    made, unmade = found["candidates"]
    assert "9 blocks wanted, but the teacher has 4" in unmade["failed"]
    assert made["rounds"]
    assert "layers 9: cannot be made" in done.err
    assert found["verdict"]["int8"]
    folder = place / "int8" / "floor-60-int8-student"
    file = folder / "onnx" / "model_quantized.onnx"
    assert made["cost"]["bytes"] == pytest.approx(file.stat().st_size, rel=0.01)
    scored = cli("evaluate", folder, "--data", data, "--runtime", "int8", "--json")
    score = json.loads(scored.out)["validation"]["accuracy"]
    assert found["verdict"]["scores"][0] == pytest.approx(score)
    assert_its_answers_give_the_verdict(place / "int8", found)


def assert_its_answers_give_the_verdict(out: Path, found: dict[str, Any]) -> None:
    from layermix.errors import StudyError
    from layermix.search.judge import floor_verdict, read_answers
    from layermix.studies.cells import gather
    from layermix.studies.folder import Study
    from layermix.studies.schema import PlanRecord

    study = Study(out, "floor-60-int8-last")
    plan = PlanRecord.from_json(study.plan_file.read_text("utf-8")).plan()
    (arm,) = [arms[found["chosen"]] for arms in gather(plan, study).arms.values()]
    file = out / "floor-60-int8.answers.parquet"
    again = floor_verdict(arm, "accuracy", 60, read_answers(file, arm)).model_dump(mode="json")
    assert again == found["verdict"]
    fewer = replace(arm, cells=dict(list(arm.cells.items())[1:]))
    with pytest.raises(StudyError, match=r"parquet: found answers of other cells or rows, wanted"):
        read_answers(file, fewer)


def test_groups_of_the_validation_rows_are_told_first(
    cli: Cli, teacher: Path, data: Path, place: Path, untouched: None
) -> None:
    folder = place / "grouped"
    folder.mkdir()
    for split, groups in (("train", 9), ("validation", 1)):
        (file,) = data.glob(f"{split}.*")
        head, *rows = file.read_text(encoding="utf-8").splitlines()
        by = "," if file.suffix == ".csv" else "\t"
        named = [f"{row}{by}writer {number % groups}" for number, row in enumerate(rows)]
        text = "\n".join([f"{head}{by}writer", *named])
        (folder / file.name).write_text(text, encoding="utf-8")
    given = ("search", "--teacher", teacher, "--data", folder, "--out", "nowhere", "--dry-run")
    done = cli(*given, "--data.group_column", "writer")
    shutil.rmtree(folder)
    assert done.code == 0, done.err
    assert "24 validation rows in 1 group: a student as good" in done.err
    assert "all validation rows are of one group" in done.err


def test_two_names_of_one_student_are_refused(
    cli: Cli, teacher: Path, data: Path, place: Path
) -> None:
    given = ("search", "--teacher", teacher, "--data", data, "--student.layers", "2")
    done = cli(*given, "--out", "twice", "--axis", "student.layers=null,1,2")
    assert done.code == 2
    assert "the same student under several names: as given and layers 2" in done.err


def test_nothing_within_the_budgets(
    cli: Cli, command: tuple[str | Path, ...], searched: Done
) -> None:
    done = cli(*command, "--out", "search", "--ms", "0.000001")
    assert done.code == 2
    assert "no student is left to train: each is over a budget" in done.err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--axis", "student.layer=1,2"],
            "not a field of a distillation; did you mean student.lay",
        ),
        (["--axis", "student.layers"], "wanted a field and its values, such as student.layers=1,2"),
        (["--axis", "seed=1,2"], "a search takes fresh seeds for the last comparison"),
        (["--axis", "data.path=a,b"], "all students of a search have the same data"),
        (["--axis", "student.layers=1,1"], "a value is named twice in [1, 1]"),
        (["--axis", "student.layers=2020-13-45"], "wanted a field and its values, such as"),
        (["--axis", "student.layers=0,1"], "layers 0: student.layers: "),
        (["--axis", "data.max_length=8,16"], "all students of a search have the same data"),
        (["--axis", "training.holdout_fraction=.1,.2"], "are compared on the same rows"),
        (["--axis", "mix.strategy=fixed", "--axis", "mix.strategy=uniform"], "named 2 times"),
        (["--training.selection", "holdout"], "a search holds out rows to choose on"),
        (["--floor", "100"], "wanted points below 100"),
        (["--ms", "nan"], "--ms: found nan, wanted a number"),
        (["--teacher", "A,B"], "found 2 teachers, wanted one"),
        (["--seeds", "2"], "2 is not in the range"),
        (["--seed", "2147483000"], "--seed: found 2147483000, wanted at most"),
        (
            ["--axis", "training.epochs=" + ",".join(map(str, range(1, 102)))],
            "the axes make 101 students, wanted at most 100",
        ),
    ],
)
def test_bad_input_is_refused_before_any_work(
    cli: Cli, teacher: Path, data: Path, given: list[str], message: str, untouched: None
) -> None:
    done = cli("search", "--teacher", teacher, "--data", data, "--out", "bad", *given)
    assert done.code == 2
    assert message in done.err


@pytest.mark.slow
def test_a_search_that_is_killed_ten_times_ends_with_the_same_choice(
    searched: Done,
    start: Callable[..., Any],
    cli: Cli,
    command: tuple[str | Path, ...],
    place: Path,
) -> None:
    kills = 0
    for after in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 3.0, 2.0, 4.0, 5.0):
        running = start(*command, "--out", "killed", fresh=True)
        time.sleep(3 + after)
        if running.poll() is None:
            running.send_signal(signal.SIGKILL)
            kills += 1
        running.communicate()  # reads to the end, and closes the pipe
    assert kills >= 5  # on a fast machine it may end before
    done = cli(*command, "--out", "killed")
    assert done.code == 0, done.err
    one, other = (record_of(place / name / "floor-20.search.json") for name in ("search", "killed"))
    assert other.chosen == one.chosen
    assert other.verdict == one.verdict
    rounds = [[found.rounds for found in record.candidates] for record in (one, other)]
    assert rounds[0] == rounds[1]
