"""The epoch loop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

from torch import Tensor

from siamkit.data.loader import Batch
from siamkit.data.sampler import pk_batches, pk_shape
from siamkit.data.splits import Splits
from siamkit.errors import Interrupted, NonFiniteError, PluginError
from siamkit.freezing.controller import Change
from siamkit.freezing.phases import phases, plan_at, require_trainable
from siamkit.freezing.proof import verify
from siamkit.interfaces import FreezePlan, Phase, Progress
from siamkit.model.trace import evaluating
from siamkit.training import checkpoint
from siamkit.training.build import Setup
from siamkit.training.checkpoint import Checkpoint
from siamkit.training.engine import Engine, Route
from siamkit.training.events import Emit
from siamkit.training.loading import PROBE, TEST, TRAIN, VAL, load_sets
from siamkit.training.optimizer import load_state_tensors, rates, set_rates, state_tensors
from siamkit.training.rundir import RunDir
from siamkit.training.seeding import derive, seeded
from siamkit.training.signals import StopRequest
from siamkit.training.state import Metrics, RunState, best_epoch, out_of_patience
from siamkit.training.step import Stepper, micro_batches
from siamkit.training.tensors import load_model_tensors, model_tensors, require_finite
from siamkit.training.validation import evaluator_of
from siamkit.training.warmup import unfrozen_at, warmup_factors


class Trainer:
    """Trains one run, from wherever its state says it stands.

    Args:
        setup: The parts of the run.
        splits: Its data.
        state: Where it stands; changed as it goes.
        run_dir: Where checkpoints go.
        emit: Called with every event.
        stop: Whether a signal asked to stop.
    """

    def __init__(
        self,
        setup: Setup,
        splits: Splits,
        state: RunState,
        run_dir: RunDir,
        emit: Emit,
        stop: StopRequest,
    ) -> None:
        self.setup, self.splits, self.state = setup, splits, state
        self.run_dir, self.emit, self.stop = run_dir, emit, stop
        config = setup.config
        self.train = config.train
        self.sets = load_sets(setup, splits)
        self.evaluators = {name: evaluator_of(setup, s.images) for name, s in self.sets.items()}
        _, self.images_per_class, self.notices = pk_shape(
            splits.train.labels, self.train.batch_size, self.train.images_per_class
        )
        batches = self._batches(0)
        self.steps_per_epoch = len(batches)
        visits = sum(len(batch) for batch in batches)
        self.engine = Engine(setup, self.sets, visits, emit, self._stop_if_asked)
        self.route: Route | None = None
        self.stepper = Stepper(
            setup.net,
            setup.loss,
            setup.optimizer,
            setup.device,
            self.train.precision,
            config.optimizer.clip_norm,
        )
        self.fresh = True
        if state.scaler:
            self.stepper.scaler.load_state_dict(state.scaler)

    # --- the run ---

    def run(self) -> None:
        """Train until the last epoch, early stopping, or a signal.

        Raises:
            Interrupted: A signal asked to stop; the run was saved.
            NonFiniteError: A loss or gradient is not finite.
            FrozenDriftError: A frozen tensor changed.
        """
        with ExitStack() as closing:
            for loaded in self.sets.values():
                closing.enter_context(loaded.loader)
            if self.fresh:
                # Whatever stops the run from here on, it can be resumed.
                self.save(best=False)
            while not self.state.is_over(self.train.epochs):
                route = self._start_phase(self._plan())
                if not self.state.untrained:
                    self._evaluate_untrained(route)
                started = time.perf_counter()
                self._train_epoch(route)
                self._end_epoch(route, started)

    def _evaluate_untrained(self, route: Route) -> None:
        features = self.setup.net.features
        if route.gives_features:
            self.state.untrained = self.evaluators[VAL].metrics(route.sources[VAL], _as_it_is)
        else:
            self.state.untrained = self.evaluators[VAL].metrics(self.sets[VAL].loader, features)
        if TEST in self.sets and not self.state.untrained_test:
            self.state.untrained_test = self.evaluators[TEST].metrics(
                self.sets[TEST].loader, features
            )
        self.emit("untrained", self.state.untrained)

    def _plan(self) -> FreezePlan:
        setup, state = self.setup, self.state
        plan = plan_at(
            setup.policy,
            setup.stages,
            state.epoch,
            self.train.epochs,
            state.history,
            self.train.monitor,
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
            monitor=self.train.monitor,
        )

    def _start_phase(self, plan: FreezePlan) -> Route:
        controller = self.setup.controller
        if controller.plan == plan and self.route is not None:
            return self.route
        if controller.plan is not None:
            controller.verify(f"the end of epoch {self.state.epoch}")
        changes = controller.apply(plan)
        self.emit(
            "phase_start",
            {
                "epoch": self.state.epoch,
                "trainable_parameters": sum(controller.sizes[n] for n in plan.trainable),
                "parameters": sum(controller.sizes.values()),
                "changes": [self._change_row(change) for change in changes],
                "reason": f"policy {self.setup.config.freeze.name!r}",
            },
        )
        phase = self._phase()
        decided = self.state.engine
        same = decided.get("start_epoch") == phase.start_epoch
        self.route = self.engine.enter(
            plan, range(self.state.epoch, phase.end_epoch), decided if same else {}
        )
        self.state.engine = {"start_epoch": phase.start_epoch, **self.route.record}
        self.emit("engine", {"epoch": self.state.epoch, **self.route.record})
        return self.route

    def _phase(self) -> Phase:
        """Return the phase that the coming epoch lies in, as far as it can be foreseen."""
        setup, state = self.setup, self.state
        found = phases(
            setup.policy, setup.stages, self.train.epochs, state.history, self.train.monitor
        )
        return next(p for p in found if p.start_epoch <= state.epoch < p.end_epoch)

    def _change_row(self, change: Change) -> dict[str, Any]:
        return {
            "stage": change.now.name,
            "parameters": change.now.parameters,
            "trainable": change.now.trainable,
            "was": None if change.was is None else change.was.trainable,
            "norm": change.now.norm,
            "lr": self.setup.config.optimizer.lr * change.now.lr_mult,
        }

    # --- an epoch ---

    def _batches(self, epoch: int) -> list[list[int]]:
        return pk_batches(
            self.splits.train.labels,
            batch_size=self.train.batch_size,
            images_per_class=self.train.images_per_class,
            seed=self.train.seed,
            epoch=epoch,
        )

    def _train_epoch(self, route: Route) -> None:
        state, net = self.state, self.setup.net
        batches = self._batches(state.epoch)
        groups = [
            micro_batches(batch, self.train.micro_batch, self.images_per_class)
            for batch in batches[state.epoch_step :]
        ]
        flat = [micro for group in groups for micro in group]
        loaded = iter(route.sources[TRAIN].batches(flat, route.view(state.epoch)))
        self.stepper.forward = route.forward
        since = self._unfrozen_at()
        net.train()
        for group in groups:
            images = sum(len(micro) for micro in group)
            started = time.perf_counter()
            self._set_rates(since)
            loss = self._step(islice(loaded, len(group)), images, group)
            state.step += 1
            state.epoch_step += 1
            state.loss_sum += loss * images
            state.images += images
            self.emit(
                "step",
                {
                    "epoch": state.epoch,
                    "step": state.step,
                    "steps": self.steps_per_epoch * self.train.epochs,
                    "epoch_step": state.epoch_step,
                    "epoch_steps": len(batches),
                    "loss": loss,
                    **self._rates(),
                    "images_per_second": images / (time.perf_counter() - started),
                },
            )
            self._stop_if_asked()

    def _unfrozen_at(self) -> dict[str, int]:
        if not self.train.unfreeze_warmup:
            return {}
        return unfrozen_at(
            self.setup.policy,
            self.setup.stages,
            self.state.epoch,
            self.train.epochs,
            self.state.history,
            self.train.monitor,
        )

    def _set_rates(self, since: Mapping[str, int]) -> None:
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

    def _rates(self) -> dict[str, Any]:
        """Return the rates that the optimizer really has: the highest, and each trained stage's."""
        groups = self.setup.optimizer.param_groups
        by_stage = {
            group["stage"]: group["lr"]
            for group in groups
            if any(p.requires_grad for p in group["params"])
        }
        return {"lr": max(by_stage.values()), "rates": by_stage}

    def _step(self, batches: Iterator[Batch], images: int, group: Sequence[Sequence[int]]) -> float:
        try:
            # Dropout draws from torch's generator: seed it by the step's number, so that a
            # resumed run drops what the uninterrupted one would have dropped.
            with seeded(derive(self.train.seed, "step", self.state.step)):
                return self.stepper(batches, images)
        except NonFiniteError as error:
            keys = [self.splits.train.samples[i].key for micro in group for i in micro]
            self.emit("non_finite", {"step": self.state.step, "samples": keys})
            raise NonFiniteError(
                f"{error.what} in epoch {self.state.epoch + 1}, step {self.state.epoch_step + 1}; "
                f"no update was made",
                got=error.got,
                hint=f"lower the rate (--lr) or use fp32; the batch's images are in "
                f"{self.run_dir.events}",
            ) from None

    def _end_epoch(self, route: Route, started: float) -> None:
        state = self.state
        train_seconds = time.perf_counter() - started
        metrics, train_metrics = (self._metrics(route, name) for name in (VAL, PROBE))
        record: Metrics = {
            **metrics,
            "train_loss": state.loss_sum / state.images,
            **{f"train_{name}": value for name, value in train_metrics.items()},
        }
        state.history.append(record)
        state.best_epoch = best_epoch(state.history, self.train.monitor)
        best = state.best_epoch == state.epoch
        self.emit(
            "epoch_end",
            {
                "epoch": state.epoch,
                "epochs": self.train.epochs,
                "train_loss": record["train_loss"],
                "metrics": metrics,
                "train_metrics": train_metrics,
                "best": best,
                "train_seconds": train_seconds,
                "seconds": time.perf_counter() - started,
            },
        )
        state.epoch += 1
        state.epoch_step, state.loss_sum, state.images = 0, 0.0, 0
        state.stopped_early = state.epoch < self.train.epochs and out_of_patience(
            state.history, self.train.monitor, self.train.patience
        )
        self.save(best=best)
        if state.stopped_early:
            self.emit("early_stop", {"epoch": state.epoch - 1, "best_epoch": state.best_epoch})

    def _metrics(self, route: Route, name: str) -> Metrics:
        with evaluating(self.setup.net):
            return self.evaluators[name].metrics(route.sources[name], route.forward)

    # --- saving ---

    def save(self, *, best: bool) -> None:
        """Prove that nothing frozen changed, then publish a checkpoint."""
        state, setup = self.state, self.setup
        setup.controller.verify(f"step {state.step}")
        tensors, frozen = model_tensors(setup), setup.controller.fingerprints
        require_finite({n: t for n, t in tensors.items() if n not in frozen})
        state.scaler = self.stepper.scaler.state_dict()
        path = checkpoint.publish(
            self.run_dir.checkpoints,
            f"epoch-{state.epoch:05d}-step-{state.step:08d}",
            Checkpoint(
                model=tensors,
                optimizer=state_tensors(setup.optimizer),
                state=state.to_json(),
                frozen=frozen,
            ),
            best=best,
        )
        self.emit("checkpoint", {"path": str(path), "epoch": state.epoch, "best": best})

    def restore(self, saved: Checkpoint) -> None:
        """Put back the tensors of a checkpoint; the state was given at construction.

        Raises:
            FrozenDriftError: What was frozen when it was saved is not what was put back.
        """
        self.fresh = False
        load_model_tensors(self.setup, saved.model)
        verify(self.setup.net, saved.frozen, "the time the checkpoint was read")
        load_state_tensors(self.setup.optimizer, saved.optimizer)

    def _stop_if_asked(self) -> None:
        if self.stop.exit_code is None:
            return
        self.save(best=False)
        raise Interrupted(
            f"stopped by {self.stop.name} after step {self.state.step}; the run was saved",
            exit_code=self.stop.exit_code,
            hint=f"continue it with 'siamkit train --resume {self.run_dir.path}'",
        )


def _as_it_is(features: Tensor) -> Tensor:
    return features
