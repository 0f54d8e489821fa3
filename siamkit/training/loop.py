"""The epoch loop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

from siamkit.batches import Batch
from siamkit.data.splits import Splits
from siamkit.engine.execution import Engine
from siamkit.engine.routes import Route
from siamkit.engine.sources import Awaited
from siamkit.errors import Interrupted, NonFiniteError
from siamkit.freezing.controller import Change
from siamkit.freezing.proof import verify
from siamkit.interfaces import FreezePlan
from siamkit.runs import checkpoint
from siamkit.runs.checkpoint import Checkpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.events import Emit
from siamkit.training.batching import Part, batch_notices, epoch_steps
from siamkit.training.build import Setup
from siamkit.training.loading import PROBE, TEST, TRAIN, VAL, load_sets
from siamkit.training.optimizer import load_state_tensors, state_tensors
from siamkit.training.rates import Curriculum
from siamkit.training.scoring import Scorer
from siamkit.training.seeding import derive, seeded
from siamkit.training.signals import StopRequest
from siamkit.training.state import Metrics, RunState, best_epoch, out_of_patience
from siamkit.training.step import Stepper
from siamkit.training.tensors import load_model_tensors, model_tensors, require_finite


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
        self.scorer = Scorer(setup, self.sets)
        self.notices = batch_notices(self.train, splits.train)
        steps = epoch_steps(self.train, splits.train, epoch=0)
        self.steps_per_epoch = len(steps)
        self.curriculum = Curriculum(setup, state, self.steps_per_epoch)
        visits = sum(len(part.images) for step in steps for part in step)
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
            closing.callback(self.engine.close)
            if self.fresh:
                # Whatever stops the run from here on, it can be resumed.
                self.save(best=False)
            while not self.state.is_over(self.train.epochs):
                route = self._start_phase(self.curriculum.plan())
                if not self.state.untrained:
                    self._score_untrained(route)
                started = time.perf_counter()
                self._train_epoch(route)
                self._end_epoch(route, started)

    def _score_untrained(self, route: Route) -> None:
        self.state.untrained = self.scorer.untrained(route)
        if TEST in self.sets:
            kernel = route.record.get("kernel")
            self.state.untrained_test = self.scorer.fixed(TEST, self.setup.net.backbone, kernel)
        self.emit("untrained", self.state.untrained)

    def _start_phase(self, plan: FreezePlan) -> Route:
        """Return how the coming epoch is computed, ready for it."""
        controller, epoch = self.setup.controller, self.state.epoch
        route = self.route
        if controller.plan != plan:
            self._apply(plan)
            route = None
        # A policy that follows the metrics may keep a plan for longer than was foreseen.
        if route is None or epoch not in route.epochs:
            phase = self.curriculum.phase()
            decided = self.state.engine
            same = decided.get("start_epoch") == phase.start_epoch
            before = {k: v for k, v in decided.items() if k != "start_epoch"} if same else {}
            route = self.engine.enter(plan, range(epoch, phase.end_epoch), before)
            self._note(route, phase.start_epoch)
        self.route = self.engine.prepare(route, plan, epoch)
        if self.route is not route:
            self._note(self.route, self.state.engine["start_epoch"])
        return self.route

    def _apply(self, plan: FreezePlan) -> None:
        controller = self.setup.controller
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

    def _note(self, route: Route, start_epoch: int) -> None:
        """Keep what was decided with the state of the run, and tell it."""
        self.state.engine = {"start_epoch": start_epoch, **route.record}
        self.emit("engine", {"epoch": self.state.epoch, **route.record})

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

    def _train_epoch(self, route: Route) -> None:
        state, net = self.state, self.setup.net
        steps = epoch_steps(self.train, self.splits.train, state.epoch)
        left = steps[state.epoch_step :]
        flat = [part.images for step in left for part in step]
        loaded = Awaited(route.sources[TRAIN].batches(flat, route.view(state.epoch)))
        self.stepper.forward = route.forward
        since = self.curriculum.unfrozen_at()
        net.train()
        for step in left:
            images = sum(len(part.images) for part in step)
            started, waited = time.perf_counter(), loaded.seconds
            self.curriculum.set_rates(since)
            loss = self._step(islice(loaded, len(step)), step)
            state.step += 1
            state.epoch_step += 1
            state.loss_sum += loss * images
            state.images += images
            seconds = time.perf_counter() - started
            self.emit(
                "step",
                {
                    "epoch": state.epoch,
                    "step": state.step,
                    "steps": self.steps_per_epoch * self.train.epochs,
                    "epoch_step": state.epoch_step,
                    "epoch_steps": len(steps),
                    "loss": loss,
                    **self.curriculum.rates(),
                    "images_per_second": images / seconds,
                    "seconds": seconds,
                    "input_seconds": loaded.seconds - waited,
                },
            )
            self._stop_if_asked()

    def _step(self, batches: Iterator[Batch], parts: Sequence[Part]) -> float:
        size = sum(part.size for part in parts)
        work = (
            (batch, part.tuples, part.size / size)
            for batch, part in zip(batches, parts, strict=True)
        )
        try:
            # Dropout draws from torch's generator: seed it by the step's number, so that a
            # resumed run drops what the uninterrupted one would have dropped.
            with seeded(derive(self.train.seed, "step", self.state.step)):
                return self.stepper(work)
        except NonFiniteError as error:
            keys = [self.splits.train.samples[i].key for part in parts for i in part.images]
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
        metrics, train_metrics = (self.scorer.trained(route, name) for name in (VAL, PROBE))
        record: Metrics = {
            **metrics,
            "train_loss": state.loss_sum / state.images,
            **{f"train_{name}": value for name, value in train_metrics.items()},
        }
        state.history.append(record)
        state.best_epoch = best_epoch(state.history, self.train.monitored)
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
            state.history, self.train.monitored, self.train.patience
        )
        self.save(best=best)
        if state.stopped_early:
            self.emit("early_stop", {"epoch": state.epoch - 1, "best_epoch": state.best_epoch})

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
