"""The name of an object in a config, and the hash that tells one from another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pytorch_metric_learning import losses
from torch import nn

from siamkit.objects.identity import qualified_name, source_hash


class Plain(nn.Module):
    """A module with one setting."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)


def test_a_hash_follows_source_and_settings_and_is_the_same_for_equal_objects() -> None:
    def policy(n: int) -> Callable[..., Any]:
        return lambda stages, progress: n

    assert source_hash(Plain()) == source_hash(Plain()) != source_hash(Plain(9))
    assert source_hash(policy(1)) == source_hash(policy(1)) != source_hash(policy(2))
    assert source_hash(losses.TripletMarginLoss(0.1)) == source_hash(losses.TripletMarginLoss(0.1))
    assert qualified_name(Plain()).endswith("test_identity.Plain")


def test_the_name_of_a_partial_is_its_functions_and_a_pair_has_both_names() -> None:
    assert qualified_name(partial(Plain, 3)) == qualified_name(Plain)
    assert qualified_name((Plain(), max)) == f"{Plain.__module__}.Plain+builtins.max"
