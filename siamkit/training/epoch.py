"""The optimizer steps of an epoch, and what happens when one of them fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from torch import nn

from siamkit.batches import Batch, zipped
from siamkit.data.splits import Splits
from siamkit.engine.blank import SuffixError
from siamkit.engine.execution import Engine
from siamkit.engine.phase import Execution
from siamkit.engine.settings import Emit
from siamkit.engine.sources import TRAIN, Awaited
from siamkit.errors import NonFiniteError, is_out_of_memory
from siamkit.freezing.hold import unheld
from siamkit.interfaces import Phase
from siamkit.model.generators import generators_restored
from siamkit.model.undisturbed import Snapshot
from siamkit.runs.directory import RunDir
from siamkit.training.batching import LossBatch, epoch_steps, largest_pass, loss_works
from siamkit.training.build import Setup
from siamkit.training.exactness import obstacle
from siamkit.training.fitting import fitting_pass, halved_pass
from siamkit.training.loading import SECOND
from siamkit.training.rates import Rates
from siamkit.training.seeding import derive
from siamkit.training.state import RunState
from siamkit.training.step import Stepper
from siamkit.words import plural


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
        self._changing: list[nn.Module] = []
        self._made: tuple[int, list[list[LossBatch]]] | None = None  # the steps of one epoch
        self.steps_per_epoch = len(self.steps())
        self.rates = Rates(setup, state, self.steps_per_epoch)

    def steps(self) -> list[list[LossBatch]]:
        """Return the losses of each step of the current epoch, made once."""
        epoch, largest = self.state.epoch, self.state.largest_pass
        if self._made is None or self._made[0] != epoch:
            made = epoch_steps(self.settings, self.splits.train, epoch, largest)
            self._made = epoch, made
        return self._made[1]

    def begin_phase(self) -> None:
        """Choose the size of forward passes for the plan that was applied.

        Raises:
            ConfigError: With the size in the config, the result would change.
        """
        state, settings = self.state, self.settings
        before, error = state.largest_pass, obstacle(self.setup.controller, self._phase())
        if error:
            if settings.accumulation == "exact" and settings.pass_size < settings.batch_size:
                raise error
            state.largest_pass = None
        if settings.micro_batch == "auto":
            self._fit_memory(may_split=error is None)
        elif error and before is not None:
            self._notice(f"a forward pass takes the whole batch again: {error.what}")
        if state.largest_pass != before:
            self._made = None

    def _fit_memory(self, may_split: bool) -> None:
        """Choose the size of forward passes by the free memory."""
        fit = fitting_pass(self.setup)
        if fit is None:
            self._notice(
                "the memory of a step cannot be predicted for this network: forward passes become "
                "smaller if the memory runs out"
            )
            return
        needs = (
            f"a step with all {self.settings.batch_size} images in a forward pass needs about "
            f"{_gb(fit.whole)} of memory, and {_gb(fit.free)} are free"
        )
        if fit.images == self.settings.batch_size:
            self.state.largest_pass = None
        elif not may_split:
            self._notice(f"{needs}; smaller passes would change the result")
        else:
            self.state.largest_pass = fit.images
            self._notice(
                f"{needs}: a forward pass has at most {plural(fit.images, 'image')}, which needs "
                f"about {_gb(fit.needed)}"
            )

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
        try:
            with generators_restored():  # each step seeds them
                self._train(execution, engine)
            return True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # The exception held the tensors of the failed step until here.
        self._shrink()
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
        self._changing = [*unheld(net), *self.setup.loss.modules()]
        for step in left:
            images = sum(len(part.images) for part in step)
            started, waited = time.perf_counter(), loaded.seconds
            self.rates.set(unfrozen)
            loss = self._step(loaded, step, execution, engine)
            state.step += 1
            state.epoch_step += 1
            state.loss_sum += loss * images
            state.images += images
            seconds = time.perf_counter() - started
            if self.stepper.overflowed:
                self._say_overflow()
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
    ) -> float:
        before = Snapshot(self._changing)
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
        for images in (images for part in parts for images in part.passes):
            if reason := engine.difference(execution, self.state.epoch, images):
                return SuffixError(reason)
        keys = [self.splits.train.samples[i].key for part in parts for i in part.images]
        self.emit("non_finite", {"step": self.state.step, "samples": keys})
        return NonFiniteError(
            f"{error.what} in epoch {self.state.epoch + 1}, step {self.state.epoch_step + 1}; "
            f"no update was made",
            got=error.got,
            hint=f"{error.hint}; {self.run_dir.events} lists the batch's images",
        )

    def _shrink(self) -> None:
        """Halve the size of the forward passes, and emit a notice.

        Raises:
            ResourceError: They cannot be smaller.
        """
        state = self.state
        largest = largest_pass(self.steps()[state.epoch_step :])
        where = f"in epoch {state.epoch + 1}, step {state.epoch_step + 1}"
        state.largest_pass = halved_pass(self.setup, self._phase(), largest, where)
        self._made = None
        self._notice(
            f"out of memory {where}, with {largest} images per forward pass: from here on, a "
            f"forward pass has at most {plural(state.largest_pass, 'image')}. The loss still "
            "compares the same images, so the result is the same up to rounding"
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
