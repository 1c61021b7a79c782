"""Checkpoints and their checksums: damage is found, and the newest whole one is used."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from layermix.core.checkpoints import (
    CHECKSUMS,
    NEEDED,
    STATE,
    WEIGHTS,
    checkpoints_in,
    damage,
    damage_without_checksums,
    last_checkpoint,
    newest_whole,
    seal,
)
from layermix.errors import ResumeError

from ...spoiled import spoiled_bytes, spoiled_json


def make(folder: Path, step: int, *, sealed: bool = True) -> Path:
    """A small checkpoint, made by the libraries that make real ones."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    numbers = torch.arange(64.0) + step
    save_file({"a": numbers, "b": torch.zeros(3)}, checkpoint / WEIGHTS)
    for name in NEEDED:
        if name not in (WEIGHTS, STATE):
            torch.save({"numbers": numbers}, checkpoint / name)
    (checkpoint / STATE).write_text(json.dumps({"global_step": step}))
    if sealed:
        beside = [folder.parent / "alpha.jsonl", folder.parent / "epochs" / "validation-1.npz"]
        for file in beside:
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(file.name.encode())
        seal(checkpoint, folder, beside)
    return checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with checkpoints of the steps 9 and 10, and files beside it."""
    folder = tmp_path / "checkpoints"
    make(folder, 9)
    make(folder, 10)
    return folder


def change(how: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path], None]:
    """Replaces the content of a file."""
    return lambda file: _put(file, how(bytearray(file.read_bytes())))


def _put(file: Path, content: bytes | bytearray) -> None:
    file.write_bytes(content)


def flip(content: bytearray) -> bytearray:
    """Changes one bit in the middle."""
    content[len(content) // 2] ^= 1
    return content


TAMPER: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": change(lambda _: b""),
    "cut off": change(lambda content: content[:-1]),
    "longer": change(lambda content: content + b"\0"),
    "zeroed": change(lambda content: bytes(len(content))),
    "one bit": change(flip),
}


def test_steps_are_numbers(folder: Path) -> None:
    (folder / ".checkpoint-11.writing").mkdir()
    (folder / "checkpoint-mine").mkdir()
    (folder / "checkpoint-12").write_text("a file")
    assert [*checkpoints_in(folder)] == [9, 10]
    assert last_checkpoint(folder) == folder / "checkpoint-10"
    assert last_checkpoint(folder / "nowhere") is None


def test_what_is_whole_is_used_without_a_word(folder: Path) -> None:
    assert damage(folder / "checkpoint-9") == []
    assert newest_whole(folder, has_checksums=True) == (folder / "checkpoint-10", [])
    (folder.parent / "alpha.jsonl").write_text("alpha.jsonl, and more lines")  # it grows
    assert newest_whole(folder, has_checksums=True) == (folder / "checkpoint-10", [])
    assert newest_whole(folder.parent / "nowhere", has_checksums=True) == (None, [])


@pytest.mark.parametrize("how", TAMPER)
@pytest.mark.parametrize("name", NEEDED)
def test_a_file_that_is_not_as_it_was_written_is_found(folder: Path, name: str, how: str) -> None:
    TAMPER[how](folder / "checkpoint-10" / name)
    checkpoint, notes = newest_whole(folder, has_checksums=True)
    assert checkpoint == folder / "checkpoint-9"
    assert [note.code for note in notes] == ["checkpoint-damaged"]
    assert f"{folder / 'checkpoint-10'}: {name} " in notes[0].text
    assert notes[0].text.endswith("Resuming from checkpoint-9")


@pytest.mark.parametrize("content", [b"", b"\0" * 900, b"[]", b'{"files": {"model": 1}}', b"\xff"])
def test_checksums_that_cannot_be_read(folder: Path, content: bytes) -> None:
    checkpoint = folder / "checkpoint-10"
    (checkpoint / CHECKSUMS).write_bytes(content)
    assert damage(checkpoint) == [f"{CHECKSUMS} is missing or damaged"]
    (checkpoint / CHECKSUMS).unlink()
    assert damage(checkpoint) == [f"{CHECKSUMS} is missing or damaged"]


@pytest.mark.parametrize("entry", ["files", "beside"])
def test_checksums_that_have_lost_an_entry(folder: Path, entry: str) -> None:
    file = folder / "checkpoint-10" / CHECKSUMS
    known = json.loads(file.read_text("utf-8"))
    name = known[entry].popitem()[0]
    (folder / name if entry == "beside" else file.with_name(name)).unlink()
    file.write_text(json.dumps(known), encoding="utf-8")
    assert damage(file.parent) == [f"{CHECKSUMS} is missing or damaged"]


def test_files_that_were_added_or_are_links_are_found(folder: Path) -> None:
    checkpoint = folder / "checkpoint-10"
    (checkpoint / "pytorch_model.bin").write_bytes(b"theirs")
    (checkpoint / STATE).rename(folder.parent / "elsewhere.json")
    (checkpoint / STATE).symlink_to(folder.parent / "elsewhere.json")
    assert damage(checkpoint) == [
        "pytorch_model.bin does not belong there",
        f"{STATE} is missing",
    ]


def test_none_whole_is_refused(folder: Path) -> None:
    (folder.parent / "epochs" / "validation-1.npz").write_bytes(b"VALIDATION-1.NPZ")
    (folder / "checkpoint-9" / WEIGHTS).unlink()
    with pytest.raises(ResumeError) as caught:
        newest_whole(folder, has_checksums=True)
    beside = "../epochs/validation-1.npz is not as it was written"
    assert str(caught.value).splitlines() == [
        f"{folder.parent}: the run cannot be resumed: no checkpoint is whole:",
        f"  {folder / 'checkpoint-10'}: {beside}",
        f"  {folder / 'checkpoint-9'}: {WEIGHTS} is missing; {beside}",
        "Start over with --restart, or, in a study, by removing that folder.",
    ]


NAMES = [
    "../../victim",
    "/victim",
    "",
    ".",
    "files",
    CHECKSUMS,
    WEIGHTS,
    "\0",
    "\x1b[2J",
    "x" * 300,
]


def is_whole_if_believed(folder: Path, data: Any) -> None:
    """Spoils up to four files; what is believed then has the bytes that were written."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(shutil.copytree(folder.parent, Path(temporary) / "run"))
        written = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
        for file in data.draw(st.lists(st.sampled_from(sorted(written)), max_size=4)):
            if data.draw(st.integers(0, 3)) == 0:
                file.unlink(missing_ok=True)
            elif file.suffix == ".json" and data.draw(st.booleans()):
                file.write_bytes(data.draw(spoiled_json(written[file].decode(), NAMES)))
            else:
                file.write_bytes(data.draw(spoiled_bytes(written[file])))
        try:
            believed, notes = newest_whole(run / folder.name, has_checksums=True)
        except ResumeError:
            return
        assert believed is not None
        assert len(notes) == (believed.name != "checkpoint-10")
        for file, content in written.items():
            if file.parent == believed and file.name != CHECKSUMS:
                assert file.read_bytes() == content
            elif run / folder.name not in file.parents:
                assert file.read_bytes().startswith(content)


@given(st.data())
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_spoiled_checkpoint_is_not_believed(folder: Path, data: Any) -> None:
    is_whole_if_believed(folder, data)


@pytest.mark.slow
@given(st.data())
@settings(
    max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_of_three_thousand_spoiled_checkpoints_none_is_believed(folder: Path, data: Any) -> None:
    is_whole_if_believed(folder, data)


# -- older versions --------------------------------------------------------------------------------


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A folder with checkpoints of the steps 9 and 10 without checksums."""
    folder = tmp_path / "checkpoints"
    make(folder, 9, sealed=False)
    make(folder, 10, sealed=False)
    return folder


def test_without_checksums_it_is_believed_only_in_a_run_of_an_older_version(older: Path) -> None:
    checkpoint, notes = newest_whole(older, has_checksums=False)
    assert checkpoint == older / "checkpoint-10"
    assert [note.code for note in notes] == ["checkpoint-without-checksums"]
    with pytest.raises(ResumeError, match=f"checkpoint-9: {CHECKSUMS} is missing or damaged"):
        newest_whole(older, has_checksums=True)


@pytest.mark.parametrize("how", ["missing", "empty", "cut off", "zeroed", "one bit"])
@pytest.mark.parametrize("name", NEEDED)
def test_what_shows_without_checksums(older: Path, name: str, how: str) -> None:
    if (name, how) == (WEIGHTS, "one bit"):
        save_file({"a": torch.zeros(64), "b": torch.zeros(3)}, older / "checkpoint-10" / name)
    else:
        TAMPER[how](older / "checkpoint-10" / name)
    told = "missing" if how == "missing" else "damaged"
    assert damage_without_checksums(older / "checkpoint-10") == [f"{name} is {told}"]
    checkpoint, notes = newest_whole(older, has_checksums=False)
    assert checkpoint == older / "checkpoint-9"
    assert {note.code for note in notes} == {"checkpoint-damaged", "checkpoint-without-checksums"}


def test_weights_that_are_not_numbers_and_other_steps_show(older: Path) -> None:
    save_file({"a": torch.tensor([1.0, torch.nan])}, older / "checkpoint-10" / WEIGHTS)
    shutil.copy(older / "checkpoint-9" / STATE, older / "checkpoint-10" / STATE)
    assert damage_without_checksums(older / "checkpoint-10") == [
        f"{WEIGHTS} is damaged",
        f"{STATE} is damaged",
    ]
