"""What is in a store is what was put there; what is damaged is told, and never read."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from layermix.atomic import lock
from layermix.core.signals import Needs
from layermix.errors import CacheError
from layermix.teacher_cache.manifest import LOCK, MANIFEST, PLAN, Identity, Shard, read_manifest
from layermix.teacher_cache.store import Row, SignalStore, damaged, row_key

IDENTITY = Identity("teacher", (3, 1), True, 4, 2, "float16", "float32", "setup")


def row(number: int, tokens: int) -> Row:
    draw = torch.Generator().manual_seed(number)
    hidden = torch.randn(3, tokens, 4, generator=draw).half()
    return Row(row_key([[number]]), torch.randn(2, generator=draw), hidden, tokens)


ROWS = [row(number, number % 5 + 1) for number in range(12)]


def opened(folder: Path, identity: Identity = IDENTITY) -> tuple[SignalStore, list[str]]:
    said: list[str] = []
    return SignalStore(folder, identity, said.append), said


def add(store: SignalStore, *shards: Sequence[Row]) -> None:
    with store.filling():
        for shard in shards:
            store.add(shard)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of three shards."""
    store, said = opened(tmp_path / "store")
    add(store, ROWS[:4], ROWS[4:8], ROWS[8:])
    assert not said
    return tmp_path / "store"


def check(store: SignalStore, rows: Sequence[Row]) -> None:
    for one in rows:
        place = store.places[one.key]
        assert one.hidden is not None
        assert store.hidden(place).equal(one.hidden)
        assert store.logits(place).equal(one.logits)
        assert place.tokens == one.tokens


def shards(folder: Path) -> dict[str, Shard]:
    """Shards in the order in which they were written."""
    manifest, _ = read_manifest(folder)
    assert manifest is not None
    return manifest.shards


def test_rows_come_back_bit_for_bit(folder: Path) -> None:
    store, said = opened(folder)
    assert not said
    check(store, ROWS)
    assert row_key([[99]]) not in store
    assert store.bytes_on_disk == sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    manifest, _ = read_manifest(folder)
    assert manifest is not None
    assert manifest.identity == store.identity


def test_what_was_just_added_can_be_read_at_once(tmp_path: Path) -> None:
    store, _ = opened(tmp_path / "store")
    assert not (tmp_path / "store").exists()
    add(store, ROWS[:2])
    check(store, ROWS[:2])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_dtype_is_stored_as_it_is(tmp_path: Path, dtype: str) -> None:
    identity = replace(IDENTITY, dtype=dtype)
    rows = [one._replace(hidden=one.hidden.to(identity.storage)) for one in ROWS]
    store, _ = opened(tmp_path / "store", identity)
    add(store, rows)
    check(opened(tmp_path / "store", identity)[0], rows)
    assert store.bytes_on_disk >= sum(
        one.tokens * identity.token_bytes + identity.row_bytes for one in rows
    )


def test_logits_alone_are_stored_too(tmp_path: Path) -> None:
    identity = replace(IDENTITY, layers=(), embedding=False)
    rows = [one._replace(hidden=None) for one in ROWS]
    store, _ = opened(tmp_path / "store", identity)
    add(store, rows)
    again, _ = opened(tmp_path / "store", identity)
    for one in rows:
        assert again.logits(again.places[one.key]).equal(one.logits)


def test_another_identity_has_another_name_and_none_serves_a_stranger() -> None:
    others = [
        replace(IDENTITY, teacher="other"),
        replace(IDENTITY, layers=(1, 3)),
        replace(IDENTITY, embedding=False),
        replace(IDENTITY, width=5),
        replace(IDENTITY, classes=3),
        replace(IDENTITY, dtype="float32"),
        replace(IDENTITY, precision="bfloat16"),
        replace(IDENTITY, setup="other"),
    ]
    assert len({one.name for one in [IDENTITY, *others]}) == len(others) + 1
    assert [IDENTITY.serves(one) for one in others] == [False, True, True] + [False] * 5
    assert not IDENTITY.serves(replace(IDENTITY, layers=(3, 2)))
    assert not replace(IDENTITY, embedding=False).serves(IDENTITY)


def test_what_is_needed_is_found_among_what_is_stored() -> None:
    stored = replace(IDENTITY, layers=(3, 1), embedding=True)
    assert stored.parts(Needs((3, 1), embedding=True)) == slice(None)
    assert stored.parts(Needs((1,), embedding=True)) == [1, 2]
    assert stored.parts(Needs((1, 3))) == [1, 0]
    assert stored.parts(Needs()) == []


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


LINK = "found a link, folder or device, wanted a file"
DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (flip, "its content has changed (wrong checksum)"),
    (cut, "found {short:,} bytes, wanted {size:,}"),
    (Path.unlink, "it is missing"),
    (lambda file: file.rename(file.with_name("x")) and file.symlink_to("x"), LINK),
]


def edit(manifest: Path, **identity: object) -> None:
    """Change the identity in a manifest."""
    content = json.loads(manifest.read_text())
    content["identity"] |= identity
    manifest.write_text(json.dumps(content))


@pytest.mark.parametrize(("damage", "told"), DAMAGES)
def test_a_damaged_shard_is_told_and_only_its_rows_are_lost(
    folder: Path, damage: Callable[[Path], None], told: str
) -> None:
    file = folder / list(shards(folder))[1]
    size = file.stat().st_size
    damage(file)
    store, said = opened(folder)
    assert said == [
        f"{file}: {told.format(short=size - 7, size=size)}; its 4 rows are computed again"
    ]
    check(store, ROWS[:4])
    check(store, ROWS[8:])
    assert not any(one.key in store for one in ROWS[4:8])
    add(store, ROWS[4:8])
    assert len(said) == 1
    check(store, ROWS)
    again, said = opened(folder)
    check(again, ROWS)
    assert not said


def test_a_change_that_leaves_the_time_as_it_was_is_found_by_a_full_check(folder: Path) -> None:
    file = folder / list(shards(folder))[2]
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(before.st_size - 3)
        stream.write(b"\xff")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert damaged(folder, shards(folder)) == {}
    assert damaged(folder, shards(folder), full=True) == {
        file.name: "its content has changed (wrong checksum)"
    }


def test_a_copied_store_is_checked_in_full_until_its_stamps_are_renewed(folder: Path) -> None:
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    store, said = opened(copy)
    assert not said
    check(store, ROWS)
    before = (copy / MANIFEST).read_text()
    store.renew_stamps()
    assert (copy / MANIFEST).read_text() != before
    check(opened(copy)[0], ROWS)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (Path.unlink, "it is missing, so 3 shards cannot be used"),
        (lambda file: file.write_text("{"), "it is not a manifest of layermix (not valid JSON"),
        (
            lambda file: file.write_text("[]"),
            "it is not a manifest of layermix (found [], wanted a section of keys and values",
        ),
        (
            lambda file: file.write_text('{"format": 1, "shards": {}}'),
            "found format 1, wanted 2: another version of layermix wrote it",
        ),
        (lambda file: edit(file, setup="other"), "it belongs to another store"),
        (lambda file: file.unlink() or file.symlink_to("/dev/zero"), LINK),
    ],
)
def test_without_its_manifest_nothing_is_believed(
    folder: Path, damage: Callable[[Path], None], told: str
) -> None:
    damage(folder / MANIFEST)
    store, said = opened(folder)
    (line,) = said
    assert line.startswith(f"{folder / MANIFEST}: {told}")
    assert line.endswith("; its signals are computed again")
    assert not store.places
    add(store, ROWS)
    assert len(list(folder.glob("*.safetensors"))) == 1  # the strays are removed
    check(opened(folder)[0], ROWS)


def test_what_a_killed_process_left_is_removed(folder: Path) -> None:
    torn = folder / f".{'01' * 8}.safetensors.writing"
    torn.write_bytes(b"torn")
    stray = folder / f"{'45' * 8}.safetensors"
    stray.write_bytes(b"renamed, but not in the manifest yet")
    store, said = opened(folder)
    assert not said
    add(store)
    assert not torn.exists()
    assert not stray.exists()
    assert {file.name for file in folder.iterdir()} == {MANIFEST, LOCK, *shards(folder)}
    check(store, ROWS)


def test_other_files_in_the_folder_stay(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    (folder / "4567.safetensors").write_text("mine")
    (folder / "deep").mkdir()
    (folder / f"{'45' * 8}.safetensors").symlink_to(folder / "notes.txt")
    before = {path.name for path in folder.iterdir()}
    add(opened(folder)[0])
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["", LOCK])
def test_a_link_in_place_of_the_folder_or_its_lock_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").touch()
    link = tmp_path / "store" / name
    link.parent.mkdir(exist_ok=True)
    if name:
        link.symlink_to(tmp_path / "precious")
    else:
        link.rmdir() if link.exists() else None
        link.symlink_to(tmp_path)
    with pytest.raises(
        CacheError, match=r"found a link, wanted a (folder|file) that layermix made"
    ):
        opened(tmp_path / "store")


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """Change the tensors of the first shard, and give the manifest its new size and checksum."""
    content = json.loads((folder / MANIFEST).read_text())
    name, shard = next(iter(content["shards"].items()))
    tensors = load((folder / name).read_bytes())
    change(tensors)
    data = save(tensors)
    (folder / name).write_bytes(data)
    shard |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(content))
    return folder / name


CHANGES: list[Callable[[dict[str, torch.Tensor]], object]] = [
    lambda tensors: tensors.pop("keys"),
    lambda tensors: tensors.update(logits=torch.zeros(4, 3)),
    lambda tensors: tensors.update(hidden=tensors["hidden"].float()),
    lambda tensors: tensors["counts"].fill_(2**30),
    lambda tensors: tensors["counts"][0].sub_(9) and tensors["counts"][1].add_(9),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_shard_whose_tensors_do_not_match_is_computed_again(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    file = rewritten(folder, change)
    store, said = opened(folder)
    assert said == [
        f"{file}: its content does not match its manifest; its 4 rows are computed again"
    ]
    check(store, ROWS[4:])
    add(store, ROWS[:4])
    check(opened(folder)[0], ROWS)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\xff" * 100, (90).to_bytes(8, "little") + b"[" * 90]
)
def test_a_shard_that_is_no_safetensors_file_is_computed_again(
    folder: Path, content: bytes
) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    name, shard = next(iter(manifest["shards"].items()))
    (folder / name).write_bytes(content)
    shard |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    store, said = opened(folder)
    assert len(said) == 1
    check(store, ROWS[4:])


def test_a_plan_is_left_and_read_and_dropped(folder: Path) -> None:
    store, _ = opened(folder)
    assert store.left_plan() == []
    plan = [[row_key([[1]]), row_key([[2]])], [row_key([[3]])]]
    with store.filling():
        store.leave_plan(plan)
    other, _ = opened(folder)
    with other.filling():
        assert other.left_plan() == plan
        other.drop_plan()
    assert other.left_plan() == []
    for content in (
        "[[1]]",
        "[" * 10**5,
        '[["00"]]',
        '[["zz"]]',
        "{}",
        "\udcff",
        "[[" + "9" * 5000,
    ):
        (folder / PLAN).write_text(content, errors="surrogateescape")
        assert other.left_plan() == []
    (folder / PLAN).unlink()
    (folder / PLAN).symlink_to("/dev/zero")
    assert other.left_plan() == []


def test_one_fills_while_the_other_waits_and_then_sees_it(folder: Path) -> None:
    first, _ = opened(folder)
    second, said = opened(folder)
    new = [row(number, 2) for number in range(20, 24)]
    inside, seen = threading.Event(), []

    def later() -> None:
        inside.wait()
        with second.filling():
            seen.append([one.key in second for one in new])

    thread = threading.Thread(target=later)
    thread.start()
    with first.filling():
        inside.set()
        while not said:
            thread.join(0.01)
        first.add(new)
    thread.join()
    assert said == [f"{folder}: waiting for another process that fills this store"]
    assert seen == [[True] * 4]


def test_a_store_that_is_pruned_while_another_waits_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / IDENTITY.name
    add(opened(folder)[0], ROWS[:4])
    waiting, said = opened(folder)
    done = []

    def fill() -> None:
        with waiting.filling():
            assert not waiting.places
            waiting.add(ROWS[4:8])
            done.append(True)

    thread = threading.Thread(target=fill)
    with lock(folder / LOCK):
        thread.start()
        while not said:
            thread.join(0.01)
        shutil.rmtree(folder)
    thread.join()
    assert done
    check(opened(folder)[0], ROWS[4:8])


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store, _ = opened(tmp_path / "file" / "store")
    with pytest.raises(CacheError) as caught:
        add(store, ROWS)
    assert str(caught.value) == (
        f"{tmp_path / 'file' / 'store'}: cannot be written (Not a directory); choose another "
        "--cache.folder, or --no-cache.use"
    )


def test_a_full_disk_is_told_and_leaves_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = opened(folder)
    monkeypatch.setattr("layermix.teacher_cache.store.free_bytes", lambda _: 12_000)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CacheError) as caught:
            add(store, [row(50, 3)])
    assert str(caught.value).startswith(f"{folder}: could not write 0.000 MB of teacher signals ")
    assert "(No space left on device; 0.012 MB are free). The 12 rows written" in str(caught.value)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    check(opened(folder)[0], ROWS)
    assert json.loads((folder / MANIFEST).read_text())["format"] == 2
