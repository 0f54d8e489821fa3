"""The bounds of a backbone's preprocessing, which the kit checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from siamkit.interfaces import Backbone, Preprocessing
from siamkit.testing.backbones import _check_preprocessing, _check_shape
from siamkit.testing.common import Expect, NotConforming

RIGHT = Preprocessing((0.5,) * 3, (0.25,) * 3, (64, 64))


class Fake(Backbone):
    """A backbone with any preprocessing."""

    def __init__(self, preprocessing: Any) -> None:
        super().__init__()
        self._preprocessing = preprocessing

    @property
    def preprocessing(self) -> Any:
        return self._preprocessing

    @property
    def embedding_dim(self) -> int:
        return 3

    def stages(self) -> Any:
        return ()

    def forward(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 3)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mean": (0.0, 0.5, 1.0)},
        {"std": (0.001, 0.5, 1.0)},
        {"crop_pct": 1.0},
        {"crop_pct": 0.001},
        {"size": (1, 1)},
        {"size": [32, 64]},
        {"interpolation": "nearest"},
    ],
)
def test_values_at_the_bounds_are_right(change: dict[str, Any]) -> None:
    _check_preprocessing(Fake(replace(RIGHT, **change)), 3, Expect("x"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mean": (0.5, 0.5, 1.001)}, "a mean within"),
        ({"mean": (-0.001, 0.5, 0.5)}, "a mean within"),
        ({"std": (0.0, 0.5, 0.5)}, "a std above 0"),
        ({"std": (0.5, 0.5, 1.001)}, "a std above 0"),
        ({"std": (0.5, 0.5)}, "std for 3 channels"),
        ({"mean": (0.5,)}, "preprocessing for 3 channels"),
        ({"crop_pct": 0.0}, "crop_pct to be a share"),
        ({"crop_pct": 1.001}, "crop_pct to be a share"),
        ({"interpolation": "linear"}, "interpolation to be one of"),
        ({"size": (0, 64)}, "size to be"),
        ({"size": (64, -1)}, "size to be"),
        ({"size": (64, 64, 3)}, "size to be"),
        ({"size": (64,)}, "size to be"),
        ({"size": (64.0, 64)}, "size to be"),
        ({"size": "64"}, "size to be"),
    ],
)
def test_values_beyond_the_bounds_are_wrong(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(NotConforming, match=f"x: expected {expected}"):
        _check_preprocessing(Fake(replace(RIGHT, **change)), 3, Expect("x"))


def test_what_is_no_preprocessing_is_wrong() -> None:
    with pytest.raises(NotConforming, match="preprocessing to be a Preprocessing"):
        _check_preprocessing(Fake({"mean": 0.5}), 3, Expect("x"))


@pytest.mark.parametrize(
    ("features", "right"),
    [
        ([[0.25, 0.0, 0.75], [0.5, 0.25, 0.25]], False),
        ([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], False),
        ([[1.25, -0.25, 0.0], [0.5, 0.25, 0.25]], True),
        ([[0.25, 0.0, 0.75], [0.5, 0.25, 0.5]], True),
        ([[0.25, 0.75], [1.0, 0.0]], False),
        ([[1.0], [1.0]], True),  # of one feature, this says nothing
    ],
)
def test_shares_of_1_are_a_classifier_s_probabilities(
    features: list[list[float]], right: bool
) -> None:
    class Sized(Fake):
        embedding_dim = len(features[0])

    said = ""
    try:
        _check_shape(Sized(RIGHT), torch.tensor(features), Expect("x"))
    except NotConforming as error:
        said = str(error)
    assert right == (not said) and (right or "not a classifier's probabilities" in said)
