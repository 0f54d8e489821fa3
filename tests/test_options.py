"""Options and sections: what a number may be given as."""

import numpy as np
import pytest
from pydantic import ValidationError

from siamkit.api.entries import registries
from siamkit.config import parse_sets, resolve
from siamkit.errors import ConfigError
from siamkit.options import Options


class Numbers(Options):
    count: int = 1
    share: float | None = None
    ends: tuple[float, float] = (0.0, 1.0)
    by_name: dict[str, float] | None = None
    most: int | bool = 3
    flag: bool = False


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": True},
        {"share": False},
        {"ends": [True, 2]},
        {"by_name": {"a": True}},
        {"count": np.True_},
    ],
)
def test_true_is_no_number(wrong):
    with pytest.raises(ValidationError, match="must be a number, not true or false"):
        Numbers.model_validate(wrong)


def test_true_is_a_value_of_a_field_that_takes_booleans():
    given = Numbers(most=True, flag=True)
    assert given.most is True and given.flag is True


def test_other_spellings_of_a_number_keep_their_value():
    given = Numbers.model_validate({"count": 1e2, "share": "0.25", "ends": [0, np.float32(0.5)]})
    assert (given.count, given.share, given.ends) == (100, 0.25, (0.0, 0.5))
    with pytest.raises(ValidationError):
        Numbers.model_validate({"count": 2.5})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "nan"])
def test_what_is_not_finite_is_no_number(value):
    with pytest.raises(ValidationError, match="finite number"):
        Numbers(share=value)


@pytest.mark.parametrize(
    "assignment",
    [
        "data.augment.horizontal_flip=true",
        "data.augment.crop_scale=[true, true]",
        "data.views=true",
        "train.patience=true",
        "optimizer.lr=true",
        "loss.beta=true",
        "engine.cache_gb=true",
        "calibration.far=false",
    ],
)
def test_no_key_of_the_config_reads_true_as_one(assignment):
    with pytest.raises(ConfigError) as caught:
        resolve(registries(), parse_sets([assignment]))
    key = assignment.partition("=")[0]
    assert f"--set {key}: must be a number, not true or false" in str(caught.value)
