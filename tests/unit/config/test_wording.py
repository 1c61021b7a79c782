"""What pydantic finds is told in the words of this project, by the type of the problem."""

from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails, core_schema

from layermix.config import describe_problem, describe_problems, problems_of
from layermix.config.wording import _WANTED


class Inner(BaseModel):
    x: int


class Every(BaseModel):
    """A field for each kind of problem that is common."""

    whole: int = 0
    number: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    flag: bool = False
    text: Annotated[str, Field(min_length=1)] = "a"
    listed: list[int] = []
    pair: Annotated[tuple[int, ...], Field(min_length=1, max_length=2)] = (1,)
    section: Inner = Inner(x=1)
    mapping: dict[str, int] = {}
    choice: Literal["a", "b"] = "a"
    above: Annotated[int, Field(gt=0, lt=9)] = 1
    least: Annotated[int, Field(ge=0, le=9)] = 1


def refused(given: dict[str, Any]) -> list[ErrorDetails]:
    with pytest.raises(ValidationError) as caught:
        Every.model_validate(given)
    return problems_of(caught.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"whole": "many"}, "found 'many', wanted a whole number"),
        ({"whole": 1.5}, "found 1.5, wanted a whole number"),
        ({"whole": None}, "found no value, wanted a whole number"),
        ({"number": "fast"}, "found 'fast', wanted a number"),
        ({"number": [1]}, "found [1], wanted a number"),
        ({"number": "nan"}, "found 'nan', wanted a finite number"),
        ({"flag": "perhaps"}, "found 'perhaps', wanted true or false"),
        ({"flag": [1]}, "found [1], wanted true or false"),
        ({"text": 5}, "found 5, wanted text"),
        ({"text": ""}, "found '', wanted text of 1 or more characters"),
        ({"listed": 5}, "found 5, wanted a list"),
        ({"pair": 5}, "found 5, wanted a list"),
        ({"pair": []}, "found [], wanted 1 or more values"),
        ({"pair": [1, 2, 3]}, "found [1, 2, 3], wanted at most 2 values"),
        ({"section": 5}, "found 5, wanted a section of keys and values"),
        ({"mapping": 5}, "found 5, wanted a section of keys and values"),
        ({"section": {}}, "it is missing"),
        ({"choice": "c"}, "found 'c', wanted 'a' or 'b'"),
        ({"above": 0}, "found 0, wanted more than 0"),
        ({"above": 9}, "found 9, wanted less than 9"),
        ({"least": -1}, "found -1, wanted 0 or more"),
        ({"least": 10}, "found 10, wanted at most 9"),
    ],
)
def test_each_common_problem_has_words(given: dict[str, Any], told: str) -> None:
    (problem,) = refused(given)
    assert describe_problem(problem) == told


def test_every_problem_of_a_type_that_has_no_words_keeps_pydantics() -> None:
    problem = ErrorDetails(type="url_parsing", loc=("a",), msg="Input should be a URL", input="x")
    assert describe_problem(problem) == "Input should be a URL, found 'x'"


def test_the_types_are_those_of_pydantic() -> None:
    assert set(_WANTED) <= set(get_args(core_schema.ErrorType))


def test_a_list_of_wrong_values_is_not_called_short() -> None:
    assert [problem["type"] for problem in refused({"pair": ["a", 1.5]})] == [
        "int_parsing",
        "int_from_float",
    ]


def test_the_first_problems_in_one_line() -> None:
    with pytest.raises(ValidationError) as caught:
        Every.model_validate({"whole": "x", "section": {"x": "y"}, "flag": 3, "above": 0})
    assert describe_problems(caught.value, shown=2) == (
        "whole: found 'x', wanted a whole number; flag: found 3, wanted true or false; and 2 more"
    )
    with pytest.raises(ValidationError) as caught:
        Every.model_validate_json("{")
    assert describe_problems(caught.value).startswith("not valid JSON (EOF while parsing")
