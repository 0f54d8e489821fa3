"""The head of a run in closed form: where the run starts, after an epoch, and at its end."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from siamkit.engine.execution import Engine
from siamkit.engine.phase import Execution
from siamkit.interfaces import HEAD
from siamkit.training.loading import SOLVE, VAL, LoadedSet
from siamkit.training.scoring import Scorer
from siamkit.training.solving import read_training, solve
from siamkit.training.state import Metrics, best_epoch, heads_text


class Heads:
    """Computes the head of a run in closed form, and tells where that is to be done.

    Args:
        scorer: Embeds the images of the run.
        engine: The engine of the run.
        sets: The image sets of the run.
    """

    def __init__(self, scorer: Scorer, engine: Engine, sets: Mapping[str, LoadedSet]) -> None:
        self.scorer, self.engine, self.sets = scorer, engine, sets
        self.setup, self.state, self.emit = scorer.setup, scorer.state, scorer.emit

    def load(self, execution: Execution | None) -> None:
        """Load the closed form of the head into the network.

        Args:
            execution: The execution of the first phase, or of the current one if the head is
                computed after each epoch; None before or after these.
        """
        read = read_training(self.scorer, self.engine, execution)
        solve(self.setup, read, torch.tensor(self.sets[SOLVE].images.labels))

    def load_start(self, execution: Execution | None) -> None:
        """Load the closed form of the head, unless the run starts with a better one.

        Args:
            execution: The execution of the first phase; None before it.
        """
        state, head, monitor = self.state, self.setup.net.head, self.setup.schedule.monitor
        if not state.inherited:
            self.load(execution)
            return
        own = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        trained = self.scored(execution)[monitor]
        self.load(execution)
        closed = self.scored(execution)[monitor]
        state.heads = {"trained": trained, "closed form": closed}
        state.inherited = trained >= closed
        if state.inherited:
            head.load_state_dict(own)
        self.emit("notice", {"text": heads_text(state.heads, monitor), "routine": True})

    def scored(self, execution: Execution | None) -> Metrics:
        """Return the validation metrics of the network as it is, outside of an epoch."""
        if execution is None:
            read = self.scorer.embedded(VAL, self.setup.net.extractor, None)
        else:
            read = self.scorer.read(VAL, execution)
        return self.scorer.untrained(VAL, read)[1]

    def refit_epoch(self) -> int | None:
        """Return the epoch for whose network the head is computed again; None to leave that out.

        It is the best epoch, or the last one if the backbone was still frozen in the best one.
        """
        state = self.state
        if self.setup.net.head.computed or not state.solved or state.refit or not state.history:
            return None
        first = self._trains_from()
        if first is None:
            return None
        best = best_epoch(state.history, self.setup.schedule.monitor)
        return best if best is not None and best >= first else len(state.history) - 1

    def _trains_from(self) -> int | None:
        """Return the first epoch, from 0, in which the backbone trained; None if it never did."""
        state, schedule = self.state, self.setup.schedule
        backbone = {n for s in schedule.stages if s.name != HEAD for n in s.parameters}
        trains = (
            phase.start_epoch
            for phase in schedule.phases(state.history)
            if not backbone.isdisjoint(phase.plan.trainable)
        )
        first = next(trains, len(state.history))
        return first if first < len(state.history) else None
