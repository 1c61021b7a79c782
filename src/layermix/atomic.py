"""Writes a file or a folder whole or not at all, and locks what only one process may write.

Whatever is being written has a temporary name beside its target (`temporary_of`). A process that is
killed leaves the temporary file or folder behind; the next writer of the same target removes it.
Two writers of one file take turns, so that each writes its own.
"""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from layermix.errors import ConfigError, RunExistsError

if sys.platform != "win32":
    import fcntl


class LockedError(Exception):
    """Another process, or another part of this one, holds the lock."""


def temporary_of(path: Path) -> Path:
    """The name of a file or folder while it is being written: `.NAME.writing`.

    Examples:
        >>> temporary_of(Path("run/result.json")).as_posix()
        'run/.result.json.writing'
    """
    return path.with_name(f".{path.name}.writing")


def check_out_file(path: Path, force: bool) -> None:
    """Checks before any work that the file of `--out` can be written.

    Args:
        path: The file.
        force: Whether one that is there may be replaced.

    Raises:
        ConfigError: If its folder does not exist.
        RunExistsError: If it is a folder, or exists and may not be replaced.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}; create it first")
    if path.is_dir():
        raise RunExistsError(f"--out {path}: is a folder, wanted a file")
    if path.exists() and not force:
        raise RunExistsError(
            f"--out {path} already exists; choose another name, or replace it with --force"
        )


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file whole or not at all; replaces a file that is there."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(path: Path, *, wait: bool = True) -> Iterator[Path]:
    """Yields the temporary path to write to; at the end the file replaces `path`.

    After an error `path` is unchanged. The file gets the permissions of any new file (by the
    umask), also where a library such as safetensors makes it private.

    Args:
        path: The file to write; its folder must exist.
        wait: Wait until no other process writes it.

    Raises:
        LockedError: If another process writes it and `wait` is false.
    """
    temporary = temporary_of(path)
    descriptor = _make_own(temporary, wait)
    try:
        mode = os.fstat(descriptor).st_mode
        if sys.platform == "win32":  # it renames no open file
            os.close(descriptor)
        yield temporary
        _allow(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise
    finally:
        if sys.platform != "win32":
            os.close(descriptor)


def _make_own(temporary: Path, wait: bool) -> int:
    """Makes an empty file that no other process writes; returns its descriptor.

    The file itself is locked while the descriptor is open, so that no lock file is left behind.
    Windows has no such lock.

    Raises:
        LockedError: If another process writes it and `wait` is false.
    """
    if temporary.is_symlink() or temporary.is_dir() or sys.platform == "win32":
        _remove(temporary)
    while True:
        try:
            descriptor, is_new = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            try:
                descriptor, is_new = os.open(temporary, os.O_RDWR), False
            except FileNotFoundError:
                continue  # its writer has just ended
        if not _lock(descriptor, wait):
            os.close(descriptor)
            raise LockedError(str(temporary))
        if _is_named(descriptor, temporary):
            if is_new:
                return descriptor
            temporary.unlink()  # a killed process has left it
        os.close(descriptor)


def _lock(descriptor: int, wait: bool) -> bool:
    """Locks an open file; false if another process has locked it, and `wait` is false.

    True without a lock where the file system, or Windows, has none.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
    return True


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


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
def whole_folder(path: Path, *, replace: bool = False, durable: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill; at the end it is renamed to `path`.

    The folder has its final name already, within a scratch folder: `.NAME.writing/NAME`. Its files
    get the permissions of any new file, as by `whole_file`.

    Args:
        path: The folder to make.
        replace: Remove a folder of this name first, when the new one is complete.
        durable: Wait until all of it is on the disk, so that it also outlives a power failure.

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
        if durable:
            sync(folder)
        folder.rename(path)
    if durable:
        sync(path.parent, deep=False)


def sync(path: Path, *, deep: bool = True) -> None:
    """Waits until a file, or a folder with all that is in it, is on the disk.

    Args:
        path: A file or a folder; links in it are not followed.
        deep: Of a folder: with its files and folders, not its own list of names alone.
    """
    inner = path.rglob("*") if deep and path.is_dir() else ()
    for one in (*(one for one in inner if not one.is_symlink()), path):
        # Windows opens no folder, and some file systems cannot sync one.
        with suppress(OSError) if one.is_dir() else nullcontext():
            descriptor = os.open(one, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


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
