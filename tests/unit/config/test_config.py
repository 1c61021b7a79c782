import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from layermix.config import (
    PRESETS,
    DataConfig,
    DistillConfig,
    LossConfig,
    MixConfig,
    StudentConfig,
    TeachConfig,
    TrainingConfig,
    field_names,
    json_schema,
    load,
    section_kinds,
    to_yaml,
)
from layermix.errors import ConfigError

ROOT = Path(__file__).parents[3]
Kind = type[DistillConfig] | type[TeachConfig]
KINDS = (DistillConfig, TeachConfig)


@pytest.fixture
def yaml(tmp_path: Path) -> Any:
    """`yaml(text)`: the path of a YAML file that holds it."""

    def write(text: str) -> Path:
        file = tmp_path / "c.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def problems(kind: Kind, file: Path | None = None, flags: dict[str, str] | None = None) -> str:
    """The message with which this config is refused."""
    with pytest.raises(ConfigError) as caught:
        load(kind, file, flags)
    return str(caught.value)


# -- what it starts from ---------------------------------------------------------------------------


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
    assert (loss.supervised, loss.logit, loss.hidden) == (
        "cross_entropy",
        "soft_cross_entropy",
        "mean",
    )
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
    assert (loss.logit, loss.hidden, loss.projection_bias) == (
        "tinybert_mean",
        "tinybert_mean",
        True,
    )


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
        ({}, StudentConfig()),
        (StudentConfig(layers=2), StudentConfig(layers=2)),
    ],
)
def test_a_student_of_ones_own_replaces_the_presets(student: Any, wanted: StudentConfig) -> None:
    config = DistillConfig.model_validate({"preset": "paper", "student": student})
    assert config.student == wanted
    assert config.training.warmup == 300


def test_an_empty_section_says_nothing(yaml: Any) -> None:
    config = load(DistillConfig, yaml("preset: paper\nstudent:\nmix:\n"))
    assert config == DistillConfig(preset="paper")


def test_a_teach_config_with_one_training_key_keeps_the_others_defaults(yaml: Any) -> None:
    config = load(TeachConfig, yaml("training: {batch_size: 8}"), {"training.warmup": "0"})
    training = TeachConfig().training
    assert (training.epochs, training.learning_rate) == (3, 5e-5)
    assert config.training == training.model_copy(update={"batch_size": 8, "warmup": 0})


# -- files, flags, words ---------------------------------------------------------------------------


def test_flags_go_over_the_file_and_the_file_over_the_preset(yaml: Any) -> None:
    file = yaml("preset: paper\nseed: 4\nmix: {strategy: fixed, start: diagonal}\n")
    config = load(DistillConfig, file, {"mix.strategy": "random", "training.epochs": "2"})
    assert (config.seed, config.mix.strategy, config.mix.start) == (4, "random", "diagonal")
    assert (config.training.epochs, config.training.batch_size) == (2, 16)


@pytest.mark.parametrize("text", ["teacher: x", "teacher: {model: x}", "teacher: {allow_weak: 1}"])
@pytest.mark.parametrize("flag", ["teacher", "teacher.model"])
def test_the_short_flag_names_the_first_field_of_a_section(yaml: Any, text: str, flag: str) -> None:
    config = load(DistillConfig, yaml(text), {flag: "y"})
    assert config.teacher.model == "y"
    assert config.teacher.allow_weak == ("allow_weak" in text)


def test_sections_may_be_one_word(yaml: Any) -> None:
    file = yaml("teacher: T\nstudent: S\ndata: D\nmix: fixed\n")
    config = load(DistillConfig, file, {"mix.start": "diagonal"})
    assert (config.teacher.model, config.student.model, config.data.path) == ("T", "S", "D")
    assert (config.mix.strategy, config.mix.start) == ("fixed", "diagonal")
    assert DistillConfig.model_validate({"data": Path("D")}).data.path == "D"
    assert "loss: Input should be a valid dictionary" in problems(DistillConfig, yaml("loss: mean"))


def test_a_word_goes_over_a_preset_as_its_field_does() -> None:
    config = DistillConfig.model_validate({"preset": "paper", "mix": "fixed"})
    assert (config.mix.strategy, config.mix.teacher_layers) == ("fixed", (2, 5, 8, 11))


def test_numbers_as_people_write_them(yaml: Any) -> None:
    file = yaml("training: {learning_rate: 1e-3, warmup: 5}\nmix: {teacher_layers: 3}\n")
    config = load(DistillConfig, file, {"student.blocks": "0, 2,1", "loss.entropy_weight": "-1e-2"})
    assert (config.training.learning_rate, config.training.warmup) == (1e-3, 5)
    assert (config.mix.teacher_layers, config.student.blocks) == ((3,), (0, 2, 1))
    assert config.loss.entropy_weight == -0.01


def test_comma_lists_of_columns(yaml: Any) -> None:
    assert load(TeachConfig, None, {"data.text_columns": "a, b"}).data.text_columns == ("a", "b")
    listed = load(TeachConfig, yaml('data: {text_columns: ["a, b"]}'))
    assert listed.data.text_columns == ("a, b",)


@pytest.mark.parametrize("value", [True, False])
def test_a_flag_turns_a_switch_of_the_preset_on_or_off(value: bool) -> None:
    config = load(DistillConfig, None, {"preset": "tinybert", "loss.projection_bias": value})
    assert config.loss.projection_bias is value


def test_variables_and_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLUE", "/glue")
    monkeypatch.setenv("HOME", "/home/me")
    config = DistillConfig.model_validate({"data": "${GLUE}/mrpc", "teacher": "~/t"})
    assert (config.data.path, config.teacher.model) == ("/glue/mrpc", "/home/me/t")
    monkeypatch.delenv("GLUE")
    message = problems(DistillConfig, None, {"data": "$GLUE/mrpc", "data.test": "${GLUE}/t"})
    assert "--data: the environment variable GLUE is not set" in message
    assert "--data.test: the environment variable GLUE is not set" in message


# -- problems --------------------------------------------------------------------------------------


def test_all_problems_at_once_in_the_words_that_were_typed(yaml: Any) -> None:
    file = yaml(
        "mix:\n"
        "  stratgy: fixed\n"
        "loss:\n"
        "  temperature: -1\n"
        "data: $UNSET_NAME/x\n"
        "student: {blocks: [1, a], layers: 3}\n"
    )
    flags = {"training.epochs": "0", "mix.learning_rate": "fast", "seed": "1.5"}
    lines = problems(DistillConfig, file, flags).splitlines()
    assert lines[0] == "7 problems in the config:"
    assert sorted(lines[1:]) == sorted(
        [
            "  --seed: Input should be a valid integer, unable to parse string as an integer, "
            "found '1.5'",
            f"  {file}:6: student.blocks: Input should be a valid integer, unable to parse string "
            "as an integer, found 'a'",
            f"  {file}:5: data: the environment variable UNSET_NAME is not set",
            "  --mix.learning_rate: Input should be a valid number, unable to parse string as a "
            "number, found 'fast'",
            f"  {file}:2: mix.stratgy: unknown key; did you mean mix.strategy?",
            f"  {file}:4: loss.temperature: Input should be greater than 0, found -1",
            "  --training.epochs: Input should be greater than or equal to 1, found '0'",
        ]
    )


@pytest.mark.parametrize(
    ("kind", "text", "suggestion"),
    [
        (DistillConfig, "trainig: {epochs: 3}", "training"),
        (DistillConfig, "epochs: 3", "training.epochs"),
        (DistillConfig, "mix: {temperature: 2}", "loss.temperature"),
        (DistillConfig, "model: x", "student.model or teacher.model"),
        (TeachConfig, "modle: x", "model"),
    ],
)
def test_an_unknown_key_gets_a_suggestion(
    yaml: Any, kind: Kind, text: str, suggestion: str
) -> None:
    message = problems(kind, yaml(text))
    assert message.startswith("1 problem in the config:")
    assert message.endswith(f"unknown key; did you mean {suggestion}?")


def test_a_key_like_no_other_gets_none(yaml: Any) -> None:
    assert problems(DistillConfig, yaml("zzz: 1")).endswith("c.yaml:1: zzz: unknown key")


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ({"model": "m", "layers": 3}, "model and layers"),
        ({"blocks": [0], "layers": 3}, "blocks and layers"),
        ({"model": "m", "hidden": 8, "ffn": 8}, "model and hidden/ffn"),
        ({"blocks": [0], "hidden": 8}, "blocks and hidden"),
    ],
)
def test_a_student_is_described_in_one_way(student: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=f"{told} contradict each other; give a model, or"):
        StudentConfig(**student)


def test_contradicting_places_are_both_named(yaml: Any) -> None:
    message = problems(DistillConfig, yaml("seed: 1\nstudent: m"), {"student.layers": "2"})
    assert "--student.layers" in message
    assert "c.yaml:2: student: model and layers contradict each other" in message


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"path": "d", "train": "t"}, "path and train contradict each other"),
        ({"validation": "v"}, "need a training file beside them"),
        ({"path": "d", "test": "t"}, "need a training file beside them"),
    ],
)
def test_data_come_from_one_place(data: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DataConfig(**data)


def test_a_file_takes_others_beside_it() -> None:
    assert DataConfig(path="a.csv", validation="b.csv").validation == "b.csv"


def test_a_section_that_is_none_is_told_though_a_flag_is_for_it(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("training: 5\n")
    with pytest.raises(ConfigError, match=r"training.*, found 5"):
        load(DistillConfig, file, {"training.epochs": "2"})


@pytest.mark.parametrize("kind", [DistillConfig, TeachConfig])
def test_the_schema_has_the_defaults_that_a_run_has(kind: Any) -> None:
    schema, defaults = json_schema(kind), kind().model_dump(mode="json")
    for name, section in section_kinds(kind).items():
        assert schema["properties"][name]["default"] == defaults[name]
        definition = schema["$defs"][section.__name__]
        fields = definition.get("properties") or definition["anyOf"][0]["properties"]
        assert {field: own["default"] for field, own in fields.items()} == defaults[name]


@pytest.mark.parametrize(
    "field", ["training.learning_rate", "loss.logit_weight", "mix.learning_rate"]
)
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_infinite_numbers_are_refused(field: str, value: str) -> None:
    assert f"--{field}: Input should be" in problems(DistillConfig, None, {field: value})


@pytest.mark.parametrize("blocks", ["", "0,,1", "-1", "0;1"])
def test_lists_that_are_none(blocks: str) -> None:
    assert "--student.blocks: Input should be" in problems(
        DistillConfig, None, {"student.blocks": blocks}
    )


def test_an_unknown_preset() -> None:
    message = problems(DistillConfig, None, {"preset": "papre"})
    assert "--preset: Input should be 'default', 'paper' or 'tinybert', found 'papre'" in message


def test_a_key_that_stands_twice(yaml: Any) -> None:
    file = yaml("seed: 1\nmix:\n  strategy: fixed\n  strategy: uniform\nseed: 2\n")
    assert problems(DistillConfig, file) == (
        "a key may be given only once:\n"
        f"  {file}:4: mix.strategy stands on line 3 already\n"
        f"  {file}:5: seed stands on line 1 already"
    )


def test_files_that_are_no_config(yaml: Any, tmp_path: Path) -> None:
    assert "no such file; give the path of a YAML config" in problems(
        DistillConfig, tmp_path / "nosuch.yaml"
    )
    assert "not readable as YAML" in problems(DistillConfig, yaml("a: [1"))
    assert "not readable as YAML" in problems(DistillConfig, tmp_path)
    assert "found a list, wanted `key: value` lines" in problems(DistillConfig, yaml("- 1"))
    assert "found a str, wanted `key: value` lines" in problems(DistillConfig, yaml("hello"))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("teacher: Müller".encode("latin-1"))
    assert "not readable as YAML" in problems(DistillConfig, latin)
    assert load(DistillConfig, yaml("# nothing yet\n")) == DistillConfig()


def test_python_gets_pydantics_own_error() -> None:
    with pytest.raises(ValidationError):
        DistillConfig.model_validate({"seed": -1})
    with pytest.raises(ValidationError):
        DistillConfig.model_validate("paper")


# -- round trip ------------------------------------------------------------------------------------

NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="$~"), min_size=1, max_size=8
)
COUNTS = st.integers(1, 10**6)
RATES = st.floats(1e-9, 1e3)
LAYERS = st.lists(st.integers(0, 99), min_size=1, max_size=4)


def sections(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """A dictionary with some of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


STUDENTS = st.one_of(
    st.fixed_dictionaries({"model": NAMES}),
    st.fixed_dictionaries({"blocks": LAYERS}),
    sections(layers=COUNTS, hidden=COUNTS, heads=COUNTS, ffn=COUNTS),
)
DATA = st.one_of(
    sections(path=NAMES, unlabeled=NAMES, text_columns=st.lists(NAMES, min_size=1, max_size=2)),
    st.fixed_dictionaries(
        {"train": NAMES}, optional={"validation": NAMES, "test": NAMES, "label_column": NAMES}
    ),
    sections(quoting=st.sampled_from(["auto", "raw"]), max_length=st.integers(4, 512)),
)
TRAINING = sections(
    epochs=COUNTS,
    learning_rate=RATES,
    warmup=st.floats(0, 1e4),
    selection=st.sampled_from(["none", "holdout"]),
    holdout_fraction=st.floats(0.01, 0.99),
)
DISTILL = sections(
    preset=st.sampled_from(list(PRESETS)),
    seed=st.integers(0, 2**31 - 1),
    teacher=sections(model=NAMES, allow_weak=st.booleans()),
    student=STUDENTS,
    data=DATA,
    mix=sections(strategy=st.sampled_from(["fixed", "learned"]), teacher_layers=LAYERS),
    loss=sections(
        logit=st.sampled_from(["kl", "mse"]),
        entropy_weight=st.floats(-10, 10),
        projection_bias=st.booleans(),
    ),
    training=TRAINING,
    cache=sections(use=st.booleans(), max_gb=st.floats(0, 1e3)),
)
TEACH = sections(seed=st.integers(0, 99), model=NAMES, data=DATA, training=TRAINING)


@given(st.one_of(DISTILL.map(lambda v: (DistillConfig, v)), TEACH.map(lambda v: (TeachConfig, v))))
def test_a_config_comes_back_from_its_yaml(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Kind, dict[str, Any]]
) -> None:
    kind, values = drawn
    config = kind.model_validate(values)
    file = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    again = load(kind, file)
    assert again == config
    assert to_yaml(again) == to_yaml(config)


# -- what is made from it --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_and_section_is_documented(kind: Kind) -> None:
    for name, field in field_names(kind).items():
        assert field.description, name
    for name, section in section_kinds(kind).items():
        assert section.__doc__, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_completes_and_explains_every_key(kind: Kind) -> None:
    schema = json.loads(json.dumps(json_schema(kind)))
    for name, field in field_names(kind).items():
        section, _, leaf = name.rpartition(".")
        node = schema
        if section:
            node = schema["$defs"][section_kinds(kind)[section].__name__]
            node = node["anyOf"][0] if "anyOf" in node else node
        assert node["additionalProperties"] is False
        assert node["properties"][leaf]["description"] == " ".join(
            (field.description or "").split()
        )


def test_the_schema_allows_what_may_be_written_short() -> None:
    schema = json_schema(DistillConfig)["$defs"]
    assert schema["MixConfig"]["anyOf"][1]["type"] == "string"
    assert "anyOf" not in schema["LossConfig"]
    lists, null = schema["StudentConfig"]["anyOf"][0]["properties"]["blocks"]["anyOf"]
    assert [kind["type"] for kind in lists["anyOf"]] == ["array", "integer", "string"]
    assert null == {"type": "null"}


def test_weights_of_a_mix_are_typed_as_rows() -> None:
    flags = {"mix.strategy": "fixed", "mix.weights": "0.9,0.1; 0.5, 0.5"}
    assert load(DistillConfig, None, flags).mix.weights == ((0.9, 0.1), (0.5, 0.5))
    assert MixConfig(weights=[[1e-3, 1 - 1e-3]]).weights == ((1e-3, 1 - 1e-3),)


@pytest.mark.parametrize(
    ("strategy", "weights", "told"),
    [
        ("uniform", "1", "weights go with the strategy fixed or learned, not uniform"),
        ("fixed", "0.5,0.4;1,0", "weights of row 0 sum to 0.9, wanted 1"),
        ("learned", "0.5,0.5;1,0", "a weight of row 1 is 0, from where a learned α cannot start"),
        ("fixed", "2,-1", "less than or equal to 1"),
        ("fixed", "a,b", "valid number"),
    ],
)
def test_weights_that_are_no_distribution_are_refused(
    strategy: str, weights: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(DistillConfig, None, {"mix.strategy": strategy, "mix.weights": weights})
    assert told in str(caught.value)
    assert "--mix" in str(caught.value)


def committed() -> list[Path]:
    return sorted((ROOT / "configs").glob("*.yaml"))  # studies have a test of their own


@pytest.mark.parametrize("file", committed(), ids=lambda file: file.name)
def test_committed_configs_hold_together(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERMIX_GLUE", "/glue")
    teaches = file.name.startswith("teach-") or "\nmodel:" in file.read_text(encoding="utf-8")
    assert load(TeachConfig if teaches else DistillConfig, file)


def test_there_are_committed_configs() -> None:
    assert committed()


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError):
        LossConfig().logit = "kl"
