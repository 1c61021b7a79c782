"""`layermix cache`: built, listed, checked and pruned from the command line."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

STORE = re.compile(r"[0-9a-f]{16}")


@pytest.fixture
def folder(cli: Any, teacher: Path, data: Path, tmp_path: Path) -> Path:
    """A cache with one store."""
    folder = tmp_path / "signals"
    done = cli("cache", "build", *wanted(teacher, data, folder))
    assert done.code == 0, done.err
    assert f"The signals are in {next(folder.iterdir())} (0.0 MB)" in done.out
    return folder


def wanted(teacher: Path, data: Path, folder: Path) -> tuple[str, ...]:
    return (
        *("--preset=quick", f"--teacher={teacher}", f"--data={data}"),
        f"--cache.folder={folder}",
    )


def test_distill_reads_what_was_built(
    cli: Any, folder: Path, teacher: Path, data: Path, recipe: Any, tmp_path: Path
) -> None:
    out = f"--out={tmp_path / 'run'}"
    done = cli("distill", *wanted(teacher, data, folder), out, *recipe, "--training.epochs=1")
    assert done.code == 0, done.err
    assert "teacher signals: 64 texts," in done.err.replace("\n", " ")
    assert f"of which 100% is in {next(folder.iterdir())}" in done.err.replace("\n", " ")


def test_build_says_what_it_did_as_json_too(
    cli: Any, folder: Path, teacher: Path, data: Path
) -> None:
    done = cli("cache", "build", "--json", "--quiet", *wanted(teacher, data, folder))
    assert done.code == 0, done.err
    assert done.err == ""
    found = json.loads(done.out)
    assert found == {
        "folder": str(next(folder.iterdir())),
        "texts": 64,
        "bytes": sum(file.stat().st_size for file in folder.rglob("*.safetensors")),
    }


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--no-cache.use",), "nothing was cached: the teacher would run on every batch"),
        (
            ("--loss.logit_weight=0", "--loss.hidden_weight=0"),
            "nothing to cache: no term of the loss needs the teacher (L = 1·L_sup[cross_entropy])",
        ),
    ],
)
def test_build_refuses_where_there_is_nothing_to_store(
    cli: Any, teacher: Path, data: Path, tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    done = cli("cache", "build", *wanted(teacher, data, tmp_path / "none"), *flags)
    assert done.code == 2
    assert told in done.err
    assert not (tmp_path / "none").exists()
    assert cli("cache", "build", f"--data={data}").code == 2


def test_info_lists_the_stores(cli: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "notes").mkdir()  # a stranger's
    done = cli("cache", "info", f"--cache.folder={folder}")
    assert done.code == 0
    assert re.search(r"1,3 +float16 +(bfloat16|float32) +64 ", done.out)
    assert f"1 store(s), 0.00 GB in {folder}" in done.out
    (found,) = json.loads(cli("cache", "info", "--json", f"--cache.folder={folder}").out)
    assert found["layers"] == [1, 3]
    assert found["rows"] == 64
    assert STORE.fullmatch(Path(found["folder"]).name)
    empty = cli("cache", "info", f"--cache.folder={tmp_path / 'empty'}")
    assert empty.out == f"no teacher signals in {tmp_path / 'empty'}\n"


def test_verify_finds_a_flipped_byte_and_the_next_build_mends_it(
    cli: Any, folder: Path, teacher: Path, data: Path
) -> None:
    where = f"--cache.folder={folder}"
    done = cli("cache", "verify", where)
    assert (done.code, done.out) == (0, f"1 store(s) in {folder} checked, 0 problem(s)\n")
    (shard,) = folder.rglob("*.safetensors")
    before, content = shard.stat(), bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if the disk had decayed
    done = cli("cache", "verify", where)
    assert done.code == 1
    assert done.out == (
        f"{shard}: its content has changed (wrong checksum)\n"
        f"1 store(s) in {folder} checked, 1 problem(s)\n"
    )
    assert cli("cache", "build", *wanted(teacher, data, folder)).code == 0
    content[-1] ^= 1
    assert shard.read_bytes() == content
    assert cli("cache", "verify", where).code == 0
    (shard.parent / "manifest.json").unlink()
    done = cli("cache", "verify", where)
    assert done.code == 1
    assert "manifest.json: it is missing, so 1 shards cannot be used\n" in done.out
    assert "unusable, see below" in cli("cache", "info", where).out


def test_a_store_that_was_stopped_before_its_first_shard_is_not_damaged(
    cli: Any, tmp_path: Path
) -> None:
    (tmp_path / "0123456789abcdef").mkdir()
    (tmp_path / "0123456789abcdef" / "lock").touch()
    done = cli("cache", "verify", f"--cache.folder={tmp_path}")
    assert (done.code, done.out) == (0, f"1 store(s) in {tmp_path} checked, 0 problem(s)\n")


def test_prune_removes_what_is_not_used(cli: Any, folder: Path) -> None:
    where = f"--cache.folder={folder}"
    (folder / "notes").mkdir()  # a stranger's
    assert cli("cache", "prune", where).out == f"removed 0 store(s), 0.00 GB, from {folder}\n"
    (lock,) = folder.rglob("lock")
    then = lock.stat().st_mtime - 40 * 24 * 3600
    os.utime(lock, (then, then))
    assert "40.0 days ago" in cli("cache", "info", where).out
    assert cli("cache", "prune", where).out == f"removed 1 store(s), 0.00 GB, from {folder}\n"
    assert [file.name for file in folder.iterdir()] == ["notes"]


@pytest.mark.parametrize("days", ["nan", "inf", "-1", "soon"])
def test_prune_takes_a_number_of_days_only(cli: Any, folder: Path, days: str) -> None:
    done = cli("cache", "prune", "--days", days, f"--cache.folder={folder}")
    assert done.code == 2
    assert "Invalid value for '--days': " in done.err
    assert [store.name for store in folder.iterdir() if STORE.fullmatch(store.name)]


def test_a_malformed_manifest_stops_no_command(
    cli: Any, folder: Path, teacher: Path, data: Path
) -> None:
    """Neither its own store's, nor another's."""
    (own,) = folder.iterdir()
    bad = folder / "d2acab8960ad0316"
    bad.mkdir()
    (bad / "lock").touch()
    for store in (bad, own):
        manifest = store / "manifest.json"
        manifest.write_text('{"format": 2, "identity": {}, "shards": {"a.safetensors": "x"}}')
        line = f"{manifest}: it is not a manifest of layermix (identity.teacher: it is missing"
        done = cli("cache", "info", f"--cache.folder={folder}")
        assert (done.code, line in done.out) == (0, True)
        done = cli("cache", "verify", f"--cache.folder={folder}")
        assert (done.code, line in done.out) == (1, True)
    done = cli("cache", "build", *wanted(teacher, data, folder))
    assert done.code == 0, done.err
    assert "its signals are computed again" in done.err
    assert "100%" in cli("cache", "build", *wanted(teacher, data, folder)).err
    assert "removed 2 store(s)" in cli("cache", "prune", "--days=0", f"--cache.folder={folder}").out
    assert not list(folder.iterdir())


def test_a_link_in_place_of_a_store_is_refused(
    cli: Any, folder: Path, teacher: Path, data: Path, tmp_path: Path
) -> None:
    (own,) = folder.iterdir()
    for file in own.iterdir():
        file.unlink()
    own.rmdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    own.symlink_to(tmp_path / "out")
    done = cli("cache", "build", *wanted(teacher, data, folder))
    assert done.code == 2
    assert f"{own}: found a link, wanted a folder that layermix made; remove the link" in done.err
    assert cli("cache", "info", f"--cache.folder={folder}").out.startswith("no teacher signals")
    assert "removed 0" in cli("cache", "prune", "--days=0", f"--cache.folder={folder}").out
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["precious"]


def test_prune_says_what_it_kept(cli: Any, folder: Path) -> None:
    (own,) = folder.iterdir()
    (own / "notes.txt").touch()
    done = cli("cache", "prune", "--days=0", f"--cache.folder={folder}")
    assert done.out.endswith(
        f"{own}: the folder was kept: it holds files that layermix did not make: notes.txt\n"
    )
    assert [file.name for file in own.iterdir()] == ["notes.txt"]


def test_verify_does_not_wait_for_a_store_that_is_being_filled(cli: Any, folder: Path) -> None:
    from filelock import FileLock

    (lock,) = folder.rglob("lock")
    with FileLock(lock):
        done = cli("cache", "verify", f"--cache.folder={folder}", process=True)
    assert done.code == 1
    assert f"{lock}: a process is filling this store, so it was not checked; try" in done.out


def test_prune_leaves_what_is_being_filled(cli: Any, folder: Path) -> None:
    from filelock import FileLock

    (lock,) = folder.rglob("lock")
    with FileLock(lock):
        done = cli("cache", "prune", "--days=0", f"--cache.folder={folder}", process=True)
    assert f"{lock.parent} is in use by a run, so it was kept" in done.out
    assert lock.exists()
    assert "removed 1" in cli("cache", "prune", "--days=0", f"--cache.folder={folder}").out
    assert not lock.exists()
