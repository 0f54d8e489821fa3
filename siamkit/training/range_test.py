"""The range test: trains with a rising learning rate, and measures the loss on fixed batches.

Smith (2017), "Cyclical Learning Rates for Training Neural Networks", https://arxiv.org/abs/1506.01186.
The loss of the batch that was just trained on says little here: batches of a metric loss differ
more among each other than a step changes them. So the loss is measured on the same few batches
after each step, and the test is repeated on other batches from the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count, islice

import torch
from torch import Tensor

from siamkit.batches import Batch, zipped
from siamkit.config import TrainConfig
from siamkit.data.images import ImageSet
from siamkit.data.splits import Splits
from siamkit.engine.blank import SuffixError
from siamkit.engine.decision import PhaseDecision
from siamkit.engine.execution import Engine
from siamkit.engine.phase import Execution
from siamkit.engine.settings import Reports
from siamkit.engine.sources import TRAIN
from siamkit.errors import NonFiniteError, is_out_of_memory
from siamkit.interfaces import Phase
from siamkit.model.generators import generators_restored, seed_generators
from siamkit.model.trace import evaluating
from siamkit.model.undisturbed import Snapshot, undisturbed
from siamkit.registry import Registry
from siamkit.training.batching import LossBatch, epoch_steps, largest_pass, loss_works
from siamkit.training.build import Setup, build_optimizer
from siamkit.training.exactness import cuts_batches, not_exact, obstacle
from siamkit.training.fitting import fitting_pass, free_memory, halved_pass
from siamkit.training.loading import SECOND, SOLVE, decider_of, load_sets
from siamkit.training.optimizer import load_state_tensors, rates, set_rates, state_tensors
from siamkit.training.scoring import Scorer
from siamkit.training.seeding import derive
from siamkit.training.solving import read_training, solve
from siamkit.training.splitting import try_splitting
from siamkit.training.state import RunState
from siamkit.training.step import Stepper, advice, autocast, by_view, moved, promoted
from siamkit.training.suggestion import Curve, is_over

WATCHED = 2
"""The number of batches whose loss is measured after each step."""

REPEATS = 3
"""The number of times that the rates are tried, each time from the same weights."""

Step = list[LossBatch]
"""The micro-batches of a step."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a range test.

    Attributes:
        curves: One curve per repeat.
        decision: How the engine computed the frozen part.
    """

    curves: tuple[Curve, ...]
    decision: PhaseDecision


def tried_rates(lowest: float, highest: float, steps: int) -> tuple[float, ...]:
    """Return ``steps`` rates from ``lowest`` to ``highest``, each the same multiple of the last."""
    growth = math.log(highest / lowest) / (steps - 1)
    return tuple(lowest * math.exp(growth * i) for i in range(steps))


def planned_steps(
    config: TrainConfig,
    images: ImageSet,
    first_epoch: int,
    needed: int,
    largest: int | None = None,
) -> list[Step]:
    """Return the first ``needed`` steps of a training that begins with an epoch.

    If an epoch has too few steps, those of the next epochs follow.

    Args:
        config: The training's settings.
        images: The training images.
        first_epoch: The epoch, from 0.
        needed: The number of steps.
        largest: The most images in a forward pass; None if only the settings bound it.
    """
    found: list[Step] = []
    for epoch in count(first_epoch):
        found += epoch_steps(config, images, epoch, largest)
        if len(found) >= needed:
            return found[:needed]
    raise AssertionError("an epoch has a step")


def visited(images: ImageSet, steps: Sequence[Step]) -> tuple[ImageSet, list[Step]]:
    """Return the images that the steps visit, and the steps with the indices of these images.

    So the test prepares no image that it does not need. Labels and classes stay as they are. A head
    in closed form needs a class of two images, so one is added if the steps visit none.
    """
    seen = {i for step in steps for part in step for i in part.images}
    used = sorted(seen if images.tuples is not None else seen | _a_pair(images, seen))
    place = {image: number for number, image in enumerate(used)}

    def renumbered(part: LossBatch) -> LossBatch:
        passes = tuple([place[i] for i in images] for images in part.passes)
        return replace(part, images=[place[i] for i in part.images], passes=passes)

    tuples = images.tuples
    if tuples is not None:
        whole = [n for n, row in enumerate(tuples.rows) if seen.issuperset(row)]
        tuples = tuples.take(whole, place)
    found = ImageSet(tuple(images.samples[i] for i in used), images.classes, tuples)
    return found, [[renumbered(part) for part in step] for step in steps]


def _a_pair(images: ImageSet, seen: set[int]) -> set[int]:
    """Return two images of one class if no two seen images are of the same; else nothing."""
    labels = images.labels
    if len({labels[i] for i in seen}) < len(seen):
        return set()
    first: dict[int, int] = {}
    for index, label in enumerate(labels):
        if first.setdefault(label, index) != index:
            return {first[label], index}
    return set()


def run_range_test(
    setup: Setup,
    registries: Mapping[str, Registry],
    splits: Splits,
    phase: Phase,
    rates_to_try: Sequence[float],
    reports: Reports,
    progress: Callable[[int, int], None],
) -> Outcome:
    """Run the test. The weights, buffers and generators are as before when it ends.

    There is one exception: a head with a closed form has the one of the images of the test.

    Args:
        setup: The parts of a run, with the network and the optimizer of the start of the phase.
        registries: The registry of each component section.
        splits: The data of the run.
        phase: The phase of the plan to test under.
        rates_to_try: The head's learning rate in each step, rising.
        reports: Callbacks during long work.
        progress: Called with the number of steps done and the number of all steps.

    Raises:
        NonFiniteError: The loss is not finite before the first step.
        ResourceError: The memory ran out, and forward passes cannot be smaller.
    """
    needed = WATCHED + REPEATS * len(rates_to_try)
    setup.controller.apply(phase.plan)
    largest: int | None = None
    found = obstacle(setup.controller, phase.plan)
    if setup.config.train.micro_batch == "auto" and found is None:
        fit = fitting_pass(setup)
        largest = fit.images if fit else None
    while True:
        steps = planned_steps(setup.config.train, splits.train, phase.start_epoch, needed, largest)
        images, planned = visited(splits.train, steps)
        small = replace(splits, train=images, test=None)
        try:
            return _tested(
                setup, registries, small, planned, phase, rates_to_try, reports, progress
            )
        except SuffixError as error:
            text = f"the range test runs the whole network, without a cache: {error.what}"
            reports.emit("notice", {"text": text})
            engine = setup.config.engine.model_copy(update={"cut": "off"})
            setup.config = setup.config.model_copy(update={"engine": engine})
            continue
        except _Indivisible as error:
            if cuts_batches(setup.config.train):
                raise not_exact(error.args[0]) from None
            found, largest = error.args[0], None
            continue
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_memory(setup)
        largest = halved_pass(setup, found, largest_pass(planned), "in the range test")


class _Indivisible(Exception):
    """Smaller forward passes would change the result, for the given reason."""


def _tested(
    setup: Setup,
    registries: Mapping[str, Registry],
    splits: Splits,
    planned: Sequence[Step],
    phase: Phase,
    rates_to_try: Sequence[float],
    reports: Reports,
    progress: Callable[[int, int], None],
) -> Outcome:
    count_of_rates = len(rates_to_try)
    with ExitStack() as closing:
        closing.enter_context(generators_restored())
        test = _Test(setup, registries, splits, planned, phase.start_epoch, reports)
        closing.callback(test.close)
        progress(0, REPEATS * count_of_rates)
        curves = []
        for before in range(0, REPEATS * count_of_rates, count_of_rates):
            first = WATCHED + before
            steps = zip(rates_to_try, planned[first : first + count_of_rates], strict=True)

            def advance(done: int, before: int = before) -> None:
                progress(before + done, REPEATS * count_of_rates)

            curves.append(test.sweep(list(steps), phase, before, advance))
        return Outcome(tuple(curves), test.execution.decision)


class _Test:
    """The state of a range test: the engine, and the batches whose loss is watched."""

    def __init__(
        self,
        setup: Setup,
        registries: Mapping[str, Registry],
        splits: Splits,
        planned: Sequence[Step],
        epoch: int,
        reports: Reports,
    ) -> None:
        self.setup, self.registries, self.reports = setup, registries, reports
        self._fresh = Snapshot(setup.loss.modules())
        every = load_sets(setup, splits, reports.check)
        self.sets = {name: part for name, part in every.items() if part.trains or name == SOLVE}
        self.names = [TRAIN, SECOND] if setup.loss.second_view else [TRAIN]
        visits = sum(len(part.images) for step in planned for part in step) * len(self.names)
        self.engine = Engine(decider_of(setup, self.sets, visits, reports))
        # Every step uses the view of the phase's first epoch, which a training then finds cached.
        self.epoch = epoch
        entered = self.engine.enter(range(epoch, epoch + 1))
        ready = self.engine.prepare(entered, epoch)
        self.execution: Execution = self.engine.checked(ready, epoch, planned[0][0].sample)
        # After the first phase, the head is trained. Steps need no computed head.
        if SOLVE in self.sets and not epoch and not self.setup.net.head.computed:
            self._solve(largest_pass(planned))
        if any(len(part.passes) > 1 for step in planned for part in step):
            tried = try_splitting(setup, self.execution, epoch, planned[0][0].images)
            if tried.obstacle is not None:
                raise _Indivisible(tried.obstacle)
        watched = planned[:WATCHED]
        self._watched: list[tuple[list[Batch], LossBatch]] = []
        for step, batches in zip(watched, self._loaded(watched), strict=True):
            each = iter(batches)
            self._watched += [(list(islice(each, len(part.passes))), part) for part in step]

    def _solve(self, largest: int) -> None:
        """Compute the head in closed form, where a training starts, from the images of the test."""
        state = RunState(largest_pass=largest)
        scorer = Scorer(self.setup, {SOLVE: self.sets[SOLVE]}, state, self.reports.emit)
        read = read_training(scorer, self.engine, self.execution)
        solve(self.setup, read, torch.tensor(self.sets[SOLVE].images.labels))

    def close(self) -> None:
        self.engine.close()
        for part in self.sets.values():
            part.source.close()

    def _loaded(self, steps: Sequence[Step]) -> Iterator[list[Batch]]:
        """Yield the batches of each step."""
        view = self.execution.view(self.epoch)
        flat = [images for step in steps for part in step for images in part.passes]
        loaded = zipped([self.execution.sources[n].batches(flat, view) for n in self.names])
        for step in steps:
            yield list(islice(loaded, sum(len(part.passes) for part in step)))

    def sweep(
        self,
        steps: Sequence[tuple[float, Step]],
        phase: Phase,
        before: int,
        advance: Callable[[int], None],
    ) -> Curve:
        """Try the rates once, until the loss rises after its first valley.

        Args:
            steps: The rate and the micro-batches of each step.
            phase: The phase to test under.
            before: The number of steps of earlier repeats, so that no step draws the same random
                numbers as another.
            advance: Called with the number of steps done.
        """
        setup, config = self.setup, self.setup.config
        optimizer = build_optimizer(
            config.optimizer,
            self.registries["optimizer"],
            setup.net,
            setup.loss,
            setup.schedule.stages,
        )
        # A later phase goes on with what the optimizer knows of the epochs before. This copies it.
        load_state_tensors(optimizer, state_tensors(setup.optimizer))
        stepper = Stepper(
            setup.net, setup.loss, optimizer, setup.device, config.train.precision,
            config.optimizer.clip_norm,
        )  # fmt: skip
        with _untouched(setup):
            losses = [self._loss()]
            loaded = self._loaded([step for _, step in steps])
            for number, ((rate, step), batches) in enumerate(zip(steps, loaded, strict=True)):
                self.reports.check()
                base = config.optimizer.model_copy(update={"lr": rate})
                set_rates(optimizer, rates(base, phase.plan, 1.0), rate)
                stepper.forward = self.execution.forward
                setup.net.train()
                try:
                    seed = derive(config.train.seed, "range test", before + number)
                    stepper(loss_works(step, iter(batches)), seed)
                    losses.append(self._loss())
                except NonFiniteError:
                    break
                advance(number + 1)
                if is_over(losses):
                    break
            advance(len(steps))
        return Curve(tuple(rate for rate, _ in steps[: len(losses) - 1]), tuple(losses))

    def _loss(self) -> float:
        """Return the loss of the watched batches, weighted as the parts of one step.

        A loss with a cross-batch memory is measured with the memory of before the first step. Each
        step adds embeddings to the memory, which would change the measured loss at any rate.
        """
        setup, total, size = self.setup, 0.0, 0
        kept = Snapshot(setup.loss.modules())
        self._fresh.restore()
        with evaluating(setup.net), setup.net.comparing():
            for place, (batches, part) in enumerate(self._watched):
                # A loss that draws at random draws the same each time.
                seed_generators(derive(setup.config.train.seed, "watched", place))
                total += float(self._loss_of(batches, part)) * part.size
                size += part.size
        kept.restore()
        if not math.isfinite(total):
            # Only before the first step; later, this ends the sweep.
            hint = advice(setup.config.train.precision, first=True)
            raise NonFiniteError("the loss is not finite", got=total, hint=hint)
        return total / size

    def _loss_of(self, batches: Sequence[Batch], part: LossBatch) -> Tensor:
        setup = self.setup
        views = len(self.names)
        outputs = []
        for batch in batches:
            with autocast(setup.device, setup.config.train.precision):
                # A copy, because a network may change its input, and the batch is used again.
                inputs = batch.inputs.to(setup.device, copy=True)
                outputs.append(promoted(self.execution.forward(inputs)))
        embeddings = by_view(outputs, views)
        if part.tuples is not None:
            loss: Tensor = setup.loss(embeddings, None, moved(part.tuples, setup.device))
        else:
            labels = by_view([batch.labels for batch in batches], views).to(setup.device)
            loss = setup.loss(embeddings, labels)
        return loss


@contextmanager
def _untouched(setup: Setup) -> Iterator[None]:
    """Restore the network and the loss after the block, parameters included."""
    modules = setup.net, setup.loss
    kept = [(p, p.detach().clone()) for m in modules for p in m.parameters() if p.requires_grad]
    with undisturbed(setup.net), undisturbed(setup.loss):
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in kept:
                    parameter.copy_(value)
