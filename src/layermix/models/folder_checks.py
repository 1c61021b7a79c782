"""Checks a model folder that others wrote, so that a damaged one is refused within seconds."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from layermix.data.content import LFS_POINTER
from layermix.errors import ModelError
from layermix.models.heads import HEADS, Head

CONFIG_BYTES = 10_000_000
"""Largest config.json that is read."""
MOST = {"num_labels": 100_000, "num_hidden_layers": 1_000, "n_layers": 1_000}
"""Largest values in config.json; transformers loops over each before it reads any weight."""
EXTRA_NUMBERS = 2**26
"""How many numbers a model may have beyond the bytes of its weights: new heads and buffers."""


def read_object(file: Path, limit: int = CONFIG_BYTES) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is too large, not UTF-8, nested too deeply, or no JSON object.
    """
    if (size := file.stat().st_size) > limit:
        raise ValueError(f"{file.name} has {size} bytes, wanted at most {limit}")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{file.name} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file.name} holds a {type(value).__name__}, wanted an object")
    return value


def check_config(source: str, folder: Path) -> None:
    """Checks config.json.

    Raises:
        ModelError: If it cannot be read, a number in it is out of all proportion, or the weights
            are quantized.
    """
    try:
        config = read_object(folder / "config.json")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{source}: cannot be loaded as a text classifier ({error}); the folder is damaged"
        ) from None
    quantization = config.get("quantization_config")
    if quantization is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise ModelError(
            f"{source}: its weights are quantized ({method}), wanted weights in float32, float16 "
            "or bfloat16; give the model that was quantized"
        )
    for name, most in MOST.items():
        value = config.get(name, 0)
        if isinstance(value, int | float) and not value <= most:
            raise ModelError(
                f"{source}: config.json has {name} {value:g}, wanted at most {most}; the folder is "
                "damaged"
            )


def check_no_pointers(folder: Path) -> None:
    """Checks that the files are there, not the pointers that `git clone` leaves without Git LFS.

    Raises:
        ModelError: If there is a pointer.
    """
    pointers = []
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stat().st_size < 1024:
            start = file.read_bytes()[: len(LFS_POINTER)]
            pointers += [file.name] if start == LFS_POINTER else []
    if pointers:
        raise ModelError(
            f"{folder}: found Git LFS pointers in place of {', '.join(pointers)}; run `git lfs "
            "pull` there"
        )


def check_size(source: str, folder: Path, config: Any, head: Head = HEADS[False]) -> None:
    """Checks that a config describes a model that its weights can fill; makes no such model.

    Raises:
        ModelError: If it is far larger.
    """
    with torch.random.fork_rng(), torch.device("meta"):
        model = head.auto.from_config(config)
    numbers = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if numbers > stored + EXTRA_NUMBERS:
        raise ModelError(
            f"{source}: config.json describes a model of {numbers:,} numbers, but its weights are "
            f"{stored:,} bytes; the folder is damaged, or its config.json belongs to another model"
        )


def check_no_adapter(source: str, folder: Path) -> None:
    """Checks that a folder is not that of an adapter without its base model.

    Raises:
        ModelError: If it is; the message names the base model and says how to merge the two.
    """
    file = folder / "adapter_config.json"
    if not file.is_file() or any(folder.glob("model*.safetensors")):
        return
    try:
        adapter = read_object(file)
    except (OSError, ValueError) as error:
        raise ModelError(f"{source}: found an adapter, wanted a whole model ({error})") from None
    base = str(adapter.get("base_model_name_or_path"))
    raise ModelError(
        f"{source}: found a {adapter.get('peft_type', 'PEFT')} adapter of {base}, wanted a whole "
        "model. Merge the two once, in Python with peft installed, and give the new folder: "
        f"base = AutoModelForSequenceClassification.from_pretrained({base!r}, num_labels=CLASSES); "
        f"PeftModel.from_pretrained(base, {source!r}).merge_and_unload()"
        f'.save_pretrained("NEW"); AutoTokenizer.from_pretrained({source!r}).save_pretrained("NEW")'
    )


def check_tokenizer(source: str, config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that a tokenizer is there and fits the model.

    Raises:
        ModelError: If it has no vocabulary, makes ids that the model does not have, or has no
            length.
    """
    vocabulary = tokenizer.get_vocab()
    if set(vocabulary) <= set(tokenizer.all_special_tokens):
        # transformers 5 makes an empty tokenizer where it finds no files
        raise ModelError(
            f"{source}: no tokenizer in it; save the model's own there: "
            "AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)"
        )
    rows = getattr(config, "vocab_size", None)
    beyond = [token for token, number in vocabulary.items() if rows and number >= rows]
    if beyond:
        raise ModelError(
            f"{source}: its tokenizer has {len(beyond)} tokens beyond the model's vocabulary of "
            f"{rows}, such as {beyond[0]!r}; if they were added, call "
            "model.resize_token_embeddings(len(tokenizer)), train and save the model again; else "
            "save the model's own tokenizer in its folder"
        )
    length = tokenizer.model_max_length
    if not isinstance(length, int | float) or not length >= 1:
        raise ModelError(
            f"{source}: its tokenizer_config.json has model_max_length {length!r}, wanted a number "
            "of tokens"
        )
