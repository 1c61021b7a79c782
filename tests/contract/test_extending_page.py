"""The code of docs/extending.md runs as it stands, on small data."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BertForSequenceClassification, BertTokenizer

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
ROWS = [f"{first} {last},{int(first < last)}" for first in "acegikm" for last in "bdfhjlnp"]


def test_the_code_of_the_page_runs(
    bert: Callable[..., BertForSequenceClassification],
    tokenizer: BertTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("reviews").mkdir()
    for split, rows in (("train", ROWS[:40]), ("validation", ROWS[40:])):
        Path("reviews", f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    bert(4, 16).save_pretrained("runs/teacher")
    tokenizer.save_pretrained("runs/teacher")

    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    names: dict[str, Any] = {}
    # The teacher of this test is a random one, which a run refuses by default.
    exec(code.replace("DistillConfig(", 'DistillConfig(teacher={"allow_weak": True}, '), names)

    attending, held_out = (
        json.loads(Path("runs", name, "result.json").read_text())
        for name in ("attending", "held-out")
    )
    assert attending["mix"]["strategy"] == "AttendingMix"
    assert "0.5·L_dir" in attending["formula"]
    assert held_out["mix"]["strategy"] == "learned"
    logs = Path("runs/attending/history.jsonl").read_text()
    assert "loss_direction" in logs
