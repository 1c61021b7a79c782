"""Uploads a model's folder to the hub: weights, tokenizer, card, exported files."""

from pathlib import Path

from huggingface_hub import HfApi

from layermix.errors import ModelError, PushError
from layermix.models.loading import model_folder


def push(source: str | Path, name: str, *, private: bool = False) -> str:
    """Upload a model's folder as one commit; creates the repository if there is none.

    The hub's address and the token are those of huggingface_hub (`hf auth login`, `$HF_TOKEN`,
    `$HF_ENDPOINT`).

    Args:
        source: Run folder or model folder.
        name: `USER/NAME`.
        private: Whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        ModelError: If there is no such folder.
        PushError: If the hub refuses or cannot be reached.
    """
    folder = model_folder(str(source))
    if folder is None:
        raise ModelError(f"{source}: no such folder; wanted a run folder or a model folder")
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message="Add the model and its card",
            ignore_patterns=[".*"],
        )
    except Exception as error:  # from the hub, its client, or the network
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise PushError(
            f"{name}: could not be pushed to the hub ({reason}); the files are in {folder}. Check "
            "the name (USER/NAME), the token (`hf auth login`, or $HF_TOKEN), that "
            "$HF_HUB_OFFLINE is not set, and the network; `layermix export MODEL --push_to_hub "
            f"{name}` tries again without a new export"
        ) from error
    return str(commit.repo_url)
