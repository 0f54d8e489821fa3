"""The phases of a policy, as a tuple and as a table."""

from __future__ import annotations

import copy
import pickle

import siamkit
from siamkit.api.phase_table import Phases
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
