"""The JSON schema of a YAML config, for editors."""

from typing import Any

from pydantic import BaseModel

from layermix.config.schema import OneWord, section_kinds


def json_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a YAML config, for editors that complete and check it."""
    schema: dict[str, Any] = _one_line(kind.model_json_schema())
    defaults = kind().model_dump(mode="json")  # the recipe's, where a field alone has another
    for name, section in section_kinds(kind).items():
        schema["properties"][name]["default"] = defaults[name]
        for field, value in defaults[name].items():
            schema["$defs"][section.__name__]["properties"][field]["default"] = value
    for section in section_kinds(kind).values():
        if issubclass(section, OneWord):
            long = schema["$defs"][section.__name__]
            first = next(iter(section.model_fields))
            word = {"type": "string", "description": long["properties"][first]["description"]}
            schema["$defs"][section.__name__] = {"anyOf": [long, word]}
    return schema


def _one_line(value: Any) -> Any:
    """A schema whose descriptions have no line breaks."""
    if isinstance(value, list):
        return [_one_line(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: " ".join(inner.split())
        if key == "description" and isinstance(inner, str)
        else _one_line(inner)
        for key, inner in value.items()
    }
