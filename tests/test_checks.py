"""Arguments of Python functions that no config checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from siamkit.checks import optional_text, require_pair_or_list, require_unused, whole_number
from siamkit.errors import ConfigError


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3)])
def test_a_whole_number_may_be_of_any_library(value):
    assert whole_number(value, "most") == 3


def test_the_least_whole_number_is_allowed_and_the_one_below_is_not():
    assert whole_number(2, "most", least=2) == 2 and whole_number(-7, "most") == -7
    with pytest.raises(ConfigError) as caught:
        whole_number(1, "most", least=2)
    assert str(caught.value) == "most: must be a whole number, got 1, allowed: 2 or more"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "True"), (None, "'None'"), (2.0, "2.0"), ("2", "'2'"),
        (torch.ones(2), "tensor([1., 1.])"), (np.ones(2, int), "array([1, 1])"),
    ],
)  # fmt: skip
def test_what_is_no_whole_number_is_refused(value, shown):
    with pytest.raises(ConfigError) as caught:
        whole_number(value, "most")
    assert str(caught.value) == f"most: must be a whole number, got {shown}"


def test_an_optional_text_is_none_or_says_something():
    assert optional_text(None, "name") is None and optional_text(" a ", "name") == " a "
    for value in ("", " \n", 3, Path("a")):
        with pytest.raises(ConfigError, match="name: must be text that is not blank"):
            optional_text(value, "name")


def test_arguments_without_an_effect_are_named():
    require_unused({"root": None, "seed": None}, "an embedder")
    with pytest.raises(ConfigError) as caught:
        require_unused({"root": None, "seed": 0}, "an embedder, which has its network")
    assert str(caught.value) == (
        "seed: cannot be used with an embedder, which has its network; leave it out"
    )
    with pytest.raises(ConfigError, match=r"^root, seed: cannot.*; leave them out$"):
        require_unused({"root": "x", "seed": 0}, "an embedder")


@pytest.mark.parametrize(
    "given", [("a", "b", None, None), (None, None, "list", None), (None, None, "list", "out")]
)
def test_two_images_or_a_list_of_pairs(given):
    require_pair_or_list(*given)


@pytest.mark.parametrize(
    "given",
    [
        (None, None, None, None), ("a", None, None, None), (None, "b", None, None),
        ("a", "b", "list", None), ("a", None, "list", None), (None, "b", "list", None),
        (None, None, None, "out"),
    ],
)  # fmt: skip
def test_neither_or_both_are_refused(given):
    with pytest.raises(ConfigError, match="needs either two images, A and B, or a list of pairs"):
        require_pair_or_list(*given)


def test_an_output_needs_a_list():
    with pytest.raises(ConfigError, match="output: works only with a list of pairs; add pairs="):
        require_pair_or_list("a", "b", None, "out.csv")
