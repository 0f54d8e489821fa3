"""Problems with values, in words that name the key which the user wrote."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from siamkit.problems import config_error


class Inner(BaseModel):
    size: int = 1


class Model(BaseModel):
    ends: Literal["auto"] | Annotated[int, Field(ge=9)] | tuple[float, float] = "auto"
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ends": [0.5, "b"]}, ["run.yaml: ends.1: must be a number, got 'b'"]),
        ({"ends": "b"}, ["run.yaml: ends: must be 'auto', or an integer, or a list, got 'b'"]),
        (
            {"ends": 3},
            ["run.yaml: ends: must be 'auto', or greater than or equal to 9, or a list, got 3"],
        ),
        (
            {"ends": ["a", "b"], "inner": None},
            [
                "run.yaml: ends.0: must be a number, got 'a'",
                "run.yaml: ends.1: must be a number, got 'b'",
                "run.yaml: inner: must be a mapping of keys to values, got null",
            ],
        ),
        ({"inner": {"size": "b"}}, ["run.yaml: inner.size: must be an integer, got 'b'"]),
        ({"inner": 3}, ["run.yaml: inner: must be a mapping of keys to values, got 3"]),
    ],
)
def test_a_problem_within_a_value_names_its_place(values, said):
    with pytest.raises(ValidationError) as caught:
        Model.model_validate(values)
    problem, *parts = str(config_error(caught.value, Model, "run.yaml:")).split("\n")
    assert ([part.strip() for part in parts] or [problem]) == said
