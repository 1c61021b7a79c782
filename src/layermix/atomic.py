"""Writes a file or a folder whole or not at all, and locks what only one process may write.

Whatever is being written has a temporary name beside its target (`temporary_of`). A process that is
killed leaves the temporary file or folder behind; the next writer of the same target removes it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LockedError(Exception):
    """Another process, or another part of this one, holds the lock."""


def temporary_of(path: Path) -> Path:
    """The name of a file or folder while it is being written: `.NAME.writing`.

    Examples:
        >>> temporary_of(Path("run/result.json")).as_posix()
        'run/.result.json.writing'
    """
    return path.with_name(f".{path.name}.writing")


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file whole or not at all; replaces a file that is there."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields the temporary path to write to; at the end the file replaces `path`.

    After an error `path` is unchanged. The file gets the permissions of any new file (by the
    umask), also where a library such as safetensors makes it private.

    Args:
        path: The file to write; its folder must exist.
    """
    temporary = temporary_of(path)
    _remove(temporary)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        _allow(temporary, mode)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder beside `path`, which is removed at the end.

    Args:
        path: What is made in the scratch folder; only one process at a time may work on it.
    """
    scratch = temporary_of(path)
    _remove(scratch)
    try:
        scratch.mkdir(parents=True)
        yield scratch
    finally:
        _remove(scratch)


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill; at the end it is renamed to `path`.

    The folder has its final name already, within a scratch folder: `.NAME.writing/NAME`. Its files
    get the permissions of any new file, as by `whole_file`.

    Args:
        path: The folder to make.
        replace: Remove a folder of this name first, when the new one is complete.

    Raises:
        OSError: If `path` exists and `replace` is false.
    """
    with scratch_folder(path) as scratch:
        probe = scratch / "mode"
        probe.touch()
        mode = probe.stat().st_mode
        folder = scratch / path.name
        folder.mkdir()
        yield folder
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink():
                _allow(file, mode)
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        folder.rename(path)


def _allow(file: Path, mode: int) -> None:
    """Sets the permissions of a file, if it has others; not every file system knows them."""
    if file.stat().st_mode != mode:
        file.chmod(mode)


def _remove(path: Path) -> None:
    """Removes a file, link or folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds a lock between processes; it ends with this context, or with the process.

    Args:
        path: The lock file; its folder must exist.
        wait: Wait until the lock is free.

    Raises:
        LockedError: If the lock is held and `wait` is false.
    """
    from filelock import FileLock, Timeout  # slow to import: `layermix --help` needs no lock

    file = FileLock(path)
    try:
        file.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise LockedError(str(path)) from None
    try:
        yield
    finally:
        file.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock; the file is not made."""
    if not path.is_file():
        return False
    try:
        with lock(path, wait=False):
            return False
    except LockedError:
        return True
