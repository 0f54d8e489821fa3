"""The phases of a policy, as a tuple and as a table."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from torch import nn

import siamkit
from siamkit.api.phase_table import Phases
from siamkit.errors import ConfigError
from siamkit.interfaces import FreezePlan, Phase, Stage

STAGES = (Stage("stem", ("a", "b")), Stage("body", ("c",)), Stage("head", ("h",)))
PHASES = Phases(
    [
        Phase(0, 1, FreezePlan(frozenset("h"))),
        Phase(1, 4, FreezePlan(frozenset("hca"), {"body": 0.1, "stem": 0.01, "head": 1.0})),
        Phase(4, 6, FreezePlan(frozenset("hcab"), {"body": 2.0})),
    ],
    STAGES,
)


def test_a_table_shows_what_trains_in_which_epochs_and_at_which_rate() -> None:
    rows = [line.split("  ") for line in repr(PHASES).splitlines()]
    assert [[cell.strip() for cell in row if cell.strip()] for row in rows if len(row) > 1] == [
        ["epochs", "stem", "body", "head"],
        ["epoch 1", "frozen", "frozen", "trains"],
        ["epochs 2 to 4", "1 of 2 trains x0.01", "trains x0.1", "trains"],
        ["epochs 5 to 6", "trains", "trains x2", "trains"],
    ]


def test_phases_are_a_tuple_and_survive_a_copy() -> None:
    assert len(PHASES) == 3 and PHASES[1].end_epoch == 4
    for other in (copy.deepcopy(PHASES), pickle.loads(pickle.dumps(PHASES))):
        assert other == PHASES and other.stages == STAGES and repr(other) == repr(PHASES)


def test_a_policy_may_be_asked_about_stages_alone() -> None:
    found = siamkit.phases(STAGES, "freeze-all", 3)
    assert [(phase.start_epoch, phase.end_epoch) for phase in found] == [(0, 3)]
    assert "epochs 1 to 3" in repr(found) and found.stages == STAGES


def test_options_belong_to_a_named_policy() -> None:
    found = siamkit.phases(STAGES, "stages", 4, n=1, warmup=1)
    assert [phase.plan.trainable for phase in found] == [{"h"}, {"c", "h"}]
    policy = siamkit.create_policy("stages", n=1)
    for given in (policy, lambda stages, progress: FreezePlan(frozenset("h"))):
        with pytest.raises(ConfigError, match="policy"):
            siamkit.create_policy(given, n=1)
        assert len(siamkit.phases(STAGES, given, 4)) in (1, 2)


@pytest.mark.parametrize("net", [[], [3], 3, nn.Linear(2, 2), "resnet50"])
def test_what_has_no_stages_is_refused(net: Any) -> None:
    with pytest.raises(ConfigError, match="net: is of a wrong type, got <class") as caught:
        siamkit.phases(net)
    assert ("create_model(MODULE)" in str(caught.value)) is isinstance(net, nn.Module)
