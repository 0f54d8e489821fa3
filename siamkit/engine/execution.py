"""The engine: carries out each phase as decided, from the cache or live.

A phase is a span of epochs with one freeze plan. At its start, the decider
(:mod:`siamkit.engine.deciding`) splits (cuts) the network into its frozen first part (the prefix)
and the rest (the suffix), and decides whether the prefix runs for every batch or once per image and
view (an augmented version of the image). Either way, the same batches give the same losses, up to
the rounding of the arithmetic and of the stored outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from siamkit.batches import BatchSource
from siamkit.engine.cache.store import OverflowInCache
from siamkit.engine.comparison import comparison_is_due, guarded, images_to_compare
from siamkit.engine.deciding import Decider
from siamkit.engine.decision import PhaseDecision
from siamkit.engine.phase import CutPhase, Execution
from siamkit.engine.sources import TRAIN, CachedSource, LiveSource
from siamkit.engine.trial import TOLERANCE
from siamkit.model.device import laid_out_for
from siamkit.spelling import command, setting


class Engine:
    """Carries out each phase of a run.

    Args:
        decider: It decides how. The engine computes the rows of its late sets on demand
            (:meth:`stock`).
    """

    def __init__(self, decider: Decider) -> None:
        self.decider, self.net = decider, decider.net
        self.inputs, self.late = decider.inputs, decider.late
        self.settings, self.reports = decider.settings, decider.reports
        self._open: CutPhase | None = None

    def close(self) -> None:
        """Close the cache of the phase, so that other processes may evict it."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def enter(self, epochs: range, before: PhaseDecision | None = None) -> Execution:
        """Decide how the rest of a phase is computed. Call :meth:`prepare` before each epoch.

        Args:
            epochs: The epochs left in the phase.
            before: The decision at the start of the phase; None if the phase starts now.

        Returns:
            The sources of the phase's batches, and the function that embeds them.
        """
        self.close()
        phase = self.decider.decide(epochs, before)
        if isinstance(phase, PhaseDecision):
            return self._whole(phase, epochs)
        sources: dict[str, BatchSource]
        every = {**self.inputs, **self.late}
        if phase.plan.mode == "live":
            phase.close()
            assert phase.choice is not None
            kernel = phase.choice.kernel
            sources = {name: LiveSource(part.source, kernel) for name, part in every.items()}
        else:
            self._open = phase
            # Behind the features comes only the head, which needs little memory.
            device, keep = self.settings.device, phase.cut.boundary.is_features
            sources = {n: CachedSource(p.labels, device, keep) for n, p in every.items()}
        forward = partial(guarded, phase.cut.suffix)
        return Execution(phase.decision(before), epochs, sources, forward, phase)

    def prepare(self, execution: Execution, epoch: int) -> Execution:
        """Compute and store the prefix's outputs that an epoch reads and the cache lacks.

        Args:
            execution: The execution of the phase.
            epoch: The epoch.

        Returns:
            The execution; a new one if the cache cannot be used as planned.
        """
        phase = execution.parts
        if phase is None or phase.plan.mode == "live":
            return execution
        rest = range(epoch, execution.epochs.stop)
        try:
            reason = self._stock(execution, phase, execution.view(epoch), self.inputs)
        except OverflowInCache as error:
            self.reports.emit("notice", {"text": str(error)})
            again = replace(execution.decision, dtype="float32")
            return self.prepare(self.enter(rest, again), epoch)
        if reason is None:
            return execution
        self.reports.emit("notice", {"text": f"{reason}: this phase runs without the cache"})
        short = "the cache differs from the network"
        return self.enter(rest, execution.decision.falling_back("live", short))

    def checked(self, execution: Execution, epoch: int, batch: Sequence[int]) -> Execution:
        """Compare the cut network with the whole one on a real batch, in some epochs.

        A forward may branch on images or batches that the cut was not tried on.

        Args:
            execution: The execution of the phase, prepared for the epoch.
            epoch: The epoch.
            batch: Indices of the images of the epoch's first batch.

        Returns:
            The execution; one of the whole network if the cut network differs from it.
        """
        phase = execution.parts
        if phase is None or not comparison_is_due(epoch - execution.epochs.start):
            return execution
        count = images_to_compare(phase.times.prefix, len(batch))
        reason = self.difference(execution, epoch, batch[:count])
        return execution if reason is None else self.whole(execution, epoch, reason)

    def images(self, execution: Execution, epoch: int, batch: Sequence[int]) -> Tensor:
        """Return the training images ``[N, C, H, W]`` of a batch, in their views of an epoch."""
        view = execution.view(epoch)
        return torch.stack([self.inputs[TRAIN].example(index, view) for index in batch])

    def difference(self, execution: Execution, epoch: int, batch: Sequence[int]) -> str | None:
        """Return how the cut network differs from the whole one on images; None if they agree.

        Args:
            execution: The execution of the phase, prepared for the epoch.
            epoch: The epoch.
            batch: Indices of the images.
        """
        phase = execution.parts
        if phase is None:
            return None
        indices, view = list(batch), execution.view(epoch)
        images = laid_out_for(self.net, self.images(execution, epoch, batch))
        activations, tolerance = None, TOLERANCE
        if phase.cache is not None and phase.plan.mode == "cached" and phase.dtype.itemsize > 2:
            # Rows of full precision replace the prefix's run, and are checked by the comparison.
            (rows,) = execution.sources[TRAIN].batches([indices], view)
            activations, tolerance = rows.inputs.to(images.device), phase.cache.tolerance
        return phase.cut.differs(images, activations, tolerance)

    def whole(self, execution: Execution, epoch: int, reason: str) -> Execution:
        """Return the execution of the whole network for the rest of a phase, and emit a notice.

        Args:
            execution: The execution of the phase.
            epoch: The epoch that runs or comes next.
            reason: The difference between the cut network and the whole one.
        """
        self.close()
        decision = execution.decision.falling_back(
            "whole", f"the cut network differs from the whole one on a training batch: {reason}"
        )
        text = (
            f"{decision.reason}; this phase runs the whole network "
            f"({setting('engine.cut', 'off')} does so in all phases)"
        )
        self.reports.emit("notice", {"text": text})
        return self._whole(decision, range(epoch, execution.epochs.stop))

    def _whole(self, decision: PhaseDecision, epochs: range) -> Execution:
        every = {**self.inputs, **self.late}
        sources = {name: part.source for name, part in every.items()}
        return Execution(decision, epochs, sources, self.net)

    def _trains(self, name: str) -> bool:
        return name in self.inputs and self.inputs[name].trains

    def stock(self, execution: Execution, name: str) -> str | None:
        """Compute and store the rows of a late set that the cache lacks, if the phase is cached.

        Args:
            execution: The execution of the phase, prepared for an epoch.
            name: The name of the set.

        Returns:
            The reason why the rows cannot be used, or None.

        Raises:
            OverflowInCache: A value is too large for the type of the rows.
            ResourceError: The disk is full, or the cache would exceed its size.
        """
        phase = execution.parts
        if phase is None or phase.plan.mode != "cached":
            return None
        # The planner only counted what every epoch reads.
        return self._stock(execution, phase, 0, (name,), strict=True)

    def _stock(
        self,
        execution: Execution,
        phase: CutPhase,
        view: int,
        names: Iterable[str],
        *,
        strict: bool = False,
    ) -> str | None:
        """Compute the missing rows of some sets, and pass the sets' rows to the sources.

        Args:
            execution: The execution of the phase.
            phase: The parts of the execution.
            view: The view of the sets that are trained on.
            names: The names of the sets.
            strict: Whether to raise an error if the cache would exceed its size.

        Returns:
            The reason why the rows cannot be used, or None.
        """
        cache = phase.cache
        assert cache is not None
        every = {n: s for n, s in execution.sources.items() if isinstance(s, CachedSource)}
        sources = {name: every[name] for name in names if name in every}
        views = {name: view if self._trains(name) else 0 for name in sources}
        views = {name: v for name, v in views.items() if not sources[name].shows(v)}
        if not views:
            return None
        while True:
            absent = cache.absent(views)
            if absent and phase.choice is None:
                phase.choice = self.decider.choose(
                    phase.cut, phase.times, absent, execution.decision
                )
            kernel = phase.choice.kernel if absent and phase.choice else None
            try:
                rows = cache.load(views, kernel, self.settings.budget, strict=strict)
            except LookupError:  # another process evicted rows meanwhile
                continue
            break
        # Rows may be of a network whose code differs in a way that their key does not show. The
        # rows of sets that don't train are shown once, so a later view alone is not compared.
        if absent or not all(map(self._trains, views)):
            apart = cache.discrepancy(views, rows)
            if not apart <= cache.tolerance:
                return (
                    f"the cached outputs in {self.settings.root} differ from the network's by "
                    f"{apart:.1e} of the largest value, more than the allowed "
                    f"{cache.tolerance:.0e} ({command('cache clear')} empties the cache)"
                )
        for name, v in views.items():
            sources[name].show(v, rows[name])
        return None
