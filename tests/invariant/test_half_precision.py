"""Signals stored in float16 teach the demo's student what float32 ones do."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from layermix import demo
from layermix.config import DistillConfig
from layermix.console import Reporter
from layermix.runs import pipeline


@pytest.mark.slow
def test_the_demo_s_student_answers_the_same_from_a_float16_store(tmp_path: Path) -> None:
    """All of it in float32 but the store, with the packaged MiniLM; some five minutes."""
    quiet = Reporter(quiet=True)
    demo._teacher(tmp_path, demo._data(tmp_path, full=False), 0, quiet)
    answers, losses = {}, {}
    for dtype in ("float32", "float16"):
        settings: Any = demo._settings("learned", tmp_path, 0)
        settings["cache"] |= {"dtype": dtype, "precision": "fp32"}
        settings["training"] = {**settings["training"], "precision": "fp32"}
        found = pipeline.distill(DistillConfig.model_validate(settings), tmp_path / dtype)
        assert f"stored in {dtype}, computed in float32" in (found.record.signals or "")
        answers[dtype] = pq.read_table(tmp_path / dtype / "predictions.parquet")["prediction"]
        lines = map(json.loads, (tmp_path / dtype / "history.jsonl").read_text().splitlines())
        losses[dtype] = [line["loss_hidden"] for line in lines if "loss_hidden" in line]
    assert answers["float16"] == answers["float32"]
    assert len(set(answers["float32"].to_pylist())) == 2
    assert losses["float16"] == pytest.approx(losses["float32"], rel=1e-4)
    assert losses["float16"] != losses["float32"]
