"""Which teacher a run gets, and what is said of it before the work."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification, BertTokenizer

from layermix.config import CacheConfig, DistillConfig
from layermix.console import Reporter
from layermix.core.objective import build_objective
from layermix.core.signals import Needs, Teacher
from layermix.data.prepared import PreparedData
from layermix.data.texts import TextData
from layermix.errors import ConfigError
from layermix.models.encoder import Classifier, HFEncoder, setup_fingerprint
from layermix.models.live_teacher import LiveTeacher
from layermix.models.loading import load_classifier
from layermix.models.students import copy_blocks
from layermix.runs.pipeline import distill_from
from layermix.runs.prepare import prepare
from layermix.teacher_cache import choose
from layermix.teacher_cache.cached_teacher import CachedTeacher
from layermix.teacher_cache.choose import agree, cache_folder, open_cache, signals_for
from layermix.teacher_cache.manifest import LOCK, MANIFEST

ROWS = 26


class Listening(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str, style: str | None = None) -> None:
        self.said.append(text)


@pytest.fixture
def teacher(bert: Callable[..., BertForSequenceClassification], tokenizer: Any) -> Classifier:
    return Classifier(bert(4, 16, seed=2), tokenizer, "a tiny teacher")


@pytest.fixture
def data(texts: Callable[..., TextData]) -> TextData:
    return texts(ROWS, 10)


def settings(folder: Path, **cache: Any) -> DistillConfig:
    return DistillConfig.model_validate(
        {
            "preset": "quick",
            "teacher": {"allow_weak": True},
            "training": {"epochs": 2, "batch_size": 4, "log_every": 1, "precision": "fp32"},
            "cache": {"folder": str(folder), "precision": "fp32", **cache},
            "loss": {"hidden_weight": 1},
        }
    )


Ask = Callable[..., tuple[Teacher, list[str]]]


@pytest.fixture
def ask(teacher: Classifier, data: TextData) -> Ask:
    """`ask(config)`: the teacher that a run with this config gets, and what is said."""

    def asked(config: DistillConfig) -> tuple[Teacher, list[str]]:
        student = copy_blocks(teacher, 2)
        reporter = Listening()
        prepared = prepare(teacher, student, data, config, reporter)
        objective = build_objective(HFEncoder(student.model), 4, 16, config)
        return signals_for(prepared, teacher, objective, config, reporter), reporter.said

    return asked


def test_the_size_is_told_and_right_before_and_after(ask: Ask, tmp_path: Path) -> None:
    config = settings(tmp_path)
    found, (told,) = ask(config)
    assert isinstance(found, CachedTeacher)
    tokens = sum(place.tokens for place in found.store.places.values())
    size = tokens * 2 * 16 * 2 + ROWS * (16 + 4 + 2 * 4)
    assert told == (
        f"teacher signals: {ROWS} texts, {tokens} tokens, 2 layers × 16 in float16, computed in "
        f"float32: {size / 1e9:.2f} GB, of which 0% is in {found.store.folder}"
    )
    assert size < found.store.bytes_on_disk < size + 1000
    _, (again,) = ask(config)
    assert again == told.replace(" 0% ", " 100% ")


def test_logits_alone_need_no_layers(ask: Ask, tmp_path: Path) -> None:
    config = settings(tmp_path).model_copy(
        update={"loss": settings(tmp_path).loss.model_copy(update={"hidden_weight": 0})}
    )
    found, (told,) = ask(config)
    assert found.provides == Needs()
    assert " no layers in float16" in told


def test_attention_scores_are_not_stored(ask: Ask, tmp_path: Path) -> None:
    config = settings(tmp_path)
    loss = config.loss.model_copy(update={"attention_weight": 1})
    found, (told,) = ask(config.model_copy(update={"loss": loss}))
    assert isinstance(found, LiveTeacher)
    assert told == (
        "the attention loss needs scores of all pairs of tokens, which are not stored: the teacher "
        "runs live on every batch, in float32"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("cache", "free", "told"),
    [
        (
            {"max_gb": 0},
            10**12,
            "need 0.00 GB more in {folder}, but cache.max_gb is 0: the teacher",
        ),
        ({"max_gb": 1e-9}, 10**12, "of cache.max_gb 1e-09, 0.00 GB are used (fewer layers, by"),
        ({}, 2**30 + 10, "1.07 GB are free, of which 1.07 are left to others (fewer layers, by"),
        ({"use": False}, 10**12, "cache.use is off: the teacher"),
    ],
)
def test_what_does_not_fit_is_asked_for_live_and_said(
    ask: Ask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cache: dict[str, Any],
    free: int,
    told: str,
) -> None:
    monkeypatch.setattr(choose, "free_bytes", lambda _: free)
    found, said = ask(settings(tmp_path, **cache))
    assert isinstance(found, LiveTeacher)
    (line,) = said
    assert told.format(folder=tmp_path) in line
    assert line.endswith(": the teacher runs live on every batch, in float32")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_read_although_there_is_no_room_for_more(ask: Ask, tmp_path: Path) -> None:
    ask(settings(tmp_path))
    found, _ = ask(settings(tmp_path, max_gb=0))
    assert isinstance(found, CachedTeacher)


def test_the_space_used_counts_all_stores(ask: Ask, tmp_path: Path) -> None:
    ask(settings(tmp_path, dtype="float32"))
    found, said = ask(settings(tmp_path, max_gb=1.7e-5))
    assert isinstance(found, LiveTeacher)
    assert "cache.max_gb 1.7e-05" in said[-1]
    found, _ = ask(settings(tmp_path, max_gb=1))
    assert isinstance(found, CachedTeacher)


def test_the_space_used_counts_stores_only(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "a-model").mkdir()
    (tmp_path / "a-model" / "model.safetensors").write_bytes(bytes(10**6))
    found, _ = ask(settings(tmp_path, max_gb=1e-3))
    assert isinstance(found, CachedTeacher)


@pytest.mark.parametrize("limit", ["max_gb", "free"])
def test_a_damaged_shard_is_not_counted_as_used(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """Its rows are computed again, and it is removed before they are written."""
    found, _ = ask(settings(tmp_path))
    assert isinstance(found, CachedTeacher)
    (shard,) = tmp_path.rglob("*.safetensors")
    size = shard.stat().st_size
    shard.write_bytes(bytes(size))
    if limit == "free":
        monkeypatch.setattr(choose, "free_bytes", lambda _: choose.SPARE_BYTES + 10)
    more = {"max_gb": (size + 2000) / 1e9} if limit == "max_gb" else {}
    found, said = ask(settings(tmp_path, **more))
    assert isinstance(found, CachedTeacher), said
    assert shard.read_bytes() != bytes(size)


def test_training_is_the_same_with_and_without_the_cache(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    exact, half, live = (
        distill_from(teacher, copy_blocks(teacher, 2), data, settings(tmp_path, **cache)).history
        for cache in ({"dtype": "float32"}, {}, {"use": False})
    )
    for name, bound in (("loss", 1e-5), ("loss_hidden", 1e-4)):
        expected = [line[name] for line in live if name in line]
        assert len(expected) == 14
        if name == "loss":
            assert [line[name] for line in exact if name in line] == pytest.approx(
                expected, abs=bound
            )
        assert [line[name] for line in half if name in line] == pytest.approx(expected, abs=1e-4)


def test_a_second_run_reads_what_the_first_has_stored(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    distill_from(teacher, copy_blocks(teacher, 2), data, settings(tmp_path))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    other = settings(tmp_path).model_copy(update={"seed": 5})
    distill_from(teacher, copy_blocks(teacher, 2), data, other)
    after = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    (lock,) = tmp_path.rglob(LOCK)  # says when the store was last used
    assert after.pop(lock) > before.pop(lock)
    assert after == before


def test_a_damaged_shard_is_said_and_mended_by_the_next_run(ask: Ask, tmp_path: Path) -> None:
    found, _ = ask(settings(tmp_path))
    assert isinstance(found, CachedTeacher)
    (shard,) = found.store.folder.glob("*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(content[:-9] + b"X" + content[-8:])
    _, said = ask(settings(tmp_path))
    assert said[0].endswith(f"(wrong checksum); its {ROWS} rows are computed again")
    assert shard.read_bytes() == content
    (found.store.folder / MANIFEST).unlink()
    _, said = ask(settings(tmp_path))
    assert "it is missing, so 1 shards cannot be used; its signals are computed again" in said[0]
    assert shard.read_bytes() == content


@pytest.fixture
def prepared(teacher: Classifier, data: TextData, tmp_path: Path) -> PreparedData:
    return prepare(teacher, copy_blocks(teacher, 2), data, settings(tmp_path), Listening())


@pytest.mark.parametrize("same", [True, False])
def test_bfloat16_is_taken_if_the_predictions_stay_the_same(
    teacher: Classifier,
    prepared: PreparedData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    same: bool,
) -> None:
    reporter = Listening()
    monkeypatch.setattr(choose, "agree", lambda *_: same)
    config = settings(tmp_path, precision="bf16")
    store, _ = open_cache(prepared, teacher, Needs((1,)), config, reporter)
    assert store.identity.precision == ("bfloat16" if same else "float32")
    choose.filled(prepared, teacher, store, reporter)
    monkeypatch.setattr(choose, "agree", lambda *_: pytest.fail("it is known already"))
    if same:
        again, size = open_cache(prepared, teacher, Needs((1,)), config, reporter)
        assert again.identity == store.identity
        assert size.missing == 0


@pytest.mark.parametrize("cache", [{"use": False}, {"max_gb": 0, "precision": "bf16"}], ids=str)
@pytest.mark.parametrize("same", [True, False])
def test_a_live_teacher_computes_in_bfloat16_only_if_the_predictions_stay_the_same(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: dict[str, Any], same: bool
) -> None:
    asked = []
    monkeypatch.setattr(choose, "agree", lambda *_: asked.append(1) or same)
    config = settings(tmp_path, **cache)
    training = config.training.model_copy(update={"precision": "bf16"})
    found, said = ask(config.model_copy(update={"training": training}))
    assert isinstance(found, LiveTeacher)
    assert found.precision == (torch.bfloat16 if same else torch.float32)
    assert asked == [1]
    assert said[-1].endswith(f"live on every batch, in {'bfloat16' if same else 'float32'}")


OTHER_SETUPS: list[dict[str, Any]] = [
    {"hidden_act": "relu"},
    {"num_attention_heads": 4},
    {"layer_norm_eps": 1e-5},
]


@pytest.mark.parametrize("change", [*OTHER_SETUPS, {"padding_side": "left"}], ids=str)
def test_teachers_of_equal_weights_that_compute_otherwise_have_stores_of_their_own(
    teacher: Classifier, data: TextData, tmp_path: Path, change: dict[str, Any]
) -> None:
    config, reporter = settings(tmp_path), Listening()
    if "padding_side" in change:
        tokenizer = BertTokenizer(vocab=teacher.tokenizer.get_vocab(), **change)
        other = replace(teacher, tokenizer=tokenizer)
    else:
        model_config = copy.deepcopy(teacher.model.config)
        model_config.update(change)
        model = BertForSequenceClassification(model_config)
        model.load_state_dict(teacher.model.state_dict())
        other = replace(teacher, model=model)
    stores = []
    for one in (teacher, other):
        prepared = prepare(one, copy_blocks(one, 2), data, config, reporter)
        store, size = open_cache(prepared, one, Needs((1,)), config, reporter)
        assert size.stored == 0
        choose.filled(prepared, one, store, reporter)
        stores.append(store)
    assert stores[0].identity.teacher == stores[1].identity.teacher
    assert stores[0].folder != stores[1].folder


def test_names_and_places_do_not_change_the_store(
    teacher: Classifier, data: TextData, tmp_path: Path
) -> None:
    teacher.model.config.layermix = {"max_length": 8}
    teacher.model.config.id2label = {0: "no", 1: "yes"}
    teacher.model.save_pretrained(tmp_path / "elsewhere")
    teacher.tokenizer.save_pretrained(tmp_path / "elsewhere")
    loaded = load_classifier(str(tmp_path / "elsewhere"))
    teacher.model.config.layermix = None
    teacher.model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    setups = {setup_fingerprint(one.model, one.tokenizer) for one in (teacher, loaded)}
    assert len(setups) == 1


def test_a_prediction_that_bfloat16_changes_is_found(
    teacher: Classifier, prepared: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = Listening()
    monkeypatch.setattr(choose, "PROBED", 5)

    class Wavering(LiveTeacher):
        """Its bfloat16 pass answers the other way on the first row."""

        def __call__(self, batch: Any) -> Any:
            found = super().__call__(batch)
            assert len(found.logits) == 5
            if self.precision == torch.bfloat16:
                logits = found.logits.clone()
                logits[0] = -logits[0]
                found = replace(found, logits=logits)
            return found

    steady = teacher.model.state_dict()["classifier.bias"]
    steady += torch.tensor([3.0, -3.0])  # so that rounding changes no prediction
    assert agree(prepared, teacher, reporter)
    assert not reporter.said
    monkeypatch.setattr(choose, "LiveTeacher", Wavering)
    assert not agree(prepared, teacher, reporter)
    assert reporter.said == [
        "a bfloat16 pass of the teacher answers otherwise on 1 of 5 rows: its signals are "
        "computed in float32"
    ]


def test_the_folder_is_the_configured_one_or_that_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAYERMIX_CACHE", "/own")
    assert cache_folder(CacheConfig(folder="/given")) == Path("/given")
    assert cache_folder(CacheConfig()) == Path("/own")
    monkeypatch.delenv("LAYERMIX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/users")
    assert cache_folder(CacheConfig()) == Path("/users/layermix/signals")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(CacheConfig()) == Path.home() / ".cache" / "layermix" / "signals"


def test_a_user_without_a_home_is_told_how_to_name_a_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LAYERMIX_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    # As for the id of a user that the system does not know.
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(ConfigError, match=r"no home folder of the user; set \$LAYERMIX_CACHE, or"):
        cache_folder(CacheConfig())


def test_a_teacher_with_a_tokenizer_of_its_own_is_measured_by_its_own_tokens(
    teacher: Classifier, data: TextData, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    few = BertTokenizer(vocab={w: n for n, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])})
    few.add_tokens([data.splits["train"]["text"][0][:3]])  # two letters as one token
    student = Classifier(copy_blocks(teacher, 2).model, few, "a student of few words")
    config = settings(tmp_path)
    config = config.model_copy(update={"loss": config.loss.model_copy(update={"hidden_weight": 0})})
    prepared = prepare(teacher, student, data, config, Listening())
    _, size = open_cache(prepared, teacher, Needs(), config, Listening())
    assert size.tokens == sum(len(ids) for ids in prepared.splits["train"]["teacher_input_ids"])
    assert size.tokens != sum(prepared.splits["train"]["length"])


@pytest.fixture
def opened(prepared: PreparedData, teacher: Classifier) -> Callable[..., Any]:
    """`opened(config, layer, …)`: store and size for these layers."""

    def ask_for(config: DistillConfig, *layers: int) -> Any:
        return open_cache(prepared, teacher, Needs(layers), config, Listening())

    return ask_for


def test_all_layers_serve_students_that_ask_for_others(
    prepared: PreparedData, teacher: Classifier, opened: Callable[..., Any], tmp_path: Path
) -> None:
    config = settings(tmp_path, layers="all")
    store, size = opened(config, 3, 1)
    assert store.identity.layers == (0, 1, 2, 3)
    assert size.missing == size.total
    reader = choose.filled(prepared, teacher, store, Listening(), Needs((3, 1)))
    assert reader.provides == Needs((3, 1))
    again, size = opened(config, 2, 0)
    assert (again.folder, size.missing) == (store.folder, 0)
    assert opened(settings(tmp_path), 2)[0].folder == store.folder  # whatever is asked for
    own, _ = opened(settings(tmp_path / "own"), 3, 1)
    wanted = choose.filled(prepared, teacher, own, Listening())
    batch = prepared.collate(list(prepared.splits["train"]))
    found, exact = reader(batch), wanted(batch)
    assert found.layers == exact.layers == (3, 1)
    assert found.hidden is not None
    assert exact.hidden is not None
    assert torch.equal(found.hidden, exact.hidden)
    assert torch.equal(found.logits, exact.logits)


def test_all_layers_are_left_out_where_the_needed_ones_are_stored_or_alone_have_room(
    prepared: PreparedData, teacher: Classifier, opened: Callable[..., Any], tmp_path: Path
) -> None:
    stored, _ = opened(settings(tmp_path), 3)
    choose.filled(prepared, teacher, stored, Listening())
    same, size = opened(settings(tmp_path, layers="all"), 3)
    assert (same.folder, size.missing) == (stored.folder, 0)
    (_, one), (_, every) = (
        opened(settings(tmp_path / "new", layers=layers), 3) for layers in ("needed", "all")
    )
    assert one.total < every.total
    tight = settings(tmp_path / "new", layers="all", max_gb=(every.total - 1) / 1e9)
    assert opened(tight, 3)[0].identity.layers == (3,)
    logits, _ = open_cache(
        prepared, teacher, Needs(), settings(tmp_path / "new", layers="all"), Listening()
    )
    assert logits.identity.layers == ()
    other_order, _ = opened(settings(tmp_path / "new", layers="all"), 3, 2, 1, 0)
    assert other_order.identity.layers == (3, 2, 1, 0)  # no second store of the same layers
