"""The optimizer steps of an epoch, and what happens when one of them fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from siamkit.batches import Batch, zipped
from siamkit.data.splits import Splits
from siamkit.engine.blank import SuffixError
from siamkit.engine.execution import Engine
from siamkit.engine.phase import Execution
from siamkit.engine.settings import Emit
from siamkit.engine.sources import TRAIN, Awaited
from siamkit.errors import NonFiniteError, is_out_of_memory
from siamkit.freezing.controller import FreezeController
from siamkit.freezing.hold import unheld
from siamkit.interfaces import FreezePlan, Phase
from siamkit.model.generators import generators_restored
from siamkit.model.undisturbed import Snapshot
from siamkit.runs.directory import RunDir
from siamkit.training.batching import LossBatch, epoch_steps, largest_pass, loss_works
from siamkit.training.build import Setup
from siamkit.training.exactness import cuts_batches, not_exact, obstacle, require_exact
from siamkit.training.fitting import fitting_pass, free_memory, halved_pass
from siamkit.training.loading import SECOND
from siamkit.training.rates import Rates
from siamkit.training.seeding import derive
from siamkit.training.splitting import Splitting, try_splitting
from siamkit.training.state import RunState, no_gradient_text
from siamkit.training.step import Stepper
from siamkit.training.untrained import untrained_cause
from siamkit.words import data_size, plural


class EpochTrainer:
    """Carries out the optimizer steps of the epochs of a run.

    Attributes:
        steps_per_epoch: The number of optimizer steps in an epoch.
        stepper: Carries out each step.
        in_step: Whether a step has begun and not ended.

    Args:
        setup: The parts of the run.
        splits: The run's data.
        state: The run's state; updated after each step.
        run_dir: The run's directory.
        emit: Called with every event.
        between: Called after each step; may raise to stop.
    """

    def __init__(
        self,
        setup: Setup,
        splits: Splits,
        state: RunState,
        run_dir: RunDir,
        emit: Emit,
        between: Callable[[], None],
    ) -> None:
        self.setup, self.splits, self.state = setup, splits, state
        self.run_dir, self.emit, self.between = run_dir, emit, between
        config = setup.config
        self.settings = config.train
        self.stepper = Stepper(
            setup.net,
            setup.loss,
            setup.optimizer,
            setup.device,
            self.settings.precision,
            config.optimizer.clip_norm,
        )
        if state.scaler:
            self.stepper.scaler.load_state_dict(state.scaler)
        self.in_step = False
        self._made: tuple[int, list[list[LossBatch]]] | None = None  # the steps of one epoch
        self._unreached = _Unreached(setup.controller)
        self._tried: tuple[tuple[object, FreezePlan], Splitting] | None = None
        self.steps_per_epoch = len(self.steps())
        self.rates = Rates(setup, state, self.steps_per_epoch)

    def steps(self) -> list[list[LossBatch]]:
        """Return the losses of each step of the current epoch, made once."""
        epoch, largest = self.state.epoch, self.state.largest_pass
        if self._made is None or self._made[0] != epoch:
            made = epoch_steps(self.settings, self.splits.train, epoch, largest)
            self._made = epoch, made
        return self._made[1]

    def begin_phase(self, execution: Execution) -> None:
        """Choose the size of forward passes for the plan that was applied.

        Args:
            execution: The execution of the phase, prepared for the epoch.

        Raises:
            ConfigError: With the settings, the result would change.
        """
        require_exact(self.settings, self.setup.controller, [self._phase()])
        if self.settings.micro_batch == "auto":
            self._fit_memory(execution)
        self._require_splitting(execution)

    def _fit_memory(self, execution: Execution) -> None:
        """Choose the size of forward passes by the free memory."""
        fit = fitting_pass(self.setup, execution)
        if fit is None:
            self._notice(
                "the memory of a step cannot be predicted for this network: forward passes become "
                "smaller if the memory runs out"
            )
            return
        self._bound(None)
        if fit.images == self.settings.batch_size:
            return
        needs = (
            f"a step with all {self.settings.batch_size} images in a forward pass needs about "
            f"{data_size(fit.whole)} of memory, and {data_size(fit.free)} are free"
        )
        if obstacle := self._splitting(execution).obstacle:
            self._notice(f"{needs}; smaller passes would change the result: {obstacle}")
            return
        self._bound(fit.images)
        short = "" if fit.needed < fit.free else ", so the memory may run out"
        self._notice(
            f"{needs}: a forward pass has at most {plural(fit.images, 'image')}, which needs about "
            f"{data_size(fit.needed)}{short}"
        )

    def _require_splitting(self, execution: Execution) -> None:
        """Take the whole batch if smaller passes would change the result, or refuse to go on.

        Raises:
            NotExactError: The config sets smaller passes.
        """
        # None is left if the run stopped after the epoch's last step, before its end.
        left = self.steps()[self.state.epoch_step :]
        passes = max((len(part.passes) for step in left for part in step), default=0)
        obstacle = self._splitting(execution).obstacle if passes > 1 else None
        if obstacle is None:
            return
        if cuts_batches(self.settings):
            raise not_exact(obstacle, f" in epoch {self.state.epoch + 1}")
        self._bound(None)
        self._notice(f"a forward pass takes the whole batch again: {obstacle}")

    def _splitting(self, execution: Execution) -> Splitting:
        """Return whether forward passes may be smaller. Each execution is tried once."""
        plan = self._phase().plan
        if self._tried is None or self._tried[0] != (execution.forward, plan):
            found = Splitting(obstacle(self.setup.controller, plan))
            if found.obstacle is None:
                batch = self.steps()[self.state.epoch_step][0].images
                found = try_splitting(self.setup, execution, self.state.epoch, batch)
            self._tried = (execution.forward, plan), found
        return self._tried[1]

    def _bound(self, largest: int | None) -> None:
        """Bound the forward passes that are left; None for no bound but that of the settings."""
        if self.state.largest_pass != largest:
            self.state.largest_pass, self._made = largest, None

    def _phase(self) -> Phase:
        plan = self.setup.controller.plan
        assert plan is not None
        return Phase(self.state.epoch, self.state.epoch + 1, plan)

    def _notice(self, text: str) -> None:
        self.emit("notice", {"text": text})

    def train(self, execution: Execution, engine: Engine) -> bool:
        """Carry out the steps of the current epoch that are left.

        Args:
            execution: The execution of the phase, prepared for the epoch.
            engine: The engine that made it.

        Returns:
            Whether all steps were carried out. If the memory ran out, forward passes are smaller
            from now on, and the next call continues with the failed step.

        Raises:
            NonFiniteError: A loss or gradient is not finite.
            ResourceError: The memory ran out, and forward passes cannot be smaller.
            SuffixError: The cut network failed. The failed step updated nothing.
        """
        self._require_splitting(execution)
        try:
            with generators_restored():  # each step seeds them
                self._train(execution, engine)
            return True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # The exception held the tensors of the failed step until here.
        self._shrink(execution)
        return False

    def _train(self, execution: Execution, engine: Engine) -> None:
        state, net = self.state, self.setup.net
        steps = self.steps()
        left = steps[state.epoch_step :]
        flat = [images for step in left for part in step for images in part.passes]
        view = execution.view(state.epoch)
        names = (TRAIN, SECOND) if self.setup.loss.second_view else (TRAIN,)
        loaded = Awaited(zipped([execution.sources[n].batches(flat, view) for n in names]))
        self.stepper.forward = execution.forward
        unfrozen = self.rates.unfrozen_at()
        net.train()
        # The modules to restore before a step is repeated. Held modules do not change.
        changing = [*unheld(net), *self.setup.loss.modules()]
        before: Snapshot | None = None
        for step in left:
            images = sum(len(part.images) for part in step)
            started, waited = time.perf_counter(), loaded.seconds
            self.rates.set(unfrozen)
            self.stepper.first = not state.step
            before = Snapshot(changing, over=before)  # a loss may have a memory of 100 MB
            loss = self._step(loaded, step, execution, engine, before)
            state.step += 1
            state.epoch_step += 1
            state.loss_sum += loss * images
            state.images += images
            seconds = time.perf_counter() - started
            if self.stepper.overflowed:
                self._say_overflow()
            last = state.epoch + 1 == execution.epochs.stop and state.epoch_step == len(steps)
            if text := self._unreached.after(last=last):
                self._notice(text)
            self.emit(
                "step",
                {
                    "epoch": state.epoch + 1,
                    "step": state.step,
                    "steps": self.steps_per_epoch * self.settings.epochs,
                    "epoch_step": state.epoch_step,
                    "epoch_steps": len(steps),
                    "loss": loss,
                    **self.rates.current(),
                    "images_per_second": images / seconds,
                    "seconds": seconds,
                    "input_seconds": loaded.seconds - waited,
                },
            )
            self.between()

    def _step(
        self,
        batches: Iterator[Batch],
        parts: Sequence[LossBatch],
        execution: Execution,
        engine: Engine,
        before: Snapshot,
    ) -> float:
        try:
            return self._attempt(batches, parts)
        except Exception as raised:
            error = raised
            if isinstance(raised, NonFiniteError):
                error = self._explained(raised, parts, execution, engine)
            if isinstance(error, SuffixError) or is_out_of_memory(error):
                # Batch norms have counted this batch, and the step will be repeated.
                before.restore()
            if error is raised:
                raise
            raise error from None
        finally:
            self.in_step = False

    def _attempt(self, batches: Iterator[Batch], parts: Sequence[LossBatch]) -> float:
        def watched() -> Iterator[Batch]:
            for batch in islice(batches, sum(len(part.passes) for part in parts)):
                self.in_step = True
                yield batch

        # Dropout draws from torch's generator. Seeding it by the step's number makes a resumed run
        # drop the same values as an uninterrupted one.
        seed = derive(self.settings.seed, "step", self.state.step)
        return self.stepper(loss_works(parts, watched()), seed)

    def _say_overflow(self) -> None:
        scale = self.stepper.scaler.get_scale()
        self._notice(
            f"fp16 overflow in step {self.state.step}: the step updated nothing, and the loss is "
            f"scaled by {scale:g} from now on"
        )

    def _explained(
        self,
        error: NonFiniteError,
        parts: Sequence[LossBatch],
        execution: Execution,
        engine: Engine,
    ) -> NonFiniteError | SuffixError:
        """Return the error about a step whose loss or gradient is not finite."""
        epoch, passes = self.state.epoch, [images for part in parts for images in part.passes]
        for images in passes:
            if reason := engine.difference(execution, epoch, images):
                return SuffixError(reason)
        seen = (engine.images(execution, epoch, images) for images in passes)
        cause = untrained_cause(self.setup, self.state, seen)
        keys = [self.splits.train.samples[i].key for part in parts for i in part.images]
        self.emit("non_finite", {"step": self.state.step, "samples": keys})
        return NonFiniteError(
            f"{error.what} in epoch {self.state.epoch + 1}, step {self.state.epoch_step + 1}; "
            f"no update was made",
            got=error.got,
            hint=f"{cause or error.hint}; {self.run_dir.events} lists the batch's images",
        )

    def _shrink(self, execution: Execution) -> None:
        """Halve the size of the forward passes, and emit a notice.

        Raises:
            ResourceError: They cannot be smaller.
        """
        state = self.state
        largest = largest_pass(self.steps()[state.epoch_step :])
        where = f"in epoch {state.epoch + 1}, step {state.epoch_step + 1}"
        free_memory(self.setup)
        splitting = self._splitting(execution)
        smaller = halved_pass(self.setup, splitting.obstacle, largest, where)
        self._bound(smaller)
        self._notice(
            f"out of memory {where}, with {largest} images per forward pass: from here on, a "
            f"forward pass has at most {plural(smaller, 'image')}. The loss still compares the "
            f"same images, so the result is {_SAME[splitting.draws]}"
        )


_WATCHED = 8
"""After so many steps of a phase, a notice names the stages that got no gradient. It comes no
earlier, because a network may skip stages at random."""


class _Unreached:
    """Finds the stages that train by the plan, but get no gradient in the first steps of a phase.

    Args:
        controller: The controller that applies the plans.
    """

    def __init__(self, controller: FreezeController) -> None:
        self._controller = controller
        self._plan: FreezePlan | None = None
        self._stages: list[str] = []
        self._steps = 0

    def after(self, *, last: bool) -> str | None:
        """Return a notice, once for each phase; None if there is no such stage, or it is early.

        Args:
            last: Whether the phase ends with the step that was done.
        """
        if self._plan is not self._controller.plan:
            self._plan, self._steps = self._controller.plan, 0
            self._stages = self._controller.without_gradient()
        elif self._stages:
            now = self._controller.without_gradient()
            self._stages = [stage for stage in self._stages if stage in now]
        self._steps += 1
        if not self._stages or not (last or self._steps == _WATCHED):
            return None
        stages, self._stages = self._stages, []
        return no_gradient_text(stages, self._steps)


_SAME = {
    False: "the same up to rounding",
    True: "the same up to rounding and the random numbers of dropout or stochastic depth, which "
    "each pass draws for itself",
}
"""How the result with smaller passes compares, by whether the network draws random numbers."""
