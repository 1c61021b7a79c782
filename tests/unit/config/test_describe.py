"""The schema and the help of a config name every field."""

import json
from typing import Any

import pytest

from layermix.config import DistillConfig, TeachConfig, field_names, json_schema, section_kinds

from .conftest import Kind

KINDS = (DistillConfig, TeachConfig)


@pytest.mark.parametrize("kind", [DistillConfig, TeachConfig])
def test_the_schema_has_the_defaults_that_a_run_has(kind: Any) -> None:
    schema, defaults = json_schema(kind), kind().model_dump(mode="json")
    for name, section in section_kinds(kind).items():
        assert schema["properties"][name]["default"] == defaults[name]
        definition = schema["$defs"][section.__name__]
        fields = definition.get("properties") or definition["anyOf"][0]["properties"]
        assert {field: own["default"] for field, own in fields.items()} == defaults[name]


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
