"""Configs from YAML and flags: errors give the line, and a config comes back from its own YAML."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layermix.config import PRESETS, DistillConfig, TeachConfig, load, read_yaml, to_yaml
from layermix.errors import ConfigError

from .conftest import Kind, problems

ROOT = Path(__file__).parents[3]


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
    assert "loss: found 'mean', wanted a section of keys and values" in problems(
        DistillConfig, yaml("loss: mean")
    )


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
            "  --seed: found '1.5', wanted a whole number",
            f"  {file}:6: student.blocks: found 'a', wanted a whole number",
            f"  {file}:5: data: the environment variable UNSET_NAME is not set",
            "  --mix.learning_rate: found 'fast', wanted a number",
            f"  {file}:2: mix.stratgy: unknown key; did you mean mix.strategy?",
            f"  {file}:4: loss.temperature: found -1, wanted more than 0",
            "  --training.epochs: found '0', wanted 1 or more",
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


def test_for_a_key_like_no_other_the_keys_of_its_section_are_listed(yaml: Any) -> None:
    assert problems(TeachConfig, yaml("zzz: 1")).endswith(
        "c.yaml:1: zzz: unknown key; the keys are seed, model, data, loss, training"
    )
    assert problems(DistillConfig, yaml("teacher: {zzz: 1}")).endswith(
        "c.yaml:1: teacher.zzz: unknown key; the keys of teacher are model, allow_weak"
    )


def test_contradicting_places_are_both_named(yaml: Any) -> None:
    message = problems(DistillConfig, yaml("seed: 1\nstudent: m"), {"student.hidden": "8"})
    assert "--student.hidden" in message
    assert "c.yaml:2: student: model and hidden contradict each other" in message


def test_a_section_that_is_none_is_told_though_a_flag_is_for_it(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("training: 5\n")
    with pytest.raises(ConfigError, match=r"training: found 5, wanted a section"):
        load(DistillConfig, file, {"training.epochs": "2"})


def test_what_is_taken_over_from_another_mapping_may_be_set_again(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "a: &a\n  x: 1\n  y: {z: 2}\nb: &b {w: 5}\nc:\n  <<: [*a, *b]\n  y: {z: 3}\n  v: 4\n"
    )
    value, lines = read_yaml(file)
    assert value["c"] == {"x": 1, "y": {"z": 3}, "w": 5, "v": 4}
    assert {name: lines[name] for name in ("c.x", "c.w", "c.y", "c.y.z", "c.v")} == {
        "c.x": 2,
        "c.w": 4,
        "c.y": 7,
        "c.y.z": 7,
        "c.v": 8,
    }
    file.write_text("a: &a {x: 1}\nc:\n  <<: *a\n  x: 2\n  x: 3\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:5: c\.x is already set on line 4"):
        read_yaml(file)


def test_a_key_that_stands_twice(yaml: Any) -> None:
    file = yaml("seed: 1\nmix:\n  strategy: fixed\n  strategy: uniform\nseed: 2\n")
    assert problems(DistillConfig, file) == (
        "found keys that are set twice; keep one of each:\n"
        f"  {file}:4: mix.strategy is already set on line 3\n"
        f"  {file}:5: seed is already set on line 1"
    )


def test_files_that_are_no_config(yaml: Any, tmp_path: Path) -> None:
    assert "no such file; give the path of a YAML file" in problems(
        DistillConfig, tmp_path / "nosuch.yaml"
    )
    assert problems(DistillConfig, tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    assert "found a list, wanted `key: value` lines" in problems(DistillConfig, yaml("- 1"))
    assert "found a str, wanted `key: value` lines" in problems(DistillConfig, yaml("hello"))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("teacher: Müller".encode("latin-1"))
    assert "found the byte 0xfc, wanted UTF-8 text" in problems(DistillConfig, latin)
    assert load(DistillConfig, yaml("# nothing yet\n")) == DistillConfig()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: 1\nmix:\n\tstrategy: fixed\n", ":3: cannot be read as YAML: "),
        ("seed: 1\nmix: a: b\n", ":2: cannot be read as YAML: "),
        ("seed: 1\nmix: \a\n", ": cannot be read as YAML: found the character U+0007 on line 2"),
    ],
)
def test_wrong_yaml_is_told_with_its_file_and_line(yaml: Any, text: str, told: str) -> None:
    file = yaml(text)
    message = problems(DistillConfig, file)
    assert message.startswith(f"{file}{told}")
    assert "string>" not in message


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


@settings(deadline=None)
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


def committed() -> list[Path]:
    return sorted((ROOT / "configs").glob("*.yaml"))  # studies have a test of their own


@pytest.mark.parametrize("file", committed(), ids=lambda file: file.name)
def test_committed_configs_hold_together(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERMIX_GLUE", "/glue")
    teaches = file.name.startswith("teach-") or "\nmodel:" in file.read_text(encoding="utf-8")
    assert load(TeachConfig if teaches else DistillConfig, file)


def test_there_are_committed_configs() -> None:
    assert committed()


# -- files of others -------------------------------------------------------------------------------


def aliases(opening: str, item: str, closing: str) -> str:
    """Nine lines that each name the line before nine times: 9⁹ values."""
    lines = [f"a0: &a0 {opening}{item}{closing}"]
    for number in range(1, 10):
        named = ", ".join([f"*a{number - 1}"] * 9)
        lines.append(f"a{number}: &a{number} {opening}{named}{closing}")
    return "\n".join(lines)


HOSTILE = {
    "lists in lists": aliases("[", "x", "]"),
    "merged mappings": aliases("{<<: [", "{x: 1}", "]}"),
    "a list within itself": "a: &a [*a]",
    "depth": "a: " + "[" * 5000 + "]" * 5000,
    "length": "a: " + "x" * 1_100_000,
    "digits": "seed: " + "9" * 5000,
    "an odd bool": "a: !!bool x",
    "an empty int": "a: !!int ''",
    "an odd date": "a: !!timestamp x",
    "a date that is none": "a: 2001-99-99",
    "an object": "a: !!python/object/apply:os.system [ls]",
}


@pytest.mark.untraced  # its seconds are not those of coverage
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_yaml_is_refused_within_seconds(yaml: Any, kind: str) -> None:
    start = time.process_time()
    told = problems(DistillConfig, yaml(HOSTILE[kind]))
    assert time.process_time() - start < 5
    assert re.search(r"c\.yaml(:1)?: cannot be read as YAML: ", told)
    assert len(told) < 2000


def test_aliases_may_be_used(yaml: Any) -> None:
    config = load(DistillConfig, yaml("mix: &m {strategy: fixed}\nloss: {<<: {hidden: mean}}\n"))
    assert config.mix.strategy == "fixed"


def test_a_long_wrong_value_is_shown_in_part(yaml: Any) -> None:
    told = problems(DistillConfig, yaml(f"seed: {'x' * 100_000}"))
    assert "xxx…" in told
    assert len(told) < 1000
