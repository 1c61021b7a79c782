"""Only stores of layermix's own are listed, checked and pruned, whatever else is in the folder."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from layermix.atomic import lock
from layermix.teacher_cache import maintenance
from layermix.teacher_cache.maintenance import prune, stores, stores_text, verify
from layermix.teacher_cache.manifest import LOCK, MANIFEST, PLAN

Make = Callable[..., Path]
OTHER = "0123456789abcdef"


def names(root: Path) -> list[str]:
    return [store.folder.name for store in stores(root)]


def check(root: Path) -> dict[str, dict[str, str]]:
    return {store.folder.name: verify(store) for store in stores(root)}


def age(folder: Path, days: float) -> None:
    then = (folder / LOCK).stat().st_mtime - days * maintenance.DAY
    os.utime(folder / LOCK, (then, then))


def edited(folder: Path, change: Callable[[Any], object]) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def test_a_folder_that_layermix_did_not_make_is_no_store(tmp_path: Path, make_store: Make) -> None:
    own = make_store(tmp_path / "cache")
    project = tmp_path / "cache" / "project"
    (project / "src").mkdir(parents=True)
    for file in (project / LOCK, project / "thesis.txt", project / "src" / "a.py"):
        file.write_text("mine")
    shutil.copytree(project, tmp_path / "target")
    (tmp_path / "cache" / OTHER).symlink_to(tmp_path / "target")
    (tmp_path / "cache" / ("f" * 16)).mkdir()
    (tmp_path / "cache" / ("e" * 16)).touch()
    before = sorted(tmp_path.rglob("*"))
    assert names(tmp_path / "cache") == [own.name]
    assert check(tmp_path / "cache") == {own.name: {}}
    assert sorted(tmp_path.rglob("*")) == before
    pruned = prune(tmp_path / "cache", 0)
    assert [store.folder for store in pruned.removed] == [own]
    assert not pruned.kept
    assert not own.exists()
    assert (tmp_path / "target" / "thesis.txt").exists()
    assert sorted(tmp_path.rglob("*")) == [
        path for path in before if own not in (path, path.parent)
    ]


def test_prune_removes_known_files_and_says_what_it_kept(tmp_path: Path, make_store: Make) -> None:
    folder = make_store(tmp_path)
    (tmp_path / "precious").write_text("mine")
    (folder / PLAN).write_text("[]")
    (folder / f".{'ab' * 8}.safetensors.writing").touch()
    (folder / "notes\x1b[31m.txt").write_text("mine")
    (folder / f"{'cd' * 8}.safetensors").symlink_to(tmp_path / "precious")
    (folder / f"{'ef' * 8}.safetensors").mkdir()
    pruned = prune(tmp_path, 0)
    assert {path.name for path in folder.iterdir()} == {
        "notes\x1b[31m.txt",
        f"{'cd' * 8}.safetensors",
        f"{'ef' * 8}.safetensors",
    }
    assert pruned.kept == {
        folder: "it holds files that layermix did not make: "
        f"{'cd' * 8}.safetensors, {'ef' * 8}.safetensors, notes\\x1b[31m.txt"
    }
    assert names(tmp_path) == []
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_manifest_may_name_no_path(tmp_path: Path, make_store: Make) -> None:
    folder = make_store(tmp_path / "cache")
    for name in ("victim.txt", "victim2.txt"):
        (tmp_path / name).write_text("precious")
    shard = {"bytes": 1, "sha256": "0" * 64, "rows": 1, "tokens": 1, "written": [0, 0]}
    victims = {"../../victim.txt": shard, str(tmp_path / "victim2.txt"): shard}
    edited(folder, lambda content: content.update(shards=victims))
    (problem,) = check(tmp_path / "cache")[folder.name].values()
    assert problem.startswith("it is not a manifest of layermix (shards.../../victim.txt.[key]: ")
    prune(tmp_path / "cache", 0)
    assert not folder.exists()
    assert (tmp_path / "victim.txt").read_text() == "precious"
    assert (tmp_path / "victim2.txt").read_text() == "precious"


MALFORMED = [
    b"",
    b"\xff\xfe",
    b"[" * 10**5,
    b'{"format": ' + b"9" * 5000,
    b'{"format": 1e999}',
    b'{"format": 2, "identity": {}, "shards": {"a.safetensors": "x"}}',
    b'{"format": 2, "identity": {"teacher": "\\u001b[31mred"}, "shards": []}',
]


@pytest.mark.parametrize("content", MALFORMED)
def test_a_malformed_manifest_is_one_line_and_hides_no_other_store(
    tmp_path: Path, make_store: Make, content: bytes
) -> None:
    good, bad = make_store(tmp_path), make_store(tmp_path, "other")
    (bad / MANIFEST).write_bytes(content)
    listed = {store.folder: store for store in stores(tmp_path)}
    assert listed.keys() == {good, bad}
    assert listed[good].problem == ""
    assert listed[good].rows == 3
    problem = listed[bad].problem
    assert problem.isprintable()
    assert len(problem) < 300
    assert listed[bad].as_record()["problem"] == problem
    assert f"{bad / MANIFEST}: {problem}\n" in stores_text(list(listed.values()), tmp_path)
    assert check(tmp_path) == {good.name: {}, bad.name: {MANIFEST: problem}}
    age(bad, 2)
    assert [store.folder for store in prune(tmp_path, 1).removed] == [bad]
    assert names(tmp_path) == [good.name]


def test_a_store_of_another_format_or_name_is_listed_and_can_be_pruned(
    tmp_path: Path, make_store: Make
) -> None:
    old, copy = make_store(tmp_path), tmp_path / OTHER
    shutil.copytree(old, copy)
    edited(old, lambda content: content.update(format=1))
    problems = {store.folder: store.problem for store in stores(tmp_path)}
    assert problems == {
        old: "found format 1, wanted 2: another version of layermix wrote it",
        copy: f"it belongs to the store {old.name}",
    }
    assert len(prune(tmp_path, 0).removed) == 2


def test_a_manifest_that_is_too_large_is_not_read(
    tmp_path: Path, make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_store(tmp_path)
    monkeypatch.setattr("layermix.teacher_cache.manifest.LARGEST", 10)
    (problem,) = check(tmp_path)[folder.name].values()
    assert problem.endswith(" bytes, wanted at most 10")


def test_a_shard_whose_tensors_do_not_match_is_reported_and_deleted(
    tmp_path: Path, make_store: Make
) -> None:
    folder = make_store(tmp_path)
    (shard,) = folder.glob("*.safetensors")
    edited(folder, lambda content: content["shards"][shard.name].update(tokens=8))
    assert check(tmp_path) == {folder.name: {shard.name: "its content does not match its manifest"}}
    assert not shard.exists()
    assert check(tmp_path) == {folder.name: {}}


def test_what_cannot_be_removed_is_told(
    tmp_path: Path, make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_store(tmp_path)

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(maintenance, "_remove", refuse)
    pruned = prune(tmp_path, 0)
    assert pruned.kept == {folder: "it cannot be removed (Permission denied)"}
    assert not pruned.removed
    (folder / LOCK).unlink()
    (folder / LOCK).symlink_to(tmp_path / "precious")
    ((_, problem),) = check(tmp_path)[folder.name].items()
    assert problem.startswith("the store cannot be checked (")
    assert not (tmp_path / "precious").exists()


# -- other processes -------------------------------------------------------------------------------


def test_a_store_that_was_opened_since_it_was_listed_is_kept(
    tmp_path: Path, make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_store(tmp_path)
    age(folder, 5)
    (listed,) = stores(tmp_path)
    os.utime(folder / LOCK)
    monkeypatch.setattr(maintenance, "stores", lambda _: iter([listed]))
    pruned = prune(tmp_path, 3)
    assert not pruned.removed
    assert folder.exists()


def test_a_store_that_another_process_has_pruned_is_no_problem(
    tmp_path: Path, make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_store(tmp_path)
    (listed,) = stores(tmp_path)
    shutil.rmtree(folder)
    monkeypatch.setattr(maintenance, "stores", lambda _: iter([listed]))
    pruned = prune(tmp_path, 0)
    assert not pruned.removed
    assert not pruned.kept
    assert verify(listed) == {}
    assert not folder.exists()


def test_a_folder_that_vanishes_while_it_is_listed_is_no_error(
    tmp_path: Path, make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_store(tmp_path)
    read = maintenance.read_manifest

    def read_and_remove(where: Path) -> Any:
        manifest = read(where)
        shutil.rmtree(where)
        return manifest

    monkeypatch.setattr(maintenance, "read_manifest", read_and_remove)
    (listed,) = stores(tmp_path)
    assert (listed.folder, listed.bytes_on_disk, listed.idle_days) == (folder, 0, 0)


def test_a_store_that_is_being_filled_can_be_listed_and_is_not_pruned(
    tmp_path: Path, make_store: Make
) -> None:
    """Files come and go all the time while they are listed."""
    folder = make_store(tmp_path)
    torn = folder / f".{'ab' * 8}.safetensors.writing"
    running = threading.Event()
    running.set()

    def fill() -> None:
        with lock(folder / LOCK):
            while running.is_set():
                torn.touch()
                torn.unlink()
                (folder / PLAN).touch()
                os.replace(folder / PLAN, torn)
                with suppress(OSError):
                    torn.unlink()

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        while not (folder / PLAN).exists() and not torn.exists():
            thread.join(0.001)
        for _ in range(100):
            assert names(tmp_path) == [folder.name]
        assert [store.folder for store in prune(tmp_path, 0).busy] == [folder]
        assert LOCK in check(tmp_path)[folder.name]
    finally:
        running.clear()
        thread.join()
    assert folder.exists()
