"""Words for the problems that pydantic finds, by their codes: what was found, what was wanted."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

MOST_SHOWN = 200
"""Most characters of a wrong value that are shown."""

_WHOLE, _NUMBER, _FLAG, _TEXT = "a whole number", "a number", "true or false", "text"
_LIST, _SECTION = "a list", "a section of keys and values"

_WANTED = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": "a whole number of fewer digits",
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "a finite number",
    "bool_type": _FLAG,
    "bool_parsing": _FLAG,
    "string_type": _TEXT,
    "string_too_short": "text of {min_length} or more characters",
    "list_type": _LIST,
    "tuple_type": _LIST,
    "too_short": "{min_length} or more values",
    "too_long": "at most {max_length} values",
    "dict_type": _SECTION,
    "model_type": _SECTION,
    "model_attributes_type": _SECTION,
    "dataclass_type": _SECTION,
    "literal_error": "{expected}",
    "enum": "{expected}",
    "greater_than": "more than {gt:.10g}",
    "greater_than_equal": "{ge:.10g} or more",
    "less_than": "less than {lt:.10g}",
    "less_than_equal": "at most {le:.10g}",
}
"""Type of a pydantic problem -> what was wanted, with the names of its context in braces."""


def problems_of(error: ValidationError) -> list[ErrorDetails]:
    """The problems, but for lists that are too short only because their values are wrong."""
    found = error.errors(include_url=False)
    return [
        problem
        for problem in found
        if problem["type"] != "too_short"
        or not any(
            other is not problem and other["loc"][: len(problem["loc"])] == problem["loc"]
            for other in found
        )
    ]


def describe_problem(problem: ErrorDetails) -> str:
    """What was found and what was wanted, without the place.

    Problems of types that are not in the table keep pydantic's words.

    Examples:
        >>> describe_problem({"type": "int_type", "loc": (), "msg": "", "input": "many"})
        "found 'many', wanted a whole number"
    """
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "json_invalid":
        return f"not valid JSON ({context['error']})"
    if kind == "missing":
        return "it is missing"
    found = "no value" if problem["input"] is None else repr(problem["input"])
    found = found if len(found) <= MOST_SHOWN else found[:MOST_SHOWN] + "…"
    if kind in _WANTED:
        return f"found {found}, wanted {_WANTED[kind].format_map(context)}"
    return f"{problem['msg']}, found {found}"


def describe_problems(error: ValidationError, shown: int = 3) -> str:
    """The first problems in one line, each with its key, and how many more there are."""
    problems = problems_of(error)
    texts = []
    for problem in problems[:shown]:
        key = ".".join(map(str, problem["loc"]))
        texts.append(f"{key}: {describe_problem(problem)}" if key else describe_problem(problem))
    if len(problems) > shown:
        texts.append(f"and {len(problems) - shown} more")
    return "; ".join(texts)
