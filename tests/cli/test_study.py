"""`layermix study`: from one file to finished cells, verdicts and tables."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from layermix.runs.layout import is_busy
from layermix.studies.folder import LOGS, WORK
from layermix.studies.plan import TEACHERS

CONFIGS = Path(__file__).parents[2] / "configs" / "studies"
VARYING = ("written", "timings", "threads")  # of environment.json and result.json
PATIENCE = 300.0  # seconds, on a busy machine


@pytest.fixture(scope="session")
def recipe_file(place: Path, base: Path, data: Path) -> Callable[..., Path]:
    """`recipe_file(name, **changes)` writes a small study."""

    def write(name: str, **changes: Any) -> Path:
        quick = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "log_every": 3}
        study = {
            "title": "tiny",
            "base": {"preset": "quick", "student": {"blocks": [0, 1]}, "training": quick},
            "teach": {"model": str(base), "training": quick | {"epochs": 6}},
            "tasks": {"reviews": {"data": "$REVIEWS"}},
            "arms": {
                "ce_only": {"loss": {"logit_weight": 0, "hidden_weight": 0}},
                "fixed": {"mix": "fixed"},
                "learned": {"mix": "learned"},
            },
            "seeds": 2,
            "family": [["learned", "fixed"]],
        }
        file = place / f"{name}.yaml"
        file.write_text(yaml.safe_dump(study | changes, sort_keys=False), encoding="utf-8")
        return file

    os.environ["REVIEWS"] = str(data)
    return write


@pytest.fixture(scope="module")
def finished(cli: Any, recipe_file: Callable[..., Path], place: Path) -> tuple[Path, Any]:
    """A study's folder, and what the command said."""
    done = cli("study", recipe_file("study"), "--out", "study", "--jobs", "2")
    assert done.code == 0, done.err
    return place / "study", done


def contents(folder: Path) -> dict[str, Any]:
    """What is filed, without clock times."""
    found: dict[str, Any] = {}
    for file in sorted((folder / "cells").rglob("*")):
        name = str(file.relative_to(folder))
        if file.suffix == ".json":
            found[name] = {
                key: value
                for key, value in json.loads(file.read_text()).items()
                if key not in VARYING
            }
        elif file.is_file():
            found[name] = file.read_bytes()
    return found | {"results": json.loads((folder / "killed.json").read_text())}


def test_a_study_ends_in_tables_and_verdicts(finished: tuple[Path, Any]) -> None:
    folder, done = finished
    assert "tiny: 6 runs, teachers to make: 1" in done.err
    assert "6 of 6: reviews, " in done.err
    assert done.out.startswith("# tiny\n")
    assert "no verdict is possible for learned against fixed on reviews with 2 seeds" in done.out
    assert "descriptive: fixed minus ce_only on reviews" in done.out
    found = json.loads((folder / "study.json").read_text())
    assert found["cells"] == {"planned": 6, "finished": 6}
    arms = found["tasks"]["reviews"]["arms"]
    assert list(arms) == ["ce_only", "fixed", "learned"]
    for record in arms.values():
        assert record["seeds"] == [0, 1]
        assert record["mean"] == pytest.approx(sum(record["values"]) / 2)
        assert record["optimism"] >= 0
    assert "alpha" in arms["learned"]
    assert "alpha" not in arms["fixed"]
    (judged,) = found["family"]
    pairs = zip(arms["learned"]["values"], arms["fixed"]["values"], strict=True)
    assert judged["differences"] == pytest.approx([one - two for one, two in pairs])
    assert (folder / "study.md").read_text() in done.out


def test_baselines_are_added_to_a_finished_study(
    cli: Any, finished: tuple[Path, Any], recipe_file: Callable[..., Path]
) -> None:
    folder, _ = finished
    done = cli("study", recipe_file("study"), "--out", "study", "--baselines")
    assert done.code == 0, done.err
    assert "reviews: TF-IDF and a linear model have accuracy " in done.err
    score = json.loads((folder / "study.json").read_text())["tasks"]["reviews"]["baselines"]
    assert f"; TF-IDF {score['TF-IDF']:.4f}" in done.out
    assert list(json.loads((folder / "study.json").read_text())["tasks"]["reviews"]["arms"]) == [
        "ce_only",  # the study's own: no second one is added
        "fixed",
        "learned",
    ]
    again = cli("study", recipe_file("study"), "--out", "study", "--baselines")
    assert "and a linear model" not in again.err
    assert again.out == done.out
    other = recipe_file("alone", arms={"fixed": {"mix": "fixed"}}, family=[])
    planned = cli("study", other, "--baselines", "--dry-run")
    assert "  reviews: fixed × 2, ce_only × 2\n" in planned.out
    assert "none declared" in planned.out


def test_what_is_filed_is_small_and_holds_no_path_of_this_machine(
    finished: tuple[Path, Any], place: Path
) -> None:
    folder, _ = finished
    cells = list((folder / "cells").iterdir())
    assert len(cells) == 6
    for cell in cells:
        mix = json.loads((cell / "result.json").read_text()).get("mix")
        assert {file.name for file in cell.iterdir()} == {
            *(["alpha.jsonl"] if mix and mix["strategy"] == "learned" else []),
            "config.yaml",
            "result.json",
            "history.jsonl",
            "predictions.parquet",
            "environment.json",
        }
        for file in cell.iterdir():
            assert str(place).encode() not in file.read_bytes(), file
        config = yaml.safe_load((cell / "config.yaml").read_text())
        assert config["data"]["path"] == "$REVIEWS"
        assert config["teacher"]["model"].startswith("teachers/")
        assert pq.read_table(cell / "predictions.parquet").num_rows == 2 * 24
    left = sorted(file.name for file in (folder / "work").iterdir())
    assert left == [".filing", ".scheduler"]
    (texts,) = (folder / "texts").glob("*.parquet")
    assert pq.read_table(texts).column_names == ["row_id", "text"]
    assert "\n*\n" in (folder / "texts" / ".gitignore").read_text()
    assert {f"/{name}/" for name in (WORK, LOGS, TEACHERS)} <= set(
        (folder / ".gitignore").read_text().splitlines()
    )


def test_what_is_finished_is_not_run_again_and_seeds_can_be_added(
    cli: Any, finished: tuple[Path, Any], recipe_file: Callable[..., Path]
) -> None:
    folder, first = finished
    before = {file: file.stat().st_mtime_ns for file in (folder / "cells").rglob("*")}
    again = cli("study", recipe_file("study"), "--out", folder, "--json")
    assert again.code == 0, again.err
    assert "finished runs: 6 (" in again.err
    assert (
        json.loads(again.out)["tasks"] == json.loads((folder / "study.json").read_text())["tasks"]
    )
    changed = recipe_file("more", family=[["learned", "ce_only"]])
    options = ("--out", folder, "--seeds", "3", "--jobs", "2", "--quiet")
    more = cli("study", changed, *options)
    assert more.code == 0, more.err
    assert more.err == ""
    assert (
        before.items()
        <= {file: file.stat().st_mtime_ns for file in (folder / "cells").rglob("*")}.items()
    )
    assert len(list((folder / "cells").iterdir())) == 9
    assert (folder / "more.json").is_file()
    assert "were added or changed when 6 cells were finished" in more.out
    assert first.out != more.out


def test_a_failing_cell_does_not_stop_the_others(
    cli: Any, recipe_file: Callable[..., Path], place: Path, teacher: Path
) -> None:
    file = recipe_file(
        "failing",
        teach=None,
        base={"teacher": str(teacher), "training": {"epochs": 1}},
        arms={
            "odd": {"mix": {"strategy": "fixed", "teacher_layers": [9]}},
            "even": {"mix": {"strategy": "fixed"}},
        },
        family=[],
        seeds=1,
    )
    done = cli("study", file, "--out", "failing")
    assert done.code == 1
    assert "1 of the runs failed; 1 of 2 cells are finished:" in done.err
    assert "failed: reviews, odd, seed 0: " in done.err
    assert "[9]" in done.err
    assert "give the same command again" in done.err
    found = json.loads((place / "failing" / "failing.json").read_text())
    assert list(found["tasks"]["reviews"]["arms"]) == ["even"]
    assert found["notes"][0]["code"] == "unfinished-cells"
    assert found["notes"][0]["text"].startswith("1 of 2 cells are finished")


def test_without_its_teacher_no_cell_is_run(
    cli: Any, recipe_file: Callable[..., Path], place: Path
) -> None:
    file = recipe_file("untaught", teach={"model": str(place / "nowhere")}, seeds=1)
    done = cli("study", file, "--out", "untaught")
    assert done.code == 1
    assert "teacher of reviews: " in done.err
    assert done.err.count("its teacher could not be fine-tuned") == 3
    assert not (place / "untaught" / "cells").exists()


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_study_has_a_plan_without_data(
    cli: Any, file: Path, monkeypatch: pytest.MonkeyPatch, untouched: None
) -> None:
    monkeypatch.delenv("LAYERMIX_GLUE", raising=False)
    done = cli("study", file, "--dry-run")
    assert done.code == 0, done.err
    assert " runs, " in done.out


TABLES = ["rte", "qnli", "local-mrpc", "local-rte", "local-qnli"]


@pytest.mark.parametrize("table", [pytest.param("mrpc", marks=pytest.mark.wheel), *TABLES])
def test_the_paper_s_table_has_a_plan_too(cli: Any, table: str) -> None:
    done = cli("reproduce", table, "--dry-run", "--seeds", "10", process=True)
    assert done.code == 0, done.err
    assert done.out.startswith("Table 2 of the paper, ")
    assert f"judged: learned against fixed on {table.removeprefix('local-')}, 10 seeds" in done.out


def test_another_table_is_refused(cli: Any) -> None:
    done = cli("reproduce", "sst2", "--dry-run")
    assert done.code == 2
    assert "no table is called sst2; there are local-mrpc, " in done.err


def test_all_problems_of_a_study_are_told_at_once_by_their_lines(
    cli: Any, recipe_file: Callable[..., Path], place: Path
) -> None:
    file = recipe_file(
        "bad",
        arms={"fixed": {"mix": "fixd"}, "learned": {"loss": {"entropy": 1}}},
        family=[["learned", "fixt"]],
    )
    done = cli("study", file, "--out", "bad")
    assert done.code == 2
    assert "3 problems in the study:" in done.err
    lines = file.read_text().splitlines()
    at = next(number for number, line in enumerate(lines, 1) if "fixd" in line)
    assert f"bad.yaml:{at}: arms.fixed.mix: " in done.err
    assert "arms.learned.loss.entropy: unknown key; did you mean loss.entropy_weight?" in done.err
    assert "family: nothing is called fixt; did you mean fixed?" in done.err
    assert not (place / "bad").exists()
    assert "no --out" in cli("study", recipe_file("good")).err


def test_control_c_stops_the_cells_and_keeps_what_is_done(
    start: Callable[..., Any],
    cli: Any,
    recipe_file: Callable[..., Path],
    place: Path,
    finished: tuple[Path, Any],
) -> None:
    out = place / "stopped"
    arms = {"fixed": {"mix": "fixed"}, "learned": {"mix": "learned"}}
    file = recipe_file("stopped", arms=arms, seeds=1)
    shutil.copytree(finished[0] / "teachers", out / "teachers")
    process = start("study", str(file), "--out", str(out), start_new_session=True)
    until = time.monotonic() + PATIENCE
    while not list(out.glob("cells/*/result.json")) and time.monotonic() < until:
        time.sleep(0.05)
    while not list(out.glob("work/*.partial")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, said.decode()
    assert b"stopped; the same command continues the study" in said
    (left,) = out.glob("work/*.partial")
    assert not is_busy(left.with_suffix(""))  # its process is gone
    found = json.loads((out / "stopped.json").read_text())
    assert found["cells"] == {"planned": 2, "finished": 1}
    on = cli("study", file, "--out", out)
    assert on.code == 0, on.err
    assert "finished runs: 1 (" in on.err
    assert "2 of 2: reviews, learned, seed 0" in on.err


@pytest.mark.slow
def test_two_conductors_share_a_study_and_students_are_kept_if_wanted(
    start: Callable[..., Any],
    recipe_file: Callable[..., Path],
    place: Path,
    finished: tuple[Path, Any],
) -> None:
    out = place / "shared"
    arms = {name: {"mix": name} for name in ("fixed", "uniform", "learned")}
    file = recipe_file("shared", arms=arms, family=[], seeds=1)
    shutil.copytree(finished[0] / "teachers", out / "teachers")
    both = [start("study", str(file), "--out", str(out), "--keep_students") for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    cells = list((out / "cells").iterdir())
    assert len(cells) == 3
    for cell in cells:
        assert (cell / "student" / "model.safetensors").is_file()
        assert str(place) not in (cell / "student" / "README.md").read_text("utf-8")
    assert not [
        one for one in (out / "work").iterdir() if one.name not in (".filing", ".scheduler")
    ]


def kill_and_go_on(
    start: Callable[..., Any], arguments: list[str], kills: int, draw: random.Random
) -> None:
    """Kill the conductor and its cells at random moments; the last time, let it end."""
    for _ in range(kills):
        process = start(*arguments, start_new_session=True)
        try:
            process.wait(draw.uniform(0.5, 12))
        except subprocess.TimeoutExpired:
            children = subprocess.run(
                ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
            ).stdout.split()
            process.send_signal(signal.SIGKILL)
            if draw.random() < 0.7:  # else they end by themselves, beside the next conductor
                for child in children:
                    os.kill(int(child), signal.SIGKILL)
        process.communicate()
    process = start(*arguments)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said.decode()


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_it_ends_as_an_undisturbed_one(
    kills: int,
    start: Callable[..., Any],
    cli: Any,
    recipe_file: Callable[..., Path],
    place: Path,
    tmp_path: Path,
) -> None:
    arms = {name: {"mix": name} for name in ("learned", "fixed")[:kills]}
    file = recipe_file("killed", seeds=1, arms=arms, family=[])
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert cli("study", file, "--out", straight).code == 0
    arguments = ["study", str(file), "--out", str(broken), "--jobs", "2", "--quiet"]
    kill_and_go_on(start, arguments, kills, random.Random(kills))
    assert contents(broken) == contents(straight)


def test_a_study_of_soft_labels_and_of_several_teachers(
    cli: Any, base: Path, teacher: Path, place: Path
) -> None:
    """No teacher model, or several: no field of the study differs, and the preset is `soft`."""
    rows = [
        {"text": f"{word} word{n % 7}", "p_bad": p, "p_good": round(1 - p, 2), "label": label}
        for n in range(16)
        for word, p, label in (("fine", 0.1, "good"), ("poor", 0.8, "bad"))
    ]
    folder = place / "soft-data"
    folder.mkdir()
    for split, of_split in (("train", rows), ("validation", rows[:12])):
        lines = "".join(json.dumps(row) + "\n" for row in of_split)
        (folder / f"{split}.jsonl").write_text(lines)
    study = {
        "base": {
            "data": str(folder),
            "student": {"model": str(base), "layers": 1},
            "training": {"epochs": 2, "batch_size": 8, "learning_rate": 5e-3},
        },
        "arms": {
            "soft": {},
            "two teachers": {"teacher": f"{teacher},{teacher}", "data": {"augment": 0}},
        },
        "seeds": 1,
    }
    file = place / "soft-study.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    out = place / "soft-study"
    done = cli("study", file, "--out", out, "--jobs", "2", "--quiet")
    assert done.code == 0, done.err
    record = json.loads((out / "soft-study.json").read_text())
    assert record["cells"] == {"planned": 2, "finished": 2}
    assert len(record["tasks"]["task"]["teacher"]) == 2  # of the soft labels, and of the mean
    for arm in record["tasks"]["task"]["arms"].values():
        assert arm["of_teacher"] is not None
    formulas = {json.loads(one.read_text())["formula"] for one in out.rglob("result.json")}
    assert formulas == {"L = 1·L_sup[cross_entropy] + 1·L_logit[soft_cross_entropy]"}
    assert cli("report", out).code == 0
