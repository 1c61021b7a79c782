"""Shared by all tests: small real models, a small real tokenizer, small real data, one trainer.

Shapes in the heart are checked at run time wherever tests reach it. What takes seconds to import is
imported where it is needed: pytest also reads this file in the process that only hands tests out.
"""

import functools
import hashlib
import importlib
import pkgutil
import random
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxtyping
import pytest

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification, BertTokenizer

    from layermix.core.signals import Needs, Teacher
    from layermix.core.trainer import DistillTrainer
    from layermix.data.texts import TextData
    from layermix.models.encoder import HFEncoder

CHECKED = ("signals", "mixing", "losses", "terms", "objective", "least_squares")
jaxtyping.install_import_hook(  # before they are imported
    [f"layermix.core.{name}" for name in CHECKED], "beartype.beartype"
)

HERE = Path(__file__).parent
TRACED = [HERE / name for name in ("unit", "report", "contract/test_extending.py")]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
TEACHER_DEPTH, TEACHER_WIDTH = 4, 32
OTHERS = (  # heavy modules that layermix imports
    "altair",
    "datasets",
    "pyarrow.parquet",
    "scipy.stats",
    "sklearn.metrics",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.trainer",
)


@contextmanager
def untraced() -> Iterator[None]:
    """Coverage does not trace what happens within: traced Python takes about twice as long."""
    here, threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        yield
    finally:
        sys.settrace(here)
        threading.settrace(threads)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Of all that is imported to collect tests, coverage traces layermix only."""
    only_hands_out = session.config.getoption("dist") != "no"
    if sys.gettrace() is None or only_hands_out:
        return (yield)
    with untraced():
        for name in OTHERS:
            importlib.import_module(name)
    import layermix

    for module in pkgutil.walk_packages(layermix.__path__, "layermix."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    with untraced():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Coverage traces what is in TRACED and docstrings' examples, but no test marked `untraced`."""
    here = not item.path.is_relative_to(HERE) or any(map(item.path.is_relative_to, TRACED))
    with nullcontext() if here and not item.get_closest_marker("untraced") else untraced():
        return (yield)


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    import datasets

    datasets.disable_progress_bars()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Teacher signals of tests stay out of the user's cache; processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERMIX_CACHE", str(tmp_path_factory.mktemp("signals")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _untraced_libraries() -> Iterator[None]:
    """Coverage does not trace Altair and transformers' models, which take most of the time."""
    import altair
    from transformers import PreTrainedModel

    with pytest.MonkeyPatch.context() as patch:
        for kind, name in (
            (altair.Chart, "encode"),
            (altair.Chart, "to_dict"),
            (altair.FacetChart, "to_dict"),
            (altair.LayerChart, "to_dict"),
            (PreTrainedModel, "__call__"),
        ):
            patch.setattr(kind, name, _without_trace(getattr(kind, name)))
        yield


def _without_trace(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        with untraced():
            return function(*arguments, **options)

    return called


@pytest.fixture(autouse=True, scope="session")
def _exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Equal models are exported once; coverage does not trace the exporter."""
    import torch

    export, made = torch.onnx.export, tmp_path_factory.mktemp("exporter")

    def once(module: Any, arguments: Any, file: Path, **options: Any) -> None:
        with untraced():
            kept = made / f"{_fingerprint(module, options)}.onnx"
            if not kept.exists():
                export(module, arguments, file, **options)
                shutil.copyfile(file, kept)
            shutil.copyfile(kept, file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", once)
        yield


def _fingerprint(module: Any, options: Any) -> str:
    """Equal for modules of equal code, settings and weights, exported in the same way."""
    said = f"{module} {module.model.config} {options}"
    found = hashlib.sha256(said.encode())
    for name, weights in module.state_dict().items():
        found.update(name.encode() + weights.numpy().tobytes())
    return found.hexdigest()


@pytest.fixture(scope="session")
def tokenizer() -> "BertTokenizer":
    from transformers import BertTokenizer

    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})


@pytest.fixture(scope="session")
def bert() -> "Callable[..., BertForSequenceClassification]":
    """`bert(blocks, hidden, dropout, seed)`: a random BERT with weights large enough to matter."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    def make(
        blocks: int = 2, hidden: int = 16, dropout: float = 0.1, seed: int = 0
    ) -> "BertForSequenceClassification":
        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=hidden,
            num_hidden_layers=blocks,
            num_attention_heads=2,
            intermediate_size=2 * hidden,
            max_position_embeddings=32,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=0.2,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return BertForSequenceClassification(config)

    return make


@pytest.fixture(scope="session")
def texts() -> "Callable[..., TextData]":
    """`texts(train, validation)`: lines of letters; does the first one stand before n?"""
    from layermix.data.texts import from_splits

    def make(train: int = 13, validation: int = 6) -> "TextData":
        draw = random.Random(0)
        lines: dict[str, None] = {}
        while len(lines) < train + validation:
            lines[" ".join(draw.choices(LETTERS, k=draw.randint(2, 12)))] = None
        rows = [{"text": line, "label": int(line < "n")} for line in lines]
        return from_splits({"train": rows[:train], "validation": rows[train:]})

    return make


@pytest.fixture
def trainer(
    tmp_path: Path,
    bert: "Callable[..., BertForSequenceClassification]",
    texts: "Callable[..., TextData]",
    tokenizer: "BertTokenizer",
) -> "Callable[..., DistillTrainer]":
    """`trainer(config sections as dictionaries, …)`: a DistillTrainer on a real tiny pair."""
    from layermix.core.objective import build_objective
    from layermix.core.trainer import DistillTrainer
    from layermix.data.tokenization import Collator, tokenize
    from layermix.models.encoder import HFEncoder
    from layermix.models.live_teacher import LiveTeacher

    from .tiny_configs import whole

    def make(
        *,
        rows: int = 13,
        folder: str = "checkpoints",
        dropout: float = 0.1,
        double: bool = False,
        teacher: "Callable[[HFEncoder, Needs], Teacher]" = LiveTeacher,
        callbacks: Sequence[Any] = (),
        **sections: Any,
    ) -> "DistillTrainer":
        config = whole(**sections)
        tokens = tokenize(texts(rows), tokenizer, 16)
        student = HFEncoder(bert(2, 16, dropout, seed=1))
        objective = build_objective(student, TEACHER_DEPTH, TEACHER_WIDTH, config)
        source = HFEncoder(bert(TEACHER_DEPTH, TEACHER_WIDTH, seed=2), "teacher_inputs")
        if double:
            objective.double()
            source.double()
        return DistillTrainer(
            objective,
            teacher(source, objective.teacher_needs) if objective.needs_teacher else None,
            config.training,
            config.mix,
            config.seed,
            tmp_path / folder,
            train_dataset=tokens.splits["train"],
            eval_dataset={"validation": tokens.splits["validation"]},
            data_collator=Collator(tokenizer),
            compute_metrics=lambda scored: {
                "accuracy": float((scored.predictions.argmax(-1) == scored.label_ids[0]).mean())
            },
            callbacks=list(callbacks),
        )

    return make
