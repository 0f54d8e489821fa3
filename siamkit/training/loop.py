"""The trainer: the epoch loop of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from siamkit.data.splits import Splits
from siamkit.engine.blank import SuffixError
from siamkit.engine.decision import PhaseDecision
from siamkit.engine.execution import Engine
from siamkit.engine.phase import Execution
from siamkit.engine.settings import Emit, Reports
from siamkit.errors import Interrupted
from siamkit.freezing.controller import Change
from siamkit.freezing.hold import is_held
from siamkit.freezing.proof import verify
from siamkit.interfaces import HEAD, FreezePlan, Phase
from siamkit.model.undisturbed import Snapshot
from siamkit.runs import checkpoint
from siamkit.runs.checkpoint import Checkpoint, SavedCheckpoint
from siamkit.runs.directory import RunDir
from siamkit.spelling import command
from siamkit.training.batching import batch_notices
from siamkit.training.build import Setup
from siamkit.training.epoch import EpochTrainer
from siamkit.training.forecast import forecast
from siamkit.training.heads import Heads
from siamkit.training.late_sets import stocked
from siamkit.training.loading import PROBE, SOLVE, TEST, VAL, decider_of, load_sets
from siamkit.training.optimizer import load_state_tensors, state_tensors
from siamkit.training.scoring import Scorer
from siamkit.training.signals import StopRequest
from siamkit.training.state import (
    BEFORE,
    NO_LOSS,
    Metrics,
    RunState,
    best_epoch,
    best_of,
    no_loss,
    refit_text,
    shared_dropout_text,
    start_text,
)
from siamkit.training.stopping import out_of_patience, stopped_before
from siamkit.training.tensors import (
    Attributes,
    changed_attributes,
    load_attributes,
    load_model_tensors,
    model_tensors,
    modules_by_name,
    owners_of,
    require_finite,
)

REFIT = "-refit"
"""The end of the name of the checkpoint after the last epoch, with the head computed again."""


class Trainer:
    """Trains one run, from the start or from the point that its state describes.

    Args:
        setup: The parts of the run.
        splits: The run's data.
        state: The run's state; updated during the training.
        run_dir: The run's directory.
        emit: Called with every event.
        stop: Tells whether a signal asked the run to stop.
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
        self.sets = load_sets(setup, splits, self._stop_if_asked)
        self.scorer = Scorer(setup, self.sets, state, emit)
        self._modules = modules_by_name(setup.net, setup.loss)
        self._built = Snapshot(self._modules.values(), contents="attributes")
        self._owners: set[str] = set()  # the modules whose attributes a checkpoint holds
        self._told_attributes = False
        self.epoch = EpochTrainer(setup, splits, state, run_dir, emit, self._between_steps)
        self.notices = (
            *batch_notices(self.train, splits.train),
            *forecast(setup, self.epoch.steps_per_epoch, by_recipe=state.recipe is not None),
        )
        steps = self.epoch.steps()
        self.images_per_epoch = sum(len(part.images) for step in steps for part in step)
        visits = self.images_per_epoch * (1 + setup.loss.second_view)
        reports = Reports(emit, self._stop_if_asked)
        self.engine = Engine(decider_of(setup, self.sets, visits, reports))
        self.heads = Heads(self.scorer, self.engine, self.sets)
        self.execution: Execution | None = None
        self.fresh = True
        self._interval = self.train.checkpoint_interval
        # The time, the step and the bound of forward passes of the latest checkpoint.
        self._saved = time.monotonic(), state.step, state.largest_pass
        self._remarked: set[str] = set()

    # --- the run ---

    def run(self) -> None:
        """Train until the last epoch, early stopping, or a signal.

        Raises:
            Interrupted: A signal asked to stop. The run can be resumed.
            NonFiniteError: A loss or gradient is not finite.
            FrozenDriftError: A frozen tensor changed.
        """
        with self._opened():
            if not self.state.solved and not self.train.epochs:
                self._solve_alone()
            self._train_until(lambda: self.train.epochs)
            refitted = self.state.refitted
            if self.execution is None and self.state.decision is not None and not refitted:
                self._reenter(self.state.decision)
            epoch = self.heads.refit_epoch()
            if epoch is not None:
                self._refit(epoch)

    def run_until(self, end: Callable[[], int]) -> None:
        """Train the first epochs of a run, and leave the network as they leave it.

        Args:
            end: Returns the epoch to stop before, from 0. Asked before each epoch, because the
                phases of a metric-driven policy depend on the metrics of the epochs before.

        Raises:
            SiamkitError: As :meth:`run`.
        """
        with self._opened():
            self._train_until(end)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Save what the run starts from, and close the images and the engine after the block."""
        with ExitStack() as closing:
            for loaded in self.sets.values():
                closing.enter_context(loaded.source)
            closing.callback(self.engine.close)
            if self.fresh:
                # From here on, the run can be resumed after any interruption.
                self.save(best=False)
            yield

    def _train_until(self, end: Callable[[], int]) -> None:
        self._solve(None)
        while not self.state.is_over(end()):
            execution = self._start_phase(self._plan())
            self._solve(execution)
            if not self.state.untrained:
                self._score_untrained(execution)
            self._run_epoch(execution)

    def _reenter(self, decision: PhaseDecision) -> None:
        """Restore the last epoch's execution, for a resumed run that has no epoch left to train.

        The held-out images are then embedded as in a run that was not interrupted.
        """
        if not decision.keeps_exact_rows:
            return
        state, schedule = self.state, self.setup.schedule
        last = max(state.epoch - 1, 0)
        frozen = FreezePlan.of(schedule.stages, ())
        plan = schedule.plan_at(last, state.history[:last]) if self.train.epochs else frozen
        self.setup.controller.apply(plan)
        execution = self.engine.enter(range(last, last + 1), decision)
        self.execution = self.engine.prepare(execution, last)

    def _run_epoch(self, execution: Execution) -> None:
        """Train and score the current epoch, or the rest of it."""
        started = time.perf_counter()
        try:
            while not self.epoch.train(execution, self.engine):
                pass  # out of memory: the epoch goes on with smaller forward passes
            self._end_epoch(execution, started)
        except SuffixError as error:
            # The failed step updated nothing, so the whole network repeats it.
            self.execution = self.engine.whole(execution, self.state.epoch, error.what)
            self._keep(self.execution)
            self._run_epoch(self.execution)

    def _solve_alone(self) -> None:
        """Compute the head in closed form, if it has one, as the whole work of a run."""
        self.setup.controller.apply(FreezePlan.of(self.setup.schedule.stages, ()))
        self.execution = self.engine.prepare(self.engine.enter(range(1)), 0)
        self._keep(self.execution)
        if SOLVE in self.sets:
            self.heads.load_start(self.execution)
        self.state.solved = True
        self._score_untrained(self.execution)
        self.state.best_epoch = BEFORE
        self.save(best=True)

    def _solve(self, execution: Execution | None) -> None:
        """Compute the head in closed form before the first step, if it has one.

        Args:
            execution: The execution of the first phase; None before the phase starts.
        """
        if self.state.solved or SOLVE not in self.sets or not self.train.epochs:
            return
        head = [f"{HEAD}.{name}" for name, _ in self.setup.net.head.named_parameters()]
        plan = self._plan()
        # The phase fixes what it freezes, so a frozen head is computed before.
        if (execution is None) == plan.trainable.issuperset(head):
            return
        self.heads.load_start(execution)
        self.state.solved = True
        self.save(best=False)

    def _refit(self, epoch: int) -> None:
        """Compute the head again for a trained network, and keep it if that gives the best one."""
        state, monitor = self.state, self.setup.schedule.monitor
        if epoch == best_epoch(state.history, monitor):
            assert state.trained_checkpoint is not None
            folder = self.run_dir.checkpoints / state.trained_checkpoint
            load_model_tensors(self.setup, checkpoint.load_network(folder).model)
        # The held-out images are embedded anew: the rows may be those of another epoch's network.
        self.execution = None
        self.setup.controller.apply(FreezePlan.of(self.setup.schedule.stages, ()))
        self.heads.load(None)
        state.refit = self.heads.scored(None)
        before = state.best[monitor]
        if state.refit[monitor] > before:
            state.refitted, state.best_epoch = True, epoch
        text = refit_text(state, epoch, before, monitor)
        self.emit("notice", {"text": text, "routine": True})
        if state.refitted:
            self.save(best=True, suffix=REFIT)

    def _score_untrained(self, execution: Execution) -> None:
        read = self.scorer.read(VAL, execution)
        self.state.untrained, self.state.start = self.scorer.untrained(VAL, read)
        if self.state.solved and self.train.epochs and not self.state.inherited:
            computed = self.setup.net.head.computed
            text = start_text(self.state, self.setup.schedule.monitor, computed=computed)
            self.emit("notice", {"text": text, "routine": True})
        if TEST in self.sets:
            ready = stocked(self.scorer, self.engine, execution, TEST)
            read = self.scorer.read(TEST, execution, live=not ready)
            self.state.untrained_test, _ = self.scorer.untrained(TEST, read)
        self.emit("untrained", self.state.untrained)

    def _plan(self) -> FreezePlan:
        """Return the plan of the current epoch.

        Raises:
            ConfigError: Nothing would train.
        """
        schedule, epoch = self.setup.schedule, self.state.epoch
        plan = schedule.plan_at(epoch, self.state.history)
        # The phases of a metric-driven policy are only known during the run.
        schedule.require_trainable([Phase(epoch, epoch + 1, plan)])
        return plan

    def _start_phase(self, plan: FreezePlan) -> Execution:
        """Return the execution of the current epoch, prepared and checked."""
        controller, state = self.setup.controller, self.state
        execution, begins = self.execution, False
        if (earlier := controller.plan) != plan:
            self._apply(plan)
            # Other rates alone change nothing in how the network is computed.
            if earlier is None or (earlier.trainable, earlier.norm) != (plan.trainable, plan.norm):
                execution = None
        # A metric-driven policy may keep a plan for longer than was forecast.
        if execution is None or state.epoch not in execution.epochs:
            span = self.setup.schedule.span_at(state.epoch, state.history)
            before = state.decision if state.phase_start == span.start else None
            execution = self.engine.enter(range(state.epoch, span.stop), before)
            # A run that stopped before the first step of a phase has not begun it.
            begins = before is None or (state.epoch, state.epoch_step) == (span.start, 0)
            state.phase_start = span.start
            self._keep(execution)
        ready = self.engine.prepare(execution, state.epoch)
        if begins:
            self.epoch.begin_phase(ready)
        first = self.epoch.steps()[0][0]
        self.execution = self.engine.checked(ready, state.epoch, first.sample)
        if self.execution is not execution:
            self._keep(self.execution)
        return self.execution

    def _apply(self, plan: FreezePlan) -> None:
        controller = self.setup.controller
        if controller.plan is not None:
            controller.verify(f"the end of epoch {self.state.epoch}")
        if self.setup.net.quantized is not None:
            self.setup.net.quantized.require_frozen(plan.trainable, "backbone.")
        changes = controller.apply(plan)
        if shared := controller.shared_dropouts():
            self._remark_once("dropout", shared_dropout_text(shared))
        self.emit(
            "phase_start",
            {
                "epoch": self.state.epoch + 1,
                "trainable_parameters": sum(controller.sizes[n] for n in plan.trainable),
                "parameters": sum(controller.sizes.values()),
                "changes": [self._change_row(change) for change in changes],
                "reason": f"policy {self.setup.config.freeze.name!r}",
            },
        )

    def _keep(self, execution: Execution) -> None:
        """Store the engine's decision in the state of the run, and emit it."""
        self.state.decision = execution.decision
        self.emit("engine", {"epoch": self.state.epoch + 1, **execution.decision.to_json()})

    def _change_row(self, change: Change) -> dict[str, Any]:
        return {
            "stage": change.now.name,
            "parameters": change.now.parameters,
            "trainable": change.now.trainable,
            "was": None if change.was is None else change.was.trainable,
            "norm": change.now.norm,
            "lr": self.setup.config.optimizer.rate * change.now.lr_mult,
        }

    # --- the end of an epoch ---

    def _end_epoch(self, execution: Execution, started: float) -> None:
        state = self.state
        train_seconds = time.perf_counter() - started
        if self.setup.net.head.computed:
            self.heads.load(execution)
        metrics, train_metrics = (self.scorer.trained(execution, name) for name in (VAL, PROBE))
        record: Metrics = {
            **metrics,
            "train_loss": state.loss_sum / state.images,
            **{f"train_{name}": value for name, value in train_metrics.items()},
        }
        state.history.append(record)
        monitor = self.setup.schedule.monitor
        trained = best_epoch(state.history, monitor) == state.epoch
        state.best_epoch = best_of(state.history, state.start, monitor)
        self.emit(
            "epoch_end",
            {
                "epoch": state.epoch + 1,
                "epochs": self.train.epochs,
                "train_loss": record["train_loss"],
                "metrics": metrics,
                "train_metrics": train_metrics,
                "best": state.best_epoch == state.epoch,
                "train_seconds": train_seconds,
                "seconds": time.perf_counter() - started,
            },
        )
        self._remark()
        state.epoch += 1
        state.epoch_step, state.loss_sum, state.images = 0, 0.0, 0
        state.stopped_early = state.epoch < self.train.epochs and out_of_patience(
            self.setup.schedule, state.history, self.train.patience
        )
        self.save(best=trained)
        if state.stopped_early:
            best = best_epoch(state.history, monitor)
            assert best is not None
            self.emit("early_stop", {"epoch": state.epoch, "best_epoch": best + 1})
            patience = self.train.patience
            assert patience is not None
            if text := stopped_before(self.setup.schedule, state.history, patience):
                self.emit("notice", {"text": text})

    def _remark(self) -> None:
        """Emit a notice if the embeddings or the loss have a problem, once for each problem."""
        for name, where in ((VAL, "held-out"), (PROBE, "training")):
            text = self.scorer.remarks.get(name)
            if text is not None:
                self._remark_once(name, f"{where} images: {text}")
        if no_loss(self.state.history):
            self._remark_once("loss", NO_LOSS)

    def _remark_once(self, kind: str, text: str) -> None:
        if kind not in self._remarked:
            self._remarked.add(kind)
            self.emit("notice", {"text": text})

    # --- saving ---

    def _between_steps(self) -> None:
        self._stop_if_asked()
        self._save_if_due()

    def _save_if_due(self) -> None:
        """Save within an epoch, if the interval between checkpoints is over.

        Also save after the first step with another bound of forward passes. A resumed run then
        keeps the bound, even if it has more memory.
        """
        when, step, largest = self._saved
        seconds, steps = time.monotonic() - when, self.state.step - step
        over = self._interval is not None and self._interval.has_passed(seconds, steps)
        if over or self.state.largest_pass != largest:
            self.save(best=False)

    def save(self, *, best: bool, suffix: str = "") -> None:
        """Check that no frozen tensor changed, then publish a checkpoint.

        The check is always thorough for the last checkpoint, a best one, and one on a signal.

        Args:
            best: Whether no network that was trained before is better.
            suffix: The end of the checkpoint's name.
        """
        state, setup = self.state, self.setup
        controller = setup.controller
        # What a run ends with, is used later or goes on from must be proven, not only likely.
        certain = best or state.is_over(self.train.epochs) or self.stop.exit_code is not None
        when = f"step {state.step}"
        if certain:
            controller.verify(when)
        proven = certain or controller.verify_often(when)
        tensors, frozen = model_tensors(setup), setup.controller.fingerprints
        changing = {n: t for n, t in tensors.items() if n not in frozen}
        require_finite(changing, self.train.precision)
        own = self._attributes()
        state.attributes = own.values
        for text in () if self._told_attributes else own.notices:
            self._told_attributes = True
            self.emit("notice", {"text": text})
        state.scaler = self.epoch.stepper.scaler.state_dict()
        name = checkpoint.name_of(state.epoch, state.step) + suffix
        first = checkpoint.name_of(0, 0)
        if best:
            state.trained_checkpoint = name
        state.best_checkpoint = first if state.best_epoch == BEFORE else state.trained_checkpoint
        path = checkpoint.publish(
            self.run_dir.checkpoints,
            name,
            Checkpoint(
                model=tensors,
                optimizer={**state_tensors(setup.optimizer), **own.tensors},
                state=state.to_json(),
                frozen=frozen,
                proven=proven,
            ),
            best=state.best_checkpoint,
            # What is best before the first step or among the epochs may still become the best.
            others=(
                first if state.best_epoch in (None, BEFORE) else None,
                state.trained_checkpoint if state.solved else None,
            ),
            keep=self.train.keep_checkpoints,
        )
        self._saved = time.monotonic(), state.step, state.largest_pass
        self.emit("checkpoint", {"path": str(path), "epoch": state.epoch, "best": best})

    def _attributes(self) -> Attributes:
        """Return the attributes that changed, of the modules that train or have trained.

        Other modules are fixed functions, and what they keep are caches.
        """
        held = set(self._modules)
        if self.setup.controller.plan is not None:
            held = {name for name, module in self._modules.items() if is_held(module)}
        trained = {n: m for n, m in self._modules.items() if n not in held - self._owners}
        own = changed_attributes(trained, self._built)
        self._owners |= own.owners
        return own

    def restore(self, saved: SavedCheckpoint) -> None:
        """Restore the tensors of a checkpoint. The state was passed to the constructor.

        Raises:
            FrozenDriftError: A restored frozen tensor does not match its saved fingerprint.
        """
        self.fresh = False
        load_model_tensors(self.setup, saved.model)
        values, device = self.state.attributes, self.setup.device
        self._owners = owners_of((*values, *saved.optimizer))
        load_attributes(self._modules, values, saved.optimizer, device)
        verify(self.setup.net, saved.frozen, "the time the checkpoint was read")
        load_state_tensors(self.setup.optimizer, saved.optimizer)

    def _stop_if_asked(self) -> None:
        if self.stop.exit_code is None:
            return
        saved = "the run was saved"
        if self.epoch.in_step:
            # Buffers have counted a part of the step's images, so their state is between two steps.
            saved = "the next step lacked images, so nothing was saved since the last checkpoint"
        elif not self.state.is_over(self.train.epochs):  # a run that is over is saved already
            self.save(best=False)
        raise Interrupted(
            f"stopped by {self.stop.name} after step {self.state.step}; {saved}",
            exit_code=self.stop.exit_code,
            hint=f"continue it with {command('train --resume', self.run_dir.path)}",
        )
