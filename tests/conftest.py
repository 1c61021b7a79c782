"""Shared by all tests: small real models, a small real tokenizer, small real data, one trainer.

Shapes in the heart are checked at run time wherever tests reach it.
"""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import jaxtyping
import pytest

# Before they are imported: hence imports below the first statement.
jaxtyping.install_import_hook(
    [f"layermix.core.{name}" for name in ("signals", "mixing", "losses", "terms", "objective")],
    "beartype.beartype",
)

import torch  # noqa: E402  # after the hook
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer  # noqa: E402  # after the hook

from layermix.core.objective import build_objective  # noqa: E402  # after the hook
from layermix.core.signals import Needs, Teacher  # noqa: E402  # after the hook
from layermix.core.trainer import DistillTrainer  # noqa: E402  # after the hook
from layermix.data.texts import TextData, from_splits  # noqa: E402  # after the hook
from layermix.data.tokenization import Collator, tokenize  # noqa: E402  # after the hook
from layermix.models.encoder import HFEncoder  # noqa: E402  # after the hook
from layermix.models.live_teacher import LiveTeacher  # noqa: E402  # after the hook

from .tiny_configs import whole  # noqa: E402  # after the hook

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
TEACHER_DEPTH, TEACHER_WIDTH = 4, 32


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    datasets.disable_progress_bars()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Teacher signals of tests stay out of the user's cache; processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERMIX_CACHE", str(tmp_path_factory.mktemp("signals")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _untraced_export() -> Iterator[None]:
    """Coverage does not trace the exporter of torch: traced, its Python takes twice as long."""
    export = torch.onnx.export

    def untraced(*arguments: Any, **options: Any) -> Any:
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            return export(*arguments, **options)
        finally:
            sys.settrace(trace)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", untraced)
        yield


@pytest.fixture(scope="session")
def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})


@pytest.fixture(scope="session")
def bert() -> Callable[..., BertForSequenceClassification]:
    """`bert(blocks, hidden, dropout, seed)`: a random BERT with weights large enough to matter."""

    def make(
        blocks: int = 2, hidden: int = 16, dropout: float = 0.1, seed: int = 0
    ) -> BertForSequenceClassification:
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
def texts() -> Callable[..., TextData]:
    """`texts(train, validation)`: lines of letters; does the first one stand before n?"""

    def make(train: int = 13, validation: int = 6) -> TextData:
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
    bert: Callable[..., BertForSequenceClassification],
    texts: Callable[..., TextData],
    tokenizer: BertTokenizer,
) -> Callable[..., DistillTrainer]:
    """`trainer(config sections as dictionaries, …)`: a DistillTrainer on a real tiny pair."""

    def make(
        *,
        rows: int = 13,
        folder: str = "checkpoints",
        dropout: float = 0.1,
        double: bool = False,
        teacher: Callable[[HFEncoder, Needs], Teacher] = LiveTeacher,
        callbacks: Sequence[Any] = (),
        **sections: Any,
    ) -> DistillTrainer:
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
