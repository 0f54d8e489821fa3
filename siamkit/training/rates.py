"""What trains when and at what rate, as the run stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from siamkit.errors import PluginError
from siamkit.freezing.schedule import phases, plan_at, require_trainable
from siamkit.interfaces import FreezePlan, Phase, Progress
from siamkit.training.build import Setup
from siamkit.training.optimizer import rates, set_rates
from siamkit.training.state import RunState
from siamkit.training.warmup import unfrozen_at, warmup_factors


class Curriculum:
    """Asks the policy and the scheduler, and sets the optimizer's rates.

    Args:
        setup: The parts of the run.
        state: Where it stands; only read.
        steps_per_epoch: Optimizer steps an epoch.
    """

    def __init__(self, setup: Setup, state: RunState, steps_per_epoch: int) -> None:
        self.setup, self.state, self.steps_per_epoch = setup, state, steps_per_epoch
        self.train = setup.config.train

    def plan(self) -> FreezePlan:
        """Return the plan of the coming epoch.

        Raises:
            ConfigError: Nothing would train.
        """
        setup, state = self.setup, self.state
        plan = plan_at(
            setup.policy,
            setup.stages,
            state.epoch,
            self.train.epochs,
            state.history,
            self.train.monitored,
        )
        # A policy that follows the metrics is not known before the run.
        phase = Phase(state.epoch, state.epoch + 1, plan)
        require_trainable([phase], setup.stages, setup.config.freeze.name)
        return plan

    def _progress(self) -> Progress:
        """Return what the scheduler sees."""
        return Progress(
            epoch=self.state.epoch,
            epochs=self.train.epochs,
            step=self.state.step,
            steps=self.steps_per_epoch * self.train.epochs,
            history=tuple(self.state.history),
            monitor=self.train.monitored,
        )

    def phase(self) -> Phase:
        """Return the phase that the coming epoch lies in, as far as it can be foreseen."""
        setup, state = self.setup, self.state
        found = phases(
            setup.policy, setup.stages, self.train.epochs, state.history, self.train.monitored
        )
        return next(p for p in found if p.start_epoch <= state.epoch < p.end_epoch)

    def unfrozen_at(self) -> dict[str, int]:
        """Return the step at which each stage that warms up was unfrozen."""
        if not self.train.unfreeze_warmup:
            return {}
        return unfrozen_at(
            self.setup.policy,
            self.setup.stages,
            self.state.epoch,
            self.train.epochs,
            self.state.history,
            self.train.monitored,
        )

    def set_rates(self, since: Mapping[str, int]) -> None:
        """Set every group's rate for the coming step."""
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
            since, self.state.step, self.steps_per_epoch, self.train.unfreeze_warmup
        )
        base = config.optimizer.lr * scale
        set_rates(self.setup.optimizer, rates(config.optimizer, plan, scale, ramps), base)

    def rates(self) -> dict[str, Any]:
        """Return the rates that the optimizer really has: the highest, and each trained stage's."""
        groups = self.setup.optimizer.param_groups
        by_stage = {
            group["stage"]: group["lr"]
            for group in groups
            if any(p.requires_grad for p in group["params"])
        }
        return {"lr": max(by_stage.values()), "rates": by_stage}
