"""Runs whose student knows fewer words than its teacher, and saved models that are trimmed."""

import itertools
import json
import random
import re
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer, models
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedTokenizerFast,
)

from layermix.cli import main
from layermix.config import DataConfig, DistillConfig
from layermix.core.alpha_learner import AlphaLearner
from layermix.core.signals import Needs
from layermix.data.texts import load_texts
from layermix.errors import ConfigError, ModelError, RunExistsError
from layermix.models import vocabulary
from layermix.models.encoder import Classifier, HFEncoder
from layermix.models.loading import load_classifier
from layermix.models.vocabulary import old_numbers, trim_vocabulary
from layermix.runs import pipeline
from layermix.runs.schema import read_result
from layermix.serving.evaluate import evaluate
from layermix.serving.trim import Trimming, trim, trimming_text

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAIRS = ["".join(pair) for pair in itertools.product("abcde", "fghij")]
"""25 words; training texts have the first 15, validation texts all of them."""
VOCABULARY = [*SPECIAL, *ascii_lowercase, *(f"##{one}" for one in ascii_lowercase), *PAIRS]
LETTERS_ONLY = len(SPECIAL) + 2 * len(ascii_lowercase)
TRAINING = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "log_every": 1}
SECTIONS: dict[str, Any] = {
    "preset": "quick",
    "student": {"layers": 2, "vocabulary": "occurring"},
    "loss": {"hidden_weight": 1, "embedding_weight": 1},
    "training": TRAINING | {"precision": "fp32", "save_every": 2},
    "cache": {"precision": "fp32"},
}


def rows(words: list[str], count: int, seed: int) -> str:
    draw, lines = random.Random(seed), []
    for _ in range(count):
        found = draw.choices(words, k=draw.randint(3, 9))
        label = "low" if found[0] < "c" else "high"
        lines.append(json.dumps({"text": " ".join(found), "label": label}) + "\n")
    return "".join(lines)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "train.jsonl").write_text(rows(PAIRS[:15], 48, 0))
    (folder / "validation.jsonl").write_text(rows([*PAIRS[:15] * 3, *PAIRS[15:]], 20, 1))
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    config = BertConfig(
        vocab_size=len(VOCABULARY) + 3,  # padded, as models often are
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.2,
        id2label={0: "high", 1: "low"},
        label2id={"high": 0, "low": 1},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizer(vocab={word: at for at, word in enumerate(VOCABULARY)}).save_pretrained(folder)
    return folder


@pytest.fixture
def any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts may get longer than users want them."""
    monkeypatch.setattr(vocabulary, "MOST_LONGER", 1)


def settings(teacher: Path, data: Path, **student: Any) -> DistillConfig:
    return DistillConfig.model_validate(
        SECTIONS
        | {"teacher": {"model": str(teacher), "allow_weak": True}, "data": str(data)}
        | {"student": SECTIONS["student"] | student}
    )


@pytest.fixture(scope="module")
def run(teacher: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    pipeline.distill(settings(teacher, data), out)
    return out


def test_the_run_says_what_was_trimmed_and_saves_the_smaller_student(run: Path) -> None:
    record = read_result(run)
    assert record.student is not None
    assert record.student.vocabulary == LETTERS_ONLY + 15
    card = (run / "student/README.md").read_text(encoding="utf-8")
    assert f" Its vocabulary is trimmed to {LETTERS_ONLY + 15} tokens, those of its tr" in card
    (note,) = (note for note in record.notes if note.code == "vocabulary-trimmed")
    assert re.fullmatch(
        rf"the vocabulary was trimmed from {len(VOCABULARY)} to {LETTERS_ONLY + 15} tokens, which "
        r"saves 0\.0 M parameters; of the validation texts \d+\.\d% are cut differently "
        r"\(\d+\.\d+% of their tokens are missing, they get \d+\.\d% longer, 0\.00% of their "
        r"tokens become unknown\)",
        note.text,
    )
    student = load_classifier(str(run))
    assert len(student.tokenizer) == student.model.config.vocab_size == LETTERS_ONLY + 15
    assert student.tokenizer.tokenize("af ej zz") == ["af", "e", "##j", "z", "##z"]
    assert student.tokenizer.model_max_length == 40
    assert record.student is not None
    assert record.student.parameters == sum(one.numel() for one in student.model.parameters())


def test_what_is_reported_is_what_the_saved_student_says(run: Path, data: Path) -> None:
    scores = evaluate(str(run), DataConfig(path=str(data)))["validation"]
    reported = read_result(run).metrics.saved.splits["validation"]
    assert reported.number("accuracy") == scores["accuracy"]
    assert reported.number("nll") == pytest.approx(scores["nll"], abs=1e-5)


def test_the_teacher_is_scored_with_its_own_words(run: Path, teacher: Path, data: Path) -> None:
    scores = evaluate(str(teacher), DataConfig(path=str(data)))["validation"]
    assert read_result(run).teacher.score("accuracy") == scores["accuracy"]


@pytest.mark.usefixtures("any_length")
def test_the_teacher_reads_the_students_tokens_where_it_is_learned_from(
    teacher: Path, data: Path
) -> None:
    """With all that occur these are its own; with fewer words it reads the smaller pieces."""
    for size in ("occurring", LETTERS_ONLY + 7):
        config = settings(teacher, data, vocabulary=size)
        texts = load_texts(config.data)
        whole = load_classifier(str(teacher))
        student = pipeline.make_student(config, whole, texts)
        prepared = pipeline.prepare(whole, student, texts, config, pipeline.Reporter(quiet=True))
        kept = old_numbers(student, whole)
        assert kept is not None
        train = prepared.splits["train"]
        own = whole.tokenizer(list(texts.splits["train"]["text"]))["input_ids"]
        for row, ids in zip(train, own, strict=True):
            assert row["teacher_input_ids"] == kept[row["input_ids"]].tolist()
            assert (row["teacher_input_ids"] == ids) or size != "occurring"
        assert size == "occurring" or train["teacher_input_ids"][:] != own
        validation = whole.tokenizer(list(texts.splits["validation"]["text"]))["input_ids"]
        assert prepared.splits["validation"]["teacher_input_ids"][:] == validation
        batch = prepared.collate([train[0], train[1]])
        needs = Needs((0,), embedding=True)
        theirs = HFEncoder(whole.model.eval(), "teacher_inputs")(batch, needs)
        ours = HFEncoder(student.model.eval())(batch, needs)
        assert torch.equal(theirs.embedding, ours.embedding)  # copied rows, at the same places
        assert torch.equal(theirs.hidden, ours.hidden)


def test_a_stored_signal_serves_trimmed_and_whole_students(
    teacher: Path, data: Path, tmp_path: Path
) -> None:
    found, shards = [], []
    for size in (None, "occurring"):
        config = settings(teacher, data, vocabulary=size)
        cache = config.cache.model_copy(update={"folder": str(tmp_path / "cache")})
        found.append(pipeline.distill(config.model_copy(update={"cache": cache})))
        shards.append(sorted(path.name for path in (tmp_path / "cache").rglob("*.safetensors")))
    assert shards[0]
    assert shards[1] == shards[0]
    whole, small = ([line["loss"] for line in one.history if "loss" in line] for one in found)
    assert small == pytest.approx(whole, abs=1e-4)  # the same texts, teacher and start


@pytest.mark.usefixtures("any_length")
def test_without_hidden_losses_the_teacher_reads_its_own_tokens(teacher: Path, data: Path) -> None:
    config = settings(teacher, data, vocabulary=LETTERS_ONLY + 7)
    loss = config.loss.model_copy(update={"hidden_weight": 0, "embedding_weight": 0})
    config = config.model_copy(update={"loss": loss})
    texts, whole = load_texts(config.data), load_classifier(str(teacher))
    student = pipeline.make_student(config, whole, texts)
    prepared = pipeline.prepare(whole, student, texts, config, pipeline.Reporter(quiet=True))
    own = whole.tokenizer(list(texts.splits["train"]["text"]))["input_ids"]
    assert prepared.splits["train"]["teacher_input_ids"][:] == own


def test_a_teacher_with_more_words_of_its_own_is_not_taken_for_the_whole(
    teacher: Path, data: Path
) -> None:
    """Its vocabulary holds that of the student, which was never trimmed."""
    whole, plain = load_classifier(str(teacher)), load_classifier(str(teacher))
    whole.tokenizer.add_tokens(["zzz"])
    assert old_numbers(plain, whole) is None
    config = settings(teacher, data, vocabulary=None)
    texts = load_texts(config.data)
    with pytest.raises(ModelError, match="the tokenizers of teacher and student differ"):
        pipeline.prepare(whole, plain, texts, config, pipeline.Reporter(quiet=True))


def test_a_student_that_is_not_told_which_text_a_token_is_from(teacher: Path, data: Path) -> None:
    """As DistilBERT beside BERT: the teacher still gets its token types."""
    config = settings(teacher, data)
    texts, whole = load_texts(config.data), load_classifier(str(teacher))
    student = pipeline.make_student(config, whole, texts)
    student.tokenizer.model_input_names = ["input_ids", "attention_mask"]
    prepared = pipeline.prepare(whole, student, texts, config, pipeline.Reporter(quiet=True))
    columns = prepared.splits["train"].column_names
    assert "token_type_ids" not in columns
    assert "teacher_token_type_ids" in columns


class Follows(AlphaLearner):
    """Looks at held-out rows."""

    held_out_rows = 4


def test_a_rule_that_looks_at_held_out_rows_is_refused(teacher: Path, data: Path) -> None:
    given = settings(teacher, data).model_dump(exclude_unset=True) | {"mix": "learned"}
    given["training"] = given["training"] | {"selection": "holdout", "holdout_fraction": 0.2}
    config = DistillConfig.model_validate(given)
    texts, whole = load_texts(config.data), load_classifier(str(teacher))
    student = pipeline.make_student(config, whole, texts)
    with pytest.raises(ConfigError, match="looks at held-out rows compares hidden states there"):
        pipeline.distill_from(whole, student, texts, config, alpha_learner=Follows())


@pytest.mark.usefixtures("any_length")
def test_held_out_rows_do_not_say_which_words_stay(teacher: Path, data: Path) -> None:
    config = settings(teacher, data)
    texts = load_texts(config.data)
    training = config.training.model_copy(update={"selection": "holdout", "holdout_fraction": 0.9})
    few = config.model_copy(update={"training": training})
    whole = load_classifier(str(teacher))
    students = [pipeline.make_student(one, whole, texts) for one in (config, few)]
    one, other = (student.tokenizer.get_vocab().keys() for student in students)
    assert other < one


def test_words_of_rows_without_labels_stay(teacher: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text(" ".join(PAIRS[15:20]) + "\n")
    config = settings(teacher, data)
    more = config.data.model_copy(update={"unlabeled": str(tmp_path / "more.txt")})
    texts = load_texts(more)
    student = pipeline.make_student(config, load_classifier(str(teacher)), texts)
    assert set(PAIRS[:20]) <= student.tokenizer.get_vocab().keys()
    assert set(PAIRS[20:]).isdisjoint(student.tokenizer.get_vocab())


# -- what cannot be trimmed ------------------------------------------------------------------------


def classifier(tokenizer: Any, tokens: int | None = None) -> Classifier:
    config = BertConfig(
        vocab_size=tokens or len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    return Classifier(BertForSequenceClassification(config), tokenizer, "mine")


def fast(model: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), unk_token="[UNK]", pad_token="[PAD]"
    )


WHOLE_WORDS = {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}


def test_too_few_tokens_are_refused(teacher: Path) -> None:
    whole = load_classifier(str(teacher))
    with pytest.raises(ModelError, match=r"56 tokens has no room for what must stay .* 57 of"):
        trim_vocabulary(whole, 56, [[["af"]]])
    known, others = [[["af bg"]]], [[" ".join(PAIRS)]]
    wanted = (
        f"{LETTERS_ONLY + 2} tokens are too few: validation texts get 92.0% longer in tokens "
        r"\(wanted 25% at most\), and 0.0% of their tokens become unknown \(wanted 1% at most\); "
        r"keep more \(--student.vocabulary 8000 keeps common ones beside yours\), or give more "
        r"texts without labels \(--data.unlabeled\)"
    )
    with pytest.raises(ModelError, match=wanted):
        trim_vocabulary(whole, "occurring", known, [others])


def test_tokenizers_without_smaller_pieces_are_refused() -> None:
    words = classifier(fast(models.WordLevel(vocab=WHOLE_WORDS, unk_token="[UNK]")))
    with pytest.raises(ModelError, match=r"\(WordLevel\) cannot be trimmed; wanted WordPiece, BPE"):
        trim_vocabulary(words, "occurring", [[["a"]]])
    ended = models.BPE(vocab=WHOLE_WORDS, merges=[], end_of_word_suffix="</w>")
    with pytest.raises(ModelError, match=r"\(BPE\) cannot be trimmed"):
        trim_vocabulary(classifier(fast(ended)), "occurring", [[["a"]]])


def test_a_word_that_would_become_readable_is_refused() -> None:
    """`##c` is missing: `abc` is unknown, until `ab` is gone and `a` `##bc` fits."""
    words = [*SPECIAL, "a", "##a", "b", "##b", "c", "ab", "##bc", "x", "##x"]
    tokenizer = BertTokenizer(vocab={word: at for at, word in enumerate(words)})
    assert tokenizer.tokenize("abc") == ["[UNK]"]
    with pytest.raises(ModelError, match=r"it lacks single characters, .* in 'abc x'; give a num"):
        trim_vocabulary(classifier(tokenizer), "occurring", [[["abc x"]]])
    trimmed, _ = trim_vocabulary(classifier(tokenizer), 13, [[["abc x"]]])
    assert trimmed.tokenizer.tokenize("abc x") == ["a", "##bc", "x"]


def test_numbers_with_holes() -> None:
    words = {**{word: at for at, word in enumerate([*SPECIAL, "a", "##a", "b", "##b"])}, "ab": 40}
    made = classifier(BertTokenizer(vocab=words), tokens=41)
    trimmed, told = trim_vocabulary(made, "occurring", [[["a b"]]], [[["a", "b"]]])
    assert told.kept.tolist() == list(range(9))
    assert trimmed.model.config.vocab_size == 9


def test_positions_counted_from_padding_keep_their_padding(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_classifier(str(teacher))
    whole.model.config.pad_token_id = 4
    monkeypatch.setattr(vocabulary, "POSITIONS_AFTER_PADDING", ("bert",))
    with pytest.raises(ModelError, match="counted from its padding token, 4, which would become 0"):
        trim_vocabulary(whole, "occurring", [[["af"]]])


# -- a saved model ---------------------------------------------------------------------------------


def test_a_saved_model_is_trimmed_to_the_texts_of_its_run(
    teacher: Path, data: Path, tmp_path: Path
) -> None:
    config = settings(teacher, data, vocabulary=None)
    pipeline.distill(config, tmp_path / "run")
    out = tmp_path / "small"
    result = CliRunner().invoke(main, ["trim", str(tmp_path / "run"), "--out", str(out), "--quiet"])
    assert result.exit_code == 0, result.output
    assert f"{out}: {LETTERS_ONLY + 15} tokens instead of {len(VOCABULARY)}, " in result.output
    assert "The logits of 48 training texts are the same to the last bit; " in result.output
    assert f"Next: layermix evaluate {out} --data DATA" in result.output
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "## Vocabulary\n\nThe vocabulary was trimmed from 82 to 72" in card
    small = load_classifier(str(out))
    assert f" {small.model.num_parameters():,} parameters; " in card
    assert "model-index" not in card
    assert (
        "validation rows get another answer. Scores in this card are those of the model b" in card
    )
    again = trim(str(out), DataConfig(path=str(data)), tmp_path / "same")
    assert (again.tokens, again.max_difference, again.other_answers) == (LETTERS_ONLY + 15, 0, 0)
    with pytest.raises(RunExistsError, match="small already exists, and layermix does not over"):
        trim(str(tmp_path / "run"), DataConfig(), out)


@pytest.mark.usefixtures("any_length")
def test_fewer_tokens_are_compared_on_the_rows(teacher: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    size = str(LETTERS_ONLY + 12)
    options = ["--data", str(data), "--student.vocabulary", size, "--json", "--quiet"]
    result = CliRunner().invoke(main, ["trim", str(teacher), "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    told = Trimming(**json.loads(result.stdout))
    assert (told.tokens, told.rows, told.validation_rows) == (LETTERS_ONLY + 12, 48, 20)
    assert told.max_difference > 0
    assert told.bytes_before == sum(file.stat().st_size for file in teacher.iterdir())
    own = sum(file.stat().st_size for file in out.iterdir() if file.name != "README.md")
    assert told.bytes == own
    texts = list(load_texts(DataConfig(path=str(data))).splits["validation"]["text"])
    answers = []
    for folder in (teacher, out):
        model = BertForSequenceClassification.from_pretrained(folder).eval()
        inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            answers.append(model(**inputs).logits.argmax(-1))
    assert told.other_answers == int((answers[0] != answers[1]).sum())
    assert f"differ by at most {told.max_difference:.2g}; " in trimming_text(told, out)


def test_a_model_without_a_run_needs_texts(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not in a run folder, so there are no training texts"):
        trim(str(teacher), DataConfig(), tmp_path / "small")
