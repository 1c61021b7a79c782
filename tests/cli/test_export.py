"""`layermix export` and `layermix bench` on a run that the command line has made."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def exported(cli: Any, student: Path, place: Path) -> tuple[Path, Any]:
    """A copy of the student's run, exported, and what the command said."""
    run = place / "runs" / "exported"
    shutil.copytree(student, run)
    return run, cli("export", run, "--int8", "--max-drop", "10")


def test_a_student_is_exported_and_labels_texts(
    cli: Any, exported: tuple[Path, Any], place: Path
) -> None:
    run, done = exported
    assert done.code == 0, done.err
    assert "ONNX answers as PyTorch does on all 24 rows" in done.out
    assert "95 % interval over rows" in done.out
    assert f"layermix predict {run} FILE --runtime int8" in done.out
    (place / "two.txt").write_text("word1 fine\nword2 poor\n", encoding="utf-8")
    for runtime in ("torch", "onnx", "int8"):
        labelled = cli("predict", run, "two.txt", "--runtime", runtime)
        assert labelled.code == 0, labelled.err
        labels = [json.loads(line)["label"] for line in labelled.out.splitlines()]
        assert labels == ["good", "bad"]


def test_it_is_measured_beside_its_teacher(
    cli: Any, exported: tuple[Path, Any], teacher: Path
) -> None:
    run, _ = exported
    done = cli("bench", run, "--rounds", "2", "--threads", "1", "--quiet")
    assert (done.code, done.err) == (0, "")
    names = [line.split("  ")[0] for line in done.out.splitlines()[1:7]]
    runtimes = ("PyTorch", "ONNX", "int8")
    wanted = [f"{who}, {runtime}" for who in ("teacher", "exported") for runtime in runtimes]
    assert names == wanted
    assert "1 threads" in done.out
    alone = json.loads(cli("bench", teacher, "--rounds", "2", "--max_tokens", "8", "--json").out)
    assert [model["name"] for model in alone["models"]] == ["teacher, PyTorch"]
    assert alone["max_tokens"] == 8
    assert alone["models"][0]["mean_tokens"] <= 8


def test_scores_of_int8(cli: Any, exported: tuple[Path, Any], data: Path) -> None:
    run, _ = exported
    found = [
        json.loads(cli("evaluate", run, "--data", data, "--runtime", one, "--json").out)
        for one in ("onnx", "torch")
    ]
    assert found[0]["validation"]["accuracy"] == found[1]["validation"]["accuracy"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["export", "runs/exported"], "nothing to do: give --onnx (float32), --int8"),
        (["export", "runs/exported", "--onnx"], "--force replaces it, --out FOLDER writes"),
        (["export", "nowhere/at/all", "--onnx"], "no such folder"),
        (["export", "reviews", "--onnx"], "no config.json in it"),
        (["export", "runs/exported", "--onnx", "--out", "no/x"], "there is no folder no"),
        (["predict", "runs/student", "two.txt", "--runtime", "int8"], "no onnx/model_quantized"),
        (["export", "runs/exported", "--onnx", "--private"], "--private needs --push_to_hub"),
        (["bench"], "Missing argument 'MODEL"),
    ],
)
def test_bad_input(
    cli: Any, exported: tuple[Path, Any], untouched: None, words: list[str], told: str
) -> None:
    done = cli(*words)
    assert done.code == 2
    assert told in done.err
    assert "Traceback" not in done.err


def test_a_damaged_model_is_refused(cli: Any, student: Path, place: Path) -> None:
    run = place / "runs" / "refused"
    shutil.copytree(student, run)
    torn = run / "student" / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:100])
    done = cli("export", run, "--onnx")
    assert done.code == 2
    assert "cannot be loaded as a text classifier" in done.err
    assert not (run / "student" / "onnx").exists()
