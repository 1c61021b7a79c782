"""Records of runs: what is written is read back, and so are the records of older versions."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from layermix.errors import Note
from layermix.runs.layout import ENVIRONMENT, RESULT
from layermix.runs.schema import (
    FORMAT,
    EnvironmentRecord,
    Metrics,
    MixRecord,
    RunRecord,
    read_result,
)

CELLS = sorted((Path(__file__).parents[3] / "results").glob("*/cells/*"))


def test_the_cells_of_the_committed_studies_are_read_whole() -> None:
    assert sum(read_result(cell).format == 0 for cell in CELLS) > 150
    for cell in CELLS:
        written = json.loads((cell / RESULT).read_text(encoding="utf-8"))
        record = read_result(cell)
        environment = (cell / ENVIRONMENT).read_text(encoding="utf-8")
        found = EnvironmentRecord.from_json(environment).to_dict()
        if record.format:
            assert record.to_dict() == written
            assert found == json.loads(environment)
            continue
        again = record.to_dict()
        assert again.pop("format") == 0
        assert again.pop("problem") == "classification"
        for name in ("notes", "warnings"):  # their code is new
            assert [note["text"] for note in again.pop(name)] == written.pop(name, [])
            assert all(note.code == "" for note in getattr(record, name))
        assert [note["text"] for note in again["student"].pop("notes")] == written["student"].pop(
            "notes"
        )
        assert again.pop("pair") == written.pop("pair", False)
        again["teacher"].pop("classes"), again["teacher"].pop("notes")
        assert again == {key: value for key, value in written.items() if value is not None}
        assert found == {"format": 0, **json.loads(environment)}


def test_a_record_comes_back_as_it_was_written() -> None:
    record = RunRecord(
        format=FORMAT,
        status="ok",
        metric="accuracy",
        metrics=Metrics.model_validate(
            {
                "last": {"epoch": 2, "validation": {"accuracy": 0.5, "nll": float("inf")}},
                "test": {"accuracy": 0.25, "per_class": {}},
            }
        ),
        alpha=((0.25, 0.75),),
        notes=(Note("a-code", "some words"),),
    )
    assert RunRecord.from_json(record.to_json()) == record
    assert record.score == 0.5
    assert record.metrics.saved_epoch == "last"
    assert record.metrics.test is not None
    assert record.metrics.test.numbers == {"accuracy": 0.25}
    assert json.loads(record.to_json())["notes"] == [{"code": "a-code", "text": "some words"}]


def test_a_record_of_a_later_version_is_refused() -> None:
    with pytest.raises(ValidationError, match="format"):
        RunRecord.from_json(f'{{"format": {FORMAT + 1}}}')


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"status": "failed", "error": "full"}', "is failed"),
        ('{"status": "ok", "metric": "f1"}', "missing: data, metrics, precision, teacher"),
        ('{"status": "ok", "metrics": {"last": {"epoch": "1"}}}', "epoch"),
        ('{"status": "ok", "metrics": {"last": {"validation": {"f1": "good"}}}}', "f1"),
        ("[]", "object"),
    ],
)
def test_what_is_no_result_of_a_finished_run_is_refused(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / RESULT).write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_result(tmp_path)


def test_a_mix_of_any_name_may_learn_and_older_records_say_it_by_the_name() -> None:
    assert MixRecord(strategy="Attention", learned=True).learns
    assert not MixRecord(strategy="learned", learned=False).learns
    assert [MixRecord(strategy=name).learns for name in ("learned", "fixed")] == [True, False]
