"""The rates: each stage's learning rate for the next step of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from siamkit.errors import PluginError
from siamkit.interfaces import Progress
from siamkit.training.build import Setup
from siamkit.training.optimizer import rates, set_rates
from siamkit.training.state import RunState
from siamkit.training.warmup import warmup_factors


class Rates:
    """Sets the optimizer's rates from the scheduler, the plan and the warm-up.

    Args:
        setup: The parts of the run.
        state: The state of the run; only read.
        steps_per_epoch: Optimizer steps per epoch.
    """

    def __init__(self, setup: Setup, state: RunState, steps_per_epoch: int) -> None:
        self.setup, self.state, self.steps_per_epoch = setup, state, steps_per_epoch

    def unfrozen_at(self) -> dict[str, int]:
        """Return the epoch in which each stage was last unfrozen; empty without a warm-up."""
        if not self.setup.config.train.unfreeze_warmup:
            return {}
        return self.setup.schedule.unfrozen_at(self.state.epoch, self.state.history)

    def set(self, unfrozen: Mapping[str, int]) -> None:
        """Set every group's rate for the next step.

        Args:
            unfrozen: The result of :meth:`unfrozen_at` in this epoch.

        Raises:
            PluginError: The scheduler's multiplier is negative or not finite.
        """
        config, plan = self.setup.config, self.setup.controller.plan
        assert plan is not None
        scale = self.setup.scheduler.lr_scale(self._progress())
        if not 0 <= scale < float("inf"):
            raise PluginError(
                "lr_scale must be finite and >= 0",
                where=f"scheduler {config.scheduler.name!r}",
                got=scale,
            )
        ramps = warmup_factors(
            unfrozen, self.state.step, self.steps_per_epoch, config.train.unfreeze_warmup
        )
        base = config.optimizer.rate * scale
        set_rates(self.setup.optimizer, rates(config.optimizer, plan, scale, ramps), base)

    def current(self) -> dict[str, Any]:
        """Return the current rates: the highest, and the rate of each stage that trains."""
        by_stage = {
            group["stage"]: group["lr"]
            for group in self.setup.optimizer.param_groups
            if any(p.requires_grad for p in group["params"])
        }
        return {"lr": max(by_stage.values()), "rates": by_stage}

    def _progress(self) -> Progress:
        schedule = self.setup.schedule
        return Progress(
            epoch=self.state.epoch,
            epochs=schedule.epochs,
            step=self.state.step,
            steps=self.steps_per_epoch * schedule.epochs,
            history=tuple(self.state.history),
            monitor=schedule.monitor,
        )
