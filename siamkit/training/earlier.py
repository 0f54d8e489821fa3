"""The epochs before a phase, trained for a test of the phase."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from siamkit.data.splits import Splits
from siamkit.engine.settings import Reports
from siamkit.errors import ConfigError
from siamkit.freezing.schedule import History
from siamkit.interfaces import Phase
from siamkit.runs.directory import RunDir
from siamkit.spelling import setting
from siamkit.training.build import Setup
from siamkit.training.loop import Trainer
from siamkit.training.signals import StopRequest
from siamkit.training.state import RunState


def train_before(
    setup: Setup, splits: Splits, chosen: Callable[[History], Phase], reports: Reports
) -> History:
    """Train the epochs before a phase, as a run does.

    The network, the loss and the optimizer are then as at the start of the phase. The run's
    checkpoints are removed.

    Args:
        setup: The parts of a run that has not started.
        splits: The data of the run.
        chosen: Returns the phase, by the metrics of the epochs so far.
        reports: Callbacks during the training. It emits the events of a run.

    Returns:
        The validation metrics of the epochs.

    Raises:
        ConfigError: The run stops before the phase, because the metric does not improve.
        SiamkitError: The training failed.
    """
    state = RunState(weights=setup.weights)
    with tempfile.TemporaryDirectory(prefix="siamkit-") as place:
        trainer = Trainer(
            setup, replace(splits, test=None), state, RunDir(Path(place)), reports.emit,
            StopRequest(),
        )  # fmt: skip
        trainer.run_until(lambda: chosen(state.history).start_epoch)
    if state.stopped_early:
        longer = setting("train.patience", setup.config.train.epochs)
        raise ConfigError(
            f"the run stops early, after epoch {state.epoch}, so this phase never begins",
            where="train.patience",
            got=setup.config.train.patience,
            hint=f"use more patience, such as {longer}",
        )
    return state.history
