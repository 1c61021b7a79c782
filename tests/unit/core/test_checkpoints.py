"""Checkpoints and their checksums: damage is found, and the newest whole one is used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
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
