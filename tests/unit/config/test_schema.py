"""What a config holds, which values it takes, and what a preset changes."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from layermix.config import (
    PRESETS,
    DataConfig,
    DistillConfig,
    LossConfig,
    MixConfig,
    StudentConfig,
    TeachConfig,
    TeacherConfig,
    TrainingConfig,
    load,
    with_implied_preset,
)
from layermix.errors import ConfigError

from .conftest import problems


def test_the_paper_preset_is_table_1_and_our_choices() -> None:
    config = DistillConfig(preset="paper")
    assert config.student.model == "huawei-noah/TinyBERT_General_4L_312D"
    assert config.mix == MixConfig(
        strategy="learned", teacher_layers=(2, 5, 8, 11), start="uniform", learning_rate=1e-3
    )
    loss = config.loss
    weights = (loss.supervised_weight, loss.logit_weight, loss.hidden_weight, loss.entropy_weight)
    assert weights == (1, 1, 1, 0.1)
    assert (loss.embedding_weight, loss.temperature) == (0, 1)
    assert (loss.supervised, loss.logit) == (None, None)  # that of the kind of label
    assert loss.hidden == "mean"
    assert (loss.projection, loss.projection_bias) == ("shared", False)
    training = config.training
    assert (training.epochs, training.batch_size, training.eval_batch_size) == (10, 16, 32)
    assert (training.learning_rate, training.warmup, training.schedule) == (3e-5, 300, "linear")
    assert (training.weight_decay, training.max_grad_norm) == (0.01, 1.0)
    assert training.selection == "none"
    assert config.data.max_length == 128


def test_the_tinybert_preset_is_its_recipe_in_one_stage() -> None:
    config = DistillConfig(preset="tinybert")
    assert config.mix.strategy == "fixed"
    loss = config.loss
    assert (loss.supervised_weight, loss.embedding_weight, loss.attention_weight) == (0, 1, 1)
    assert (loss.logit, loss.hidden, loss.attention) == ("tinybert_mean",) * 3
    assert loss.projection_bias
    assert (config.training.padding, config.data.max_length) == ("max_length", 128)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_only_what_differs_or_what_the_paper_fixes(name: str) -> None:
    config = DistillConfig.model_validate({"preset": name})
    assert DistillConfig.model_validate(config.model_dump()) == config


def test_what_the_user_says_goes_over_the_preset() -> None:
    config = DistillConfig.model_validate({"preset": "paper", "mix": {"strategy": "uniform"}})
    assert config.mix.strategy == "uniform"
    assert config.mix.teacher_layers == (2, 5, 8, 11)


def test_a_section_object_goes_over_the_preset_field_by_field() -> None:
    config = DistillConfig(
        preset="paper", mix=MixConfig(strategy="fixed"), training=TrainingConfig(epochs=1)
    )
    assert (config.mix.strategy, config.mix.teacher_layers) == ("fixed", (2, 5, 8, 11))
    assert (config.training.epochs, config.training.warmup) == (1, 300)


@pytest.mark.parametrize(
    ("student", "wanted"),
    [
        ({"layers": 3}, StudentConfig(layers=3)),
        ({"blocks": "0,1"}, StudentConfig(blocks=(0, 1))),
        ({"hidden": 32, "heads": 2}, StudentConfig(hidden=32, heads=2)),
        ("mine", StudentConfig(model="mine")),
        ({}, StudentConfig(model=PRESETS["paper"]["student"]["model"])),
        (StudentConfig(layers=2), StudentConfig(layers=2)),
        ({"dropout": 0}, StudentConfig(model=PRESETS["paper"]["student"]["model"], dropout=0)),
    ],
)
def test_a_student_of_ones_own_replaces_the_presets_model(
    student: Any, wanted: StudentConfig
) -> None:
    config = DistillConfig.model_validate({"preset": "paper", "student": student})
    assert config.student == wanted
    assert config.training.warmup == 300


def test_the_blocks_are_yours_and_the_rest_is_the_presets() -> None:
    three = DistillConfig.model_validate({"student": {"layers": 3}})
    assert three.student == StudentConfig(layers=3, copied="spread", dropout=0)
    new = DistillConfig.model_validate({"student": {"hidden": 32}})
    assert new.student == StudentConfig(hidden=32, copied="spread", dropout=0)


@pytest.mark.parametrize(
    ("given", "wanted"), [("auto", "auto"), ("12", 12), (0, 0), (2e4, 20000), (None, None)]
)
def test_a_number_of_new_rows_or_auto(given: Any, wanted: Any) -> None:
    assert load(DistillConfig, None, {"data.augment": given}).data.augment == wanted


@pytest.mark.parametrize("given", ["some", "-3", 1.5, [], "AUTO"])
def test_no_number_of_new_rows(given: Any) -> None:
    message = problems(DistillConfig, None, {"data.augment": given})
    assert f"--data.augment: found {given!r}, wanted auto or a whole number of rows" in message


def test_an_empty_section_says_nothing(yaml: Any) -> None:
    config = load(DistillConfig, yaml("preset: paper\nstudent:\nmix:\n"))
    assert config == DistillConfig(preset="paper")


def test_a_teach_config_with_one_training_key_keeps_the_others_defaults(yaml: Any) -> None:
    config = load(TeachConfig, yaml("training: {batch_size: 8}"), {"training.warmup": "0"})
    training = TeachConfig().training
    assert (training.epochs, training.learning_rate) == (3, 5e-5)
    assert config.training == training.model_copy(update={"batch_size": 8, "warmup": 0})


def test_a_word_goes_over_a_preset_as_its_field_does() -> None:
    config = DistillConfig.model_validate({"preset": "paper", "mix": "fixed"})
    assert (config.mix.strategy, config.mix.teacher_layers) == ("fixed", (2, 5, 8, 11))


@pytest.mark.parametrize("value", [True, False])
def test_a_flag_turns_a_switch_of_the_preset_on_or_off(value: bool) -> None:
    config = load(DistillConfig, None, {"preset": "tinybert", "loss.projection_bias": value})
    assert config.loss.projection_bias is value


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ({"model": "m", "blocks": [0], "layers": 3}, "model and blocks and layers"),
        ({"blocks": [0], "layers": 3}, "blocks and layers"),
        ({"model": "m", "hidden": 8, "ffn": 8}, "model and hidden/ffn"),
        ({"blocks": [0], "hidden": 8}, "blocks and hidden"),
    ],
)
def test_a_student_is_described_in_one_way(student: dict[str, Any], told: str) -> None:
    with pytest.raises(
        ValidationError, match=f"{told} contradict each other; give a model, blocks"
    ):
        StudentConfig(**student)


@pytest.mark.parametrize("student", [{}, {"layers": 3}, {"blocks": [0]}, {"model": "m"}])
def test_only_a_student_of_other_sizes_starts_from_a_narrowed_teacher(
    student: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError, match="start is teacher, which is for other sizes"):
        StudentConfig(**student, start="teacher")
    assert StudentConfig(hidden=8, start="teacher").start == "teacher"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"path": "d", "train": "t"}, "path and train contradict each other"),
        ({"validation": "v"}, "need a training file"),
        ({"path": "d", "test": "t"}, "need a training file"),
    ],
)
def test_data_come_from_one_place(data: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DataConfig(**data)


@pytest.mark.parametrize("encoding", ["utf-16", "cp037", "rot13", "base64", "no-such", ""])
def test_an_encoding_is_one_that_python_knows_and_contains_ascii(encoding: str) -> None:
    told = problems(DistillConfig, None, {"data.encoding": encoding})
    assert f"--data.encoding: found {encoding!r}, wanted the name of an encoding" in told
    assert DataConfig(encoding="gb18030").encoding == "gb18030"


def test_a_file_takes_others_beside_it() -> None:
    assert DataConfig(path="a.csv", validation="b.csv").validation == "b.csv"


@pytest.mark.parametrize(
    "field", ["training.learning_rate", "loss.logit_weight", "mix.learning_rate"]
)
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_infinite_numbers_are_refused(field: str, value: str) -> None:
    message = problems(DistillConfig, None, {field: value})
    assert f"--{field}: found '{value}', wanted a finite number" in message


@pytest.mark.parametrize(
    ("blocks", "told"),
    [
        ("", "found '', wanted a whole number"),
        ("0,,1", "found '', wanted a whole number"),
        ("-1", "found '-1', wanted 0 or more"),
        ("0;1", "found '0;1', wanted a whole number"),
    ],
)
def test_lists_that_are_none(blocks: str, told: str) -> None:
    message = problems(DistillConfig, None, {"student.blocks": blocks})
    assert f"--student.blocks: {told}" in message


@pytest.mark.parametrize(
    ("given", "preset"),
    [
        ({}, "soft"),
        ({"data.path": "x.csv"}, "soft"),
        ({"teacher": "a,b"}, "soft"),
        ({"teacher": "a"}, "default"),
        ({"teacher": "a,b", "preset": "default"}, "default"),
        ({"preset": "paper"}, "paper"),
    ],
)
def test_without_a_single_teacher_a_command_starts_from_probabilities(
    given: dict[str, str], preset: str
) -> None:
    config = load(DistillConfig, None, given, with_implied_preset)
    assert config == load(DistillConfig, None, given | {"preset": preset})
    assert load(DistillConfig, None, {}).preset == "default"


def test_several_teachers_are_named_with_commas(tmp_path: Path) -> None:
    assert TeacherConfig().models == ()
    assert TeacherConfig(model="a, ~/b,").models == ("a", str(Path("~/b").expanduser()))
    odd = tmp_path / "one,two"
    odd.mkdir()
    assert TeacherConfig(model=str(odd)).models == (str(odd),)


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ("balanced", "balanced"),
        ("bad=2,good=0.5", {"bad": 2.0, "good": 0.5}),
        ("a=b=3", {"a=b": 3.0}),
        ({"1": 2}, {"1": 2.0}),
        (None, None),
    ],
)
def test_class_weights(given: Any, weights: Any) -> None:
    config = TeachConfig.model_validate({"loss": {"class_weights": given}})
    assert config.loss.class_weights == weights
    assert load(TeachConfig, None, {"loss.class_weights": given}) == config


@pytest.mark.parametrize("given", ["bad", "bad=2,good", "bad=0", "bad=-1", "=", 3, {}, "bad=nan"])
def test_what_is_no_class_weights(given: Any) -> None:
    message = problems(DistillConfig, None, {"loss.class_weights": given})
    assert (
        f"--loss.class_weights: found {given!r}, wanted balanced, or a positive weight" in message
    )


def test_patience_needs_held_out_rows() -> None:
    message = problems(TeachConfig, None, {"training.patience": 2})
    assert "patience needs rows that are not trained on; add selection: holdout" in message
    chosen = {"training.patience": "2", "training.selection": "holdout"}
    assert load(TeachConfig, None, chosen).training.patience == 2


def test_an_unknown_preset() -> None:
    message = problems(DistillConfig, None, {"preset": "papre"})
    assert (
        "--preset: found 'papre', wanted 'default', 'quick', 'soft', 'paper' or 'tinybert'"
        in message
    )


def test_python_gets_pydantics_own_error() -> None:
    with pytest.raises(ValidationError):
        DistillConfig.model_validate({"seed": -1})
    with pytest.raises(ValidationError):
        DistillConfig.model_validate("paper")


def test_weights_of_a_mix_are_typed_as_rows() -> None:
    flags = {"mix.strategy": "fixed", "mix.weights": "0.9,0.1; 0.5, 0.5"}
    assert load(DistillConfig, None, flags).mix.weights == ((0.9, 0.1), (0.5, 0.5))
    assert MixConfig(weights=[[1e-3, 1 - 1e-3]]).weights == ((1e-3, 1 - 1e-3),)


@pytest.mark.parametrize(
    ("strategy", "weights", "told"),
    [
        ("uniform", "1", "weights need the strategy fixed or learned, found uniform"),
        ("fixed", "0.5,0.4;1,0", "weights of row 0 sum to 0.9, wanted 1"),
        ("learned", "0.5,0.5;1,0", "a weight of row 1 is 0; a learned α cannot start from 0"),
        ("fixed", "2,-1", "found '2', wanted at most 1"),
        ("fixed", "a,b", "found 'a', wanted a number"),
    ],
)
def test_weights_that_are_no_distribution_are_refused(
    strategy: str, weights: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(DistillConfig, None, {"mix.strategy": strategy, "mix.weights": weights})
    assert told in str(caught.value)
    assert "--mix" in str(caught.value)


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError):
        LossConfig().logit = "kl"
