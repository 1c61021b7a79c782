"""Pretraining on texts without labels: what is learned, written, refused, and where it goes on."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, BertForMaskedLM, BertTokenizer

from layermix.config import DistillConfig, PretrainConfig
from layermix.errors import ConfigError, DataError, ModelError, ResumeError
from layermix.models.loading import load_classifier
from layermix.runs import held_out
from layermix.runs.pipeline import distill
from layermix.runs.pretraining import Pretrained, pretrain
from layermix.runs.schema import PretrainRecord

TINY: dict[str, Any] = {
    "student": {"layers": 2, "hidden": 16, "heads": 2, "ffn": 32},
    "texts": {"max_length": 16, "held_out": 0.1},
    "training": {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "measure_every": 4},
}


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, bert: Callable[..., Any], tokenizer: BertTokenizer
) -> Path:
    """A folder with a teacher without a head, and a small corpus."""
    place = tmp_path_factory.mktemp("pretraining")
    classifier = bert(4, 32)
    classifier.bert.save_pretrained(place / "teacher")
    tokenizer.save_pretrained(place / "teacher")
    draw = random.Random(0)
    lines = [" ".join(draw.choices("abcdefghij", k=draw.randint(3, 20))) for _ in range(60)]
    (place / "texts").mkdir()
    (place / "texts" / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    return place


def configured(place: Path, **sections: Any) -> PretrainConfig:
    """`TINY`, with the keys of `sections` over it."""
    given = {name: {**TINY.get(name, {}), **own} for name, own in sections.items()}
    wanted = {**TINY, **given}
    wanted["teacher"] = wanted.get("teacher", {"model": str(place / "teacher")})
    wanted["texts"] = {"files": [str(place / "texts")], **wanted["texts"]}
    return PretrainConfig.model_validate(wanted)


@pytest.fixture(scope="module")
def made(place: Path) -> Pretrained:
    return pretrain(configured(place), place / "made")


def test_the_loss_on_held_out_rows_falls_and_tokens_are_counted(made: Pretrained) -> None:
    losses = made.record.held_out
    assert [one.step for one in losses[:3]] == [0, 4, 7]
    assert losses[-1].loss < losses[1].loss < losses[0].loss
    assert losses[-1].parts["hidden"] < 0.9 * losses[0].parts["hidden"]
    corpus = made.record.corpus
    assert (corpus.documents, corpus.read, corpus.unread) == (60, 1, 0)
    assert made.record.tokens_seen == 2 * corpus.tokens["train"]
    assert corpus.rows["train"] * 16 >= corpus.tokens["train"] > corpus.rows["train"] * 15
    assert corpus.rows["held_out"] == round(0.1 * sum(corpus.rows.values()))


def test_the_folder_has_the_record_the_history_and_no_rows(made: Pretrained) -> None:
    assert made.folder is not None
    names = {file.name for file in made.folder.iterdir()}
    assert names == {"config.yaml", "environment.json", "history.jsonl", "result.json", "student"}
    text = (made.folder / "result.json").read_text(encoding="utf-8")
    assert PretrainRecord.from_json(text) == made.record
    lines = (made.folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == list(made.history)
    card = (made.folder / "student" / "README.md").read_text(encoding="utf-8")
    assert "A general encoder without a head" in card
    assert "from `teacher`, without labels, on `texts`: 60 documents" in card


def test_the_student_is_a_plain_encoder_without_a_head(made: Pretrained) -> None:
    assert made.folder is not None
    folder = made.folder / "student"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["BertModel"]
    assert not {"id2label", "layermix", "problem_type"} & set(config)
    assert not [name for name in load_file(folder / "model.safetensors") if "classifier" in name]
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer("a b c", return_tensors="pt")
    with torch.no_grad():
        found = model(**batch).last_hidden_state
        wanted = made.student.model.base_model(**batch).last_hidden_state
    assert torch.equal(found, wanted)
    loaded = load_classifier(str(made.folder), ("no", "yes"), seed=0)
    assert loaded.new_head


def test_distill_starts_from_it(
    made: Pretrained, place: Path, bert: Callable[..., Any], tokenizer: BertTokenizer
) -> None:
    bert(4, 32).save_pretrained(place / "tuned")
    tokenizer.save_pretrained(place / "tuned")
    rows = "".join(
        f"{letter} {letter} z\t{number % 2}\n" for number, letter in enumerate("abcdefgh")
    )
    (place / "rows.tsv").write_text(f"text\tlabel\n{rows}", encoding="utf-8")
    config = DistillConfig.model_validate(
        {
            "preset": "quick",
            "teacher": {"model": str(place / "tuned"), "allow_weak": True},
            "student": str(made.folder),
            "data": {"path": str(place / "rows.tsv"), "validation": str(place / "rows.tsv")},
            "training": {"epochs": 1, "learning_rate": 1e-9},
        }
    )
    result = distill(config)
    weights = result.student.model.base_model.state_dict()
    for name, value in made.student.model.base_model.state_dict().items():
        torch.testing.assert_close(weights[name], value, atol=1e-6, rtol=0)


def test_a_student_that_is_its_teacher_has_no_loss_at_the_start(place: Path) -> None:
    every = {"attention_weight": 1, "relation_weight": 1, "relation_heads": 4}
    config = configured(place, loss=every, training={"epochs": 1, "measure_every": 500})
    config = config.model_copy(update={"student": type(config.student)(layers=4)})
    result = pretrain(config)
    assert result.record.held_out[0].parts == {
        "attention": 0,
        "embedding": 0,
        "hidden": 0,
        "relation": pytest.approx(0, abs=1e-6),
    }
    assert "L_rel[3 → teacher layer 3, 4 heads]" in (result.record.formula or "")


def test_a_narrowed_start_is_closer_and_its_projection_is_the_way_back(place: Path) -> None:
    student = {"layers": 2, "hidden": 16, "heads": 1, "ffn": 32, "copied": "spread"}
    random = pretrain(configured(place, student=student))
    narrowed = pretrain(configured(place, student={**student, "start": "teacher", "dropout": 0.2}))
    assert narrowed.record.held_out[0].loss < 0.8 * random.record.held_out[0].loss
    assert narrowed.record.held_out[-1].loss < narrowed.record.held_out[0].loss
    assert narrowed.record.student.kind == "narrowed"
    assert narrowed.record.student.blocks == (1, 3)
    assert narrowed.student.model.config.hidden_dropout_prob == 0.2
    assert [note.code for note in narrowed.student.notes] == ["narrowed"]
    again = pretrain(configured(place, student={**student, "start": "teacher", "dropout": 0.2}))
    assert again.record.held_out == narrowed.record.held_out
    loss = {"projection_start": "random"}
    lost = pretrain(configured(place, student={**student, "start": "teacher"}, loss=loss))
    assert narrowed.record.held_out[0].loss < 0.8 * lost.record.held_out[0].loss


def test_p_can_be_fitted_before_the_first_step(made: Pretrained, place: Path) -> None:
    fitted = pretrain(configured(place, loss={"projection_start": "fitted"}))
    assert fitted.record.held_out[0].loss < 0.8 * made.record.held_out[0].loss


def test_the_last_layer_alone_is_learned(place: Path) -> None:
    result = pretrain(configured(place, mix={"strategy": "last_only"}, training={"epochs": 1}))
    assert result.record.held_out[-1].loss < result.record.held_out[0].loss
    assert result.record.alpha == ((0, 1),)


def test_relations_alone_fall(place: Path) -> None:
    loss = {"hidden_weight": 0, "embedding_weight": 0, "relation_weight": 1, "relation_heads": 8}
    result = pretrain(configured(place, loss={**loss, "relation_layer": 2}))
    assert list(result.record.held_out[0].parts) == ["relation"]
    assert result.record.held_out[-1].loss < 0.9 * result.record.held_out[0].loss


@pytest.mark.slow
def test_signals_from_the_cache_teach_nearly_the_same(made: Pretrained, place: Path) -> None:
    result = pretrain(configured(place, cache={"use": True}))
    assert result.record.signals == "stored in float16, computed in float32"
    for stored, live in zip(result.record.held_out, made.record.held_out, strict=True):
        assert stored.loss == pytest.approx(live.loss, rel=1e-3)


def test_a_masked_language_model_and_a_limit_of_tokens(
    place: Path, bert: Callable[..., Any], tokenizer: BertTokenizer
) -> None:
    BertForMaskedLM(bert(2, 16).config).save_pretrained(place / "masked")
    tokenizer.save_pretrained(place / "masked")
    teacher = {"model": str(place / "masked")}
    config = configured(place, teacher=teacher, texts={"tokens": 200}, training={"epochs": 1})
    corpus = pretrain(config).record.corpus
    special = 2 * sum(corpus.rows.values())
    assert 200 <= sum(corpus.tokens.values()) - special < 230  # separators are not counted


# -- what is refused -------------------------------------------------------------------------------


def test_everything_that_is_not_named_is_in_one_error(place: Path) -> None:
    config = PretrainConfig.model_validate({"loss": {"hidden_weight": 0, "embedding_weight": 0}})
    with pytest.raises(ConfigError) as caught:
        pretrain(config, place / "never")
    first, second, third = str(caught.value).splitlines()
    assert first.startswith("no teacher: give --teacher FOLDER")
    assert second.startswith("every term of the loss has weight 0")
    assert third.startswith("no texts to learn from: give --texts")
    assert not (place / "never.partial").exists()


@pytest.mark.parametrize(
    "student",
    [{}, {"start": "teacher", "heads": 3}],  # three heads do not divide 16: narrowing would tell
    ids=["random", "narrowed"],
)
def test_what_does_not_fit_together_is_refused_before_the_work(
    place: Path, student: dict[str, Any]
) -> None:
    loss = {"relation_weight": 1, "relation_heads": 5, "relation_layer": 4}
    config = configured(place, loss=loss, texts={"max_length": 64}, student=student)
    with pytest.raises(ConfigError) as caught:
        pretrain(config, place / "never")
    assert str(caught.value).splitlines() == [
        "texts.max_length is 64, but the models take at most 32 tokens; give at most that",
        *(
            f"the {name} wide, which 5 relation heads do not divide; give --loss.relation_heads a "
            "number that does"
            for name in ("teacher is 32", "student is 16")
        ),
        "loss.relation_layer is 4, but the teacher has 4 blocks, numbered 0 to 3",
    ]
    heads = configured(place, loss={"attention_weight": 1}, student={"heads": 4})
    with pytest.raises(ModelError, match="the student has 4 attention heads and the teacher 2"):
        pretrain(heads, place / "never")
    assert not (place / "never.partial").exists()


def test_a_student_with_another_tokenizer_is_refused(
    place: Path, bert: Callable[..., Any], tokenizer: BertTokenizer
) -> None:
    bert(2, 16).save_pretrained(place / "other")
    words = list(tokenizer.get_vocab())
    other = BertTokenizer(vocab={word: number for number, word in enumerate(sorted(words))})
    other.save_pretrained(place / "other")
    config = configured(place)
    student = type(config.student)(model=str(place / "other"))
    with pytest.raises(ModelError, match="other: its tokenizer is not the teacher's"):
        pretrain(config.model_copy(update={"student": student}))


def test_a_damaged_teacher_is_refused_before_the_work(
    place: Path, bert: Callable[..., Any], tokenizer: BertTokenizer
) -> None:
    broken = bert(4, 32)
    torch.nn.init.constant_(broken.bert.encoder.layer[3].output.dense.weight, float("nan"))
    broken.save_pretrained(place / "broken")
    tokenizer.save_pretrained(place / "broken")
    config = configured(place, teacher={"model": str(place / "broken")})
    with pytest.raises(ModelError, match="the loss part hidden of a first text is nan, wanted a"):
        pretrain(config, place / "never")


def test_too_little_text_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b\n", encoding="utf-8")
    (tmp_path / "blank.txt").write_text(" \n\n", encoding="utf-8")
    with pytest.raises(DataError, match="found 4 tokens, wanted more than one row of 16"):
        pretrain(configured(place, texts={"files": [str(tmp_path / "a.txt")]}))
    with pytest.raises(DataError, match="the file is empty"):
        pretrain(configured(place, texts={"files": [str(tmp_path / "blank.txt")]}))


# -- resuming --------------------------------------------------------------------------------------


def stopped(config: PretrainConfig, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends as by Ctrl-C at its second measurement."""
    measure, calls = held_out.HeldOutLosses.__call__, 0

    def measured(losses: held_out.HeldOutLosses) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return measure(losses)

    with monkeypatch.context() as patch:
        patch.setattr(held_out.HeldOutLosses, "__call__", measured)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, out)


def test_a_stopped_run_goes_on_with_the_same_bytes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"save_every": 5, "measure_every": 3, "epochs": 1, "log_every": 2}
    config = configured(place, training=training, mix={"strategy": "learned"})
    straight = pretrain(config, tmp_path / "straight")
    stopped(config, tmp_path / "broken", monkeypatch)
    partial = tmp_path / "broken.partial"
    assert sorted(file.name for file in (partial / "checkpoints").iterdir()) == ["checkpoint-5"]
    resumed = pretrain(config, tmp_path / "broken", resume=True)
    assert resumed.record.timings.resumed
    assert resumed.record.alpha != resumed.record.mix.start
    assert not partial.exists()
    assert resumed.record.held_out == straight.record.held_out
    for name in ("history.jsonl", "alpha.jsonl", "student/model.safetensors"):
        same = [(tmp_path / run / name).read_bytes() for run in ("straight", "broken")]
        assert same[0] == same[1], name


def test_damaged_rows_are_packed_again_and_other_texts_are_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tmp_path / "a.txt"
    content = (place / "texts" / "a.txt").read_text(encoding="utf-8")
    texts.write_text(content, encoding="utf-8")
    training = {"save_every": 5, "measure_every": 3, "epochs": 1}
    config = configured(place, texts={"files": [str(texts)]}, training=training)
    stopped(config, tmp_path / "run", monkeypatch)
    rows = tmp_path / "run.partial" / "rows" / "rows.arrow"
    rows.write_bytes(rows.read_bytes()[:-100])
    texts.write_text(content.replace("a", "b"), encoding="utf-8")
    with pytest.raises(ResumeError, match="something has changed since it started: the data"):
        pretrain(config, tmp_path / "run", resume=True)
    texts.write_text(content, encoding="utf-8")
    rows.write_bytes(b"")
    assert pretrain(config, tmp_path / "run", resume=True).record.timings.resumed


def test_a_run_that_lacks_only_its_name_is_finished(
    made: Pretrained, place: Path, tmp_path: Path
) -> None:
    assert made.folder is not None
    shutil.copytree(made.folder, tmp_path / "made.partial")
    result = pretrain(configured(place), tmp_path / "made", resume=True)
    assert result.record == made.record
    assert list(result.history) == list(made.history)
    ours, theirs = (one.student.model.base_model.state_dict() for one in (result, made))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
