"""Files and folders are written whole or not at all; a lock is held by one process."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from layermix.atomic import (
    LockedError,
    is_locked,
    lock,
    scratch_folder,
    temporary_of,
    whole_file,
    whole_folder,
    write_text,
)

if sys.platform != "win32":
    import fcntl


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def permissions(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with whole_file(file) as temporary:
        temporary.write_bytes(b"one")
        assert names(tmp_path) == [".a.txt.writing"]
    assert names(tmp_path) == ["a.txt"]
    write_text(file, "α\n")
    assert file.read_bytes() == "α\n".encode()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "new \ud800")
    with pytest.raises(IsADirectoryError), whole_file(file) as temporary:
        temporary.parent.write_bytes(b"new")
    assert file.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.txt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from layermix.atomic import whole_file, whole_folder
what, place = sys.argv[1:]
with (whole_file if what == "file" else whole_folder)(Path(place)) as temporary:
    (temporary if what == "file" else temporary / "a.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_a_killed_writer_left_is_removed_by_the_next(what: str, tmp_path: Path) -> None:
    target = tmp_path / "made"
    subprocess.run([sys.executable, "-c", KILLED, what, str(target)], check=False)
    assert names(tmp_path) == [".made.writing"]
    if what == "file":
        write_text(target, "whole")
        assert target.read_text() == "whole"
    else:
        with whole_folder(target) as folder:
            assert not list(folder.iterdir())
    assert names(tmp_path) == ["made"]


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    for target in (tmp_path / "a.txt", tmp_path / "folder"):
        temporary_of(target).symlink_to(mine)
    write_text(tmp_path / "a.txt", "a")
    with whole_folder(tmp_path / "folder"):
        pass
    assert names(mine) == ["thesis.txt"]
    assert names(tmp_path) == ["a.txt", "folder", "mine"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"

    def write(letter: str) -> None:
        for _ in range(50):
            with whole_file(file) as temporary, temporary.open("w") as stream:
                for _ in range(20):
                    stream.write(letter)
                    stream.flush()
            assert len(set(file.read_text())) == 1
            assert len(file.read_text()) == 20

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, "abc"))
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_a_writer_that_does_not_wait_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with whole_file(file) as temporary:
        temporary.write_text("first")
        with pytest.raises(LockedError), whole_file(file, wait=False):
            pass
        assert temporary.read_text() == "first"
    assert file.read_text() == "first"
    with whole_file(file, wait=False) as temporary:
        temporary.write_text("second")
    assert file.read_text() == "second"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="names files by /proc")
def test_a_durable_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, synced = tmp_path / "made", list[tuple[str, bool]]()
    monkeypatch.setattr("os.fsync", lambda fd: synced.append((_name(fd), target.exists())))
    with whole_folder(target, durable=True) as folder:
        (folder / "a.txt").write_text("one")
    assert sorted(synced) == [("a.txt", False), ("made", False), (tmp_path.name, True)]


def _name(descriptor: int) -> str:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_files_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """Safetensors makes its files private."""
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    weights = {"a": torch.ones(3)}
    with whole_file(tmp_path / "a.safetensors") as temporary:
        save_file(weights, temporary)
    with whole_folder(tmp_path / "model") as folder:
        (folder / "deep").mkdir()
        save_file(weights, folder / "deep" / "a.safetensors")
    for file in ("a.safetensors", "model/deep/a.safetensors"):
        assert permissions(tmp_path / file) == permissions(ordinary)


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "made"
    with whole_folder(target) as folder:
        assert folder.name == "made"
        (folder / "a.txt").write_text("one")
        assert not target.exists()
    assert names(target) == ["a.txt"]
    assert names(target.parent) == ["made"]


def test_a_folder_that_is_there_is_replaced_only_on_request(tmp_path: Path) -> None:
    target = tmp_path / "made"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with pytest.raises(OSError, match="made"), whole_folder(target):
        pass
    with pytest.raises(ZeroDivisionError), whole_folder(target, replace=True):
        raise ZeroDivisionError
    assert names(target) == ["old.txt"]
    with whole_folder(target, replace=True) as folder:
        (folder / "new.txt").write_text("new")
    assert names(target) == ["new.txt"]
    assert names(tmp_path) == ["made"]


def test_a_scratch_folder_is_removed(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "made") as scratch:
        (scratch / "a.txt").write_text("one")
    assert not names(tmp_path)


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert not is_locked(file)
    assert not file.exists()
    with lock(file):
        assert is_locked(file)
        with pytest.raises(LockedError), lock(file, wait=False):
            pass
    assert not is_locked(file)
    with pytest.raises(ZeroDivisionError), lock(file):
        raise ZeroDivisionError
    assert not is_locked(file)


def test_the_file_of_a_lock_stays(tmp_path: Path) -> None:
    """Its time tells when a store was last used; filelock before 3.30 removes it."""
    file = tmp_path / "lock"
    with lock(file):
        used = file.stat()
    assert os.path.samestat(used, file.stat())


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX locks")
def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cache prune` may remove it after it was opened; filelock before 3.21 does not look."""
    file = tmp_path / "lock"
    file.touch()
    flock = fcntl.flock

    def remove_first(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        file.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with lock(file):
        assert is_locked(file)
