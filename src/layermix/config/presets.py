"""The named recipes that a config starts from (`preset:`)."""

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {  # chosen by configs/studies/more-rows.yaml and -qnli.yaml, tried by -confirmed
        "student": {"copied": "spread", "dropout": 0},
        "data": {"augment": "auto"},
        "mix": {"strategy": "fixed"},
        "loss": {"hidden_weight": 10},
        "training": {"epochs": 4, "learning_rate": 1e-4},
    },
    "quick": {  # chosen by configs/studies/local-recipe.yaml, confirmed by local-recipe-confirmed
        "mix": {"strategy": "fixed"},
        "loss": {"hidden_weight": 10},
        "training": {"epochs": 6, "learning_rate": 1e-4},
    },
    "soft": {  # the loss of `quick` without hidden states; not searched for
        "student": {"copied": "spread"},
        "data": {"augment": "auto"},
        "mix": {"strategy": "fixed"},
        "loss": {"hidden_weight": 0},
        "training": {"epochs": 6, "learning_rate": 1e-4},
    },
    "paper": {
        "student": {"model": "huawei-noah/TinyBERT_General_4L_312D"},
        "data": {"max_length": 128},
        "mix": {"strategy": "learned", "teacher_layers": [2, 5, 8, 11], "learning_rate": 1e-3},
        "loss": {
            "supervised_weight": 1,
            "logit_weight": 1,
            "hidden_weight": 1,
            "entropy_weight": 0.1,
        },
        "training": {
            "epochs": 10,
            "batch_size": 16,
            "batching": "random",
            "eval_batch_size": 32,
            "learning_rate": 3e-5,
            "warmup": 300,
        },
    },
    "tinybert": {
        "data": {"max_length": 128},
        "mix": {"strategy": "fixed"},
        "loss": {
            "supervised_weight": 0,
            "logit": "tinybert_mean",
            "hidden_weight": 1,
            "hidden": "tinybert_mean",
            "embedding_weight": 1,
            "attention_weight": 1,
            "attention": "tinybert_mean",
            "projection_bias": True,
        },
        "training": {
            "epochs": 10,
            "batch_size": 32,
            "batching": "random",
            "padding": "max_length",
            "learning_rate": 3e-5,
            "warmup": 0.1,
        },
    },
}
