"""Every command of the README but the two make targets, and its Python, on small data."""

import random
import re
import shlex
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "README.md"
QUICK = "--training.epochs 8 --training.learning_rate 1e-2 --training.batch_size 8"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if not line.startswith(("make ", "pip install "))]


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, bert: Callable[..., Any], tokenizer: Any
) -> Path:
    """A folder with `reviews`, `new.txt` and a tiny model in the place of MiniLM."""
    home = tmp_path_factory.mktemp("readme")
    bert(4, 16).save_pretrained(home / "tiny")
    tokenizer.save_pretrained(home / "tiny")
    (home / "reviews").mkdir()
    for name, seed in (("train", 0), ("validation", 1)):
        draw = random.Random(seed)
        rows = [
            f"{' '.join(draw.choices('abcdefgh', k=5))} {'y y y' if i % 2 else 'n n n'},{i % 2}\n"
            for i in range(80)
        ]
        (home / "reviews" / f"{name}.csv").write_text("text,label\n" + "".join(rows))
    (home / "new.txt").write_text("a b c y y y\nc d e n n n\n")
    (study,) = blocks("yaml")
    (home / "study.yaml").write_text(study)
    return home


def test_the_commands_and_the_python_of_the_readme(cli: Any, home: Path) -> None:
    found = commands()
    assert len(found) >= 8
    for line in found:
        words = shlex.split(line.replace("--model minilm", "--model tiny"))
        assert words[0] == "layermix"
        if words[1] in ("teach", "distill") and "--help" not in words:
            words += shlex.split(QUICK)
        if words[1] == "bench":
            words += ["--rounds", "2"]
        if words[1] == "study":
            words += ["--seeds", "1"]  # ten would take minutes
        done = cli(*words[1:], folder=home)
        assert done.code == 0, f"{line}\n{done.err}"
    assert (home / "labels.csv").read_text().count("\n") == 3
    (code,) = blocks("python")
    with chdir(home):
        exec(compile(code, str(README), "exec"), {})
    assert (home / "my-student" / "model.safetensors").is_file()
    assert len(code.strip().splitlines()) == 11
