"""The device is the one that the trainer uses."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import TrainingArguments

from layermix.hardware import cpu_kernels
from layermix.hardware.device import cpu_name, default_device, processor_name
from layermix.hardware.precision import choose_precision, has_bfloat16


@pytest.fixture(autouse=True)
def _chosen_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Accelerate chooses once per process, and sets an environment variable for mps."""
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: mps)


@pytest.mark.parametrize(
    ("there", "expected"), [({}, "cpu"), ({"cuda": True}, "cuda"), ({"mps": True}, "mps")]
)
def test_it_is_the_accelerator_that_is_there(
    there: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, **there)
    assert default_device().type == expected


def test_the_cpu_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, mps=True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert default_device() == torch.device("cpu")


def test_it_is_the_device_of_trainer(tmp_path: object) -> None:
    first = default_device()
    assert TrainingArguments(output_dir=str(tmp_path)).device.type == first.type
    assert default_device().type == first.type


def test_mps_computes_in_bfloat16_from_macos_14(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, mps=True)
    for major, expected in ((14, torch.bfloat16), (13, torch.float32)):
        monkeypatch.setattr(
            torch.backends.mps,
            "is_macos_or_newer",
            lambda wanted, _minor, major=major: major >= wanted,
        )
        assert has_bfloat16(torch.device("mps")) is (expected == torch.bfloat16)
        assert choose_precision("auto") == expected


def test_only_a_cpu_gets_the_functions_for_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(cpu_kernels.QuickFunctions, "__enter__", lambda _: made.append("quick"))
    monkeypatch.setattr(cpu_kernels.QuickFunctions, "__exit__", lambda *_: None)
    for device in ("mps", "cuda"):
        with cpu_kernels.fast_pass(torch.device(device), torch.float32):
            pass
    assert not made
    with cpu_kernels.fast_pass(torch.device("cpu"), torch.float32):
        pass
    assert made == ["quick"]


IMPORTS = """
import importlib, os, pkgutil, sys
before = dict(os.environ)
import layermix
for module in pkgutil.walk_packages(layermix.__path__, "layermix."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
changed = {name for name in before.keys() | os.environ.keys() if name.isupper()
           and before.get(name) != os.environ.get(name)}
print(sorted(name for name in changed if name.startswith(("ONEDNN", "LAYERMIX", "ACCELERATE"))))
from accelerate import PartialState
print(PartialState._shared_state)
"""


def test_nothing_happens_at_import() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], env=os.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n{}\n"


def test_the_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "read_text", lambda *_: "flags\t: a b\nmodel name\t: A CPU: 2 GHz\n")
    assert processor_name() == cpu_name() == "A CPU: 2 GHz"
    monkeypatch.setattr(Path, "read_text", lambda *_: "Processor\t: unnamed\n")
    assert processor_name() == (platform.processor() or platform.machine()) != ""

    def unreadable(*_: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert processor_name() == (platform.processor() or platform.machine())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert processor_name() == "a card"
    assert cpu_name() != "a card"
