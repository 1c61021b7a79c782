"""Models are measured in turns on the same texts, and what was found goes where it is read."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.config import DataConfig, DistillConfig, TeachConfig
from layermix.console import Reporter
from layermix.data.texts import TextData
from layermix.errors import ConfigError, ExportError
from layermix.models.encoder import Classifier
from layermix.report.run_page import run_page
from layermix.runs.model_card import bench_tables
from layermix.runs.pipeline import distill, teach_from
from layermix.runs.reader import RunFiles
from layermix.runs.schema import BenchRecord, Speedup
from layermix.serving.benchmark import bench, bench_text
from layermix.serving.export import export

NO_DATA = DataConfig()


@pytest.fixture(scope="module")
def runs(
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
    texts: Callable[..., TextData],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A teacher of eight blocks, its exported student of one, and both their runs."""
    place = tmp_path_factory.mktemp("bench")
    data = texts(40, 40)
    (place / "data").mkdir()
    for split, rows in data.splits.items():
        lines = [f"{row['text']},{row['label']}" for row in rows]
        file = place / "data" / f"{split}.csv"
        file.write_text("\n".join(["text,label", *lines, ""]), encoding="utf-8")
    config = TeachConfig.model_validate({"training": {"epochs": 1}})
    model = Classifier(bert(8, 64), tokenizer, "BERT")
    teach_from(model, data, config, out=place / "teacher")
    wanted = {
        "preset": "quick",
        "teacher": {"model": str(place / "teacher"), "allow_weak": True},
        "data": {"path": str(place / "data")},
        "student": {"layers": 1},
        "training": {"epochs": 1},
    }
    distill(DistillConfig.model_validate(wanted), place / "student")
    export(str(place / "student"), NO_DATA, int8=True, max_drop=100)
    return place


@pytest.fixture(scope="module")
def measured(runs: Path) -> BenchRecord:
    return bench([str(runs / "student")], NO_DATA, rounds=3)


def test_the_teacher_goes_first_and_every_runtime_is_measured(measured: BenchRecord) -> None:
    names = [model.name for model in measured.models]
    runtimes = ("PyTorch", "ONNX", "int8")
    assert names == [f"{who}, {runtime}" for who in ("teacher", "student") for runtime in runtimes]
    teacher, student, onnx, int8 = measured.models[0], *measured.models[3:]
    assert teacher.times_as_fast.alone == Speedup(median=1, low=1, high=1)
    # an eighth of the blocks, and the rounds are paired: this is no question of noise
    assert student.times_as_fast.alone.median > 1
    assert student.parameters == onnx.parameters == int8.parameters
    assert student.parameters is not None
    assert teacher.parameters is not None
    assert 0 < student.parameters < teacher.parameters
    for model in measured.models:
        assert 0 < model.median_ms <= model.p95_ms
        assert model.texts_per_second > 0
        assert model.same_runtime is not None
        for against in (model.times_as_fast, model.same_runtime):
            for ratio in (against.alone, against.together):
                assert ratio.low <= ratio.median <= ratio.high


def test_a_ratio_compares_equal_runtimes_too(measured: BenchRecord) -> None:
    same = Speedup(median=1, low=1, high=1)
    for teacher, student in zip(measured.models[:3], measured.models[3:], strict=True):
        assert teacher.runtime == student.runtime
        assert teacher.same_runtime is not None
        assert student.same_runtime is not None
        assert teacher.same_runtime.alone == teacher.same_runtime.together == same
        assert student.same_runtime.alone != student.times_as_fast.alone or (
            student.runtime == "torch"
        )
        assert teacher.temporary == (teacher.runtime != "torch")
        assert not student.temporary
    assert "were made for this measurement only" in bench_text(measured)
    _, (heads, rows) = bench_tables(measured)
    assert heads[3] == "as the first model in the same runtime"
    assert rows[5][3].startswith(f"{measured.models[5].same_runtime.alone.median:.1f} (")


def test_nothing_of_the_measurement_stays_with_the_teacher(
    runs: Path, measured: BenchRecord
) -> None:
    assert not (runs / "teacher/teacher/onnx").exists()


@pytest.fixture(scope="module")
def unlike(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], DataConfig]:
    """Two models of different limits, and texts that are longer than the shorter limit."""
    place = tmp_path_factory.mktemp("unlike")
    shutil.copytree(runs / "teacher/teacher", place / "long")  # as a run of another tool leaves it
    file = place / "long/config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    del config["layermix"]
    file.write_text(json.dumps(config), encoding="utf-8")
    lines = [f"{'a b c ' * words},{words % 2}" for words in range(1, 13)]
    (place / "rows.csv").write_text("\n".join(["text,label", *lines, ""]), encoding="utf-8")
    return [str(place / "long"), str(runs / "teacher")], DataConfig(path=str(place / "rows.csv"))


def test_texts_are_cut_at_the_shortest_limit_for_every_model(
    unlike: tuple[list[str], DataConfig],
) -> None:
    models, data = unlike
    record = bench(models, data, rounds=2)
    long, short = record.models
    assert (long.own_limit, short.own_limit) == (32, record.max_tokens)
    assert record.max_tokens is not None
    assert record.max_tokens < 32
    assert long.mean_tokens == short.mean_tokens
    assert long.cut == short.cut
    tokens = np.minimum([2 + 3 * words for words in range(1, 13)], record.max_tokens)
    assert long.mean_tokens == pytest.approx(tokens.mean())
    told = f"cut at {record.max_tokens} tokens, the shortest limit of these models"
    assert told in bench_text(record)


def test_texts_are_cut_where_the_user_says(unlike: tuple[list[str], DataConfig]) -> None:
    models, data = unlike
    record = bench(models, data, rounds=2, max_tokens=30)
    assert [model.mean_tokens for model in record.models] == [
        pytest.approx(np.minimum([2 + 3 * words for words in range(1, 13)], 30).mean())
    ] * 2
    assert "cut at 30 tokens (" in bench_text(record)
    with pytest.raises(ConfigError) as caught:
        bench(models, data, rounds=2, max_tokens=33)
    assert all(f"{model} takes 32" in str(caught.value) for model in models)
    with pytest.raises(ConfigError, match="wanted 8 or more"):
        bench(models, data, rounds=2, max_tokens=7)


def test_records_before_format_2_are_shown_and_say_how_they_cut(measured: BenchRecord) -> None:
    written = measured.to_dict()
    for name in ("same_runtime", "mean_tokens", "cut", "own_limit", "temporary"):
        for model in written["models"]:
            del model[name]
    del written["max_tokens"]
    old = BenchRecord.from_json(json.dumps(written | {"format": 1, "mean_tokens": 9.6}))
    assert "10 tokens on average, but each model cut them at its own limit" in bench_text(old)
    (heads, rows), (ratio_heads, _) = bench_tables(old)
    assert len(heads) == len(rows[0]) == 6
    assert len(ratio_heads) == 3


def test_sizes_are_those_of_the_files(runs: Path, measured: BenchRecord) -> None:
    files = {
        "teacher, PyTorch": runs / "teacher/teacher/model.safetensors",
        "student, PyTorch": runs / "student/student/model.safetensors",
        "student, ONNX": runs / "student/student/onnx/model.onnx",
        "student, int8": runs / "student/student/onnx/model_quantized.onnx",
    }
    sizes = {model.name: model.bytes for model in measured.models if not model.temporary}
    assert sizes == {name: file.stat().st_size for name, file in files.items()}


def test_it_goes_into_run_card_and_report(runs: Path, measured: BenchRecord) -> None:
    text = (runs / "student/bench.json").read_text(encoding="utf-8")
    assert BenchRecord.from_json(text) == measured
    card = (runs / "student/student/README.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| student, int8 |"))
    assert f"{measured.models[5].median_ms:.1f}" in row
    page = run_page(RunFiles(runs / "student"))
    sizes, ratios = next(one for one in page.sections if one.title == "Size and speed").tables
    for table in (sizes, ratios):
        assert [cells[0] for cells in table.rows] == [model.name for model in measured.models]
    assert "as teacher, PyTorch" in ratios.columns
    assert "student, ONNX" in bench_text(measured)


def test_a_damaged_bench_is_told_in_the_report(runs: Path, measured: BenchRecord) -> None:
    file = runs / "student/bench.json"
    whole = file.read_text(encoding="utf-8")
    try:
        for damaged in (whole[:40], json.dumps(measured.to_dict() | {"models": []}), "[]"):
            file.write_text(damaged, encoding="utf-8")
            page = run_page(RunFiles(runs / "student"))
            assert any("bench.json is damaged" in note for note in page.notes), damaged
            assert not any(one.title == "Size and speed" for one in page.sections)
    finally:
        file.write_text(whole, encoding="utf-8")


def test_models_of_the_same_name_are_told_apart(runs: Path) -> None:
    data = DataConfig(path=str(runs / "data"))
    models = [str(runs / "teacher"), str(runs / "teacher/teacher")]
    first, second = bench(models, data, rounds=2).models
    names = f"{runs.name}/teacher, PyTorch", "teacher/teacher, PyTorch"
    assert (first.name, second.name) == names


def test_a_teacher_that_is_gone_is_told(runs: Path, measured: BenchRecord) -> None:
    reporter, said = Reporter(), io.StringIO()
    reporter.console.file = said
    gone = runs / "elsewhere"
    (runs / "teacher").rename(gone)
    try:
        models = bench([str(runs / "student")], NO_DATA, rounds=2, reporter=reporter).models
    finally:
        gone.rename(runs / "teacher")
    assert models[0].name == "student, PyTorch"
    assert "was not found; give the teacher as the first model" in said.getvalue().replace(
        "\n", " "
    )


def test_a_teacher_of_elsewhere_is_not_asked_for_on_the_hub(
    runs: Path, measured: BenchRecord, tmp_path: Path
) -> None:
    copy = tmp_path / "student"
    shutil.copytree(runs / "student", copy)
    record = json.loads((copy / "result.json").read_text(encoding="utf-8"))
    record["teacher"]["from"] = "runs/teacher"
    (copy / "result.json").write_text(json.dumps(record), encoding="utf-8")
    models = bench([str(copy)], NO_DATA, rounds=2).models
    assert models[0].name == "student, PyTorch"


def test_a_teacher_alone_is_measured_alone(runs: Path) -> None:
    (model,) = bench([str(runs / "teacher")], NO_DATA, rounds=2).models
    assert model.name == "teacher, PyTorch"


def test_what_cannot_be_kept_is_told_and_measured(runs: Path, tmp_path: Path) -> None:
    copy = tmp_path / "student"
    shutil.copytree(runs / "student", copy)
    (copy / "bench.json").unlink(missing_ok=True)
    shutil.rmtree(copy / "student/onnx")
    (copy / "student/README.md").write_bytes("für mich".encode("latin-1"))
    reporter, said = Reporter(), io.StringIO()
    reporter.console.file = said
    assert bench([str(copy)], NO_DATA, rounds=2, reporter=reporter).models
    assert "could not be written beside" in said.getvalue()
    assert (copy / "student/README.md").read_bytes() == "für mich".encode("latin-1")


def test_a_model_alone_needs_texts(runs: Path, tmp_path: Path) -> None:
    (runs / "student/student").rename(tmp_path / "student")
    try:
        with pytest.raises(ConfigError, match="no validation rows beside it; give --data"):
            bench([str(tmp_path / "student")], NO_DATA)
    finally:
        (tmp_path / "student").rename(runs / "student/student")


def test_a_first_model_that_cannot_be_exported_is_measured_with_pytorch(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ExportError("torch cannot export it")

    monkeypatch.setattr("layermix.serving.export.write_onnx", fail)
    reporter, said = Reporter(), io.StringIO()
    reporter.console.file = said
    student = shutil.copytree(runs / "student", tmp_path / "student")
    models = bench([str(student)], NO_DATA, rounds=2, reporter=reporter).models
    names = [model.name for model in models]
    assert names == ["teacher, PyTorch", "student, PyTorch", "student, ONNX", "student, int8"]
    assert [model.same_runtime is None for model in models] == [False, False, True, True]
    assert "torch cannot export it" in said.getvalue().replace("\n", " ")
