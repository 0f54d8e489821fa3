"""Problems with values, in words that name the key which the user wrote."""

import pytest
from pydantic import BaseModel, ValidationError

from siamkit.problems import config_error


class Inner(BaseModel):
    size: int = 1


class Model(BaseModel):
    ends: int | tuple[float, float] = 1
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ends": [0.5, "b"]}, "run.yaml: ends.1: must be a number, got 'b'"),
        ({"inner": {"size": "b"}}, "run.yaml: inner.size: must be an integer, got 'b'"),
        ({"inner": 3}, "run.yaml: inner: must be a mapping of keys to values, got 3"),
    ],
)
def test_a_problem_within_a_value_names_its_place(values, said):
    with pytest.raises(ValidationError) as caught:
        Model.model_validate(values)
    lines = [
        line.strip() for line in str(config_error(caught.value, Model, "run.yaml:")).split("\n")
    ]
    assert said in lines
