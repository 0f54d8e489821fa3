"""The cut: splits a network into a frozen prefix and a suffix that together equal the whole.

The split is at the deepest boundary (end of a frozen prefix) at which this is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from siamkit.engine.boundary import Boundary, find_boundaries
from siamkit.engine.calls import Call
from siamkit.engine.difference import relative_difference
from siamkit.engine.find_frontier import find_frontier
from siamkit.engine.frontier import Frontier
from siamkit.engine.outputs import TRACED
from siamkit.engine.prefix import Prefix
from siamkit.engine.recording import Recording, calls_until
from siamkit.engine.suffix import Suffix
from siamkit.engine.trial import (
    ATTRIBUTE,
    TOLERANCE,
    Outcome,
    allowed_for,
    difference,
    step,
)
from siamkit.errors import ConfigError, SiamkitError
from siamkit.freezing.schedule import without_frozen_norms
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.generators import generators_state, seeded
from siamkit.model.names import named_parameters, unwrap
from siamkit.model.undisturbed import undisturbed
from siamkit.words import plural

NOTHING_FROZEN = "no part at the start of the network is frozen"

_UNLIKE = "the suffix differs from the whole network {}: {}"
_SEEDS = 16
"""How often a network that draws random numbers before a boundary runs with others."""
_RECORDED = 3
"""The number of images in an additional forward, made if the caller gives :data:`TRACED` images.

The shapes of two forwards are compared, so the forwards must have different numbers of images.
"""


@dataclass(frozen=True)
class Cut:
    """A network that was split into a frozen prefix and a suffix, and tested to be exact.

    Attributes:
        boundary: The end of the prefix.
        frontier: The tensors that cross the boundary.
        prefix: Maps images to activations ``[N, ...]``.
        suffix: Maps activations to the network's output.
    """

    boundary: Boundary
    frontier: Frontier
    prefix: Prefix
    suffix: Suffix

    @property
    def net(self) -> nn.Module:
        """The network."""
        return self.suffix.net

    def differs(
        self, images: Tensor, activations: Tensor | None = None, tolerance: float = TOLERANCE
    ) -> str | None:
        """Run the whole network and the cut one on a real batch, and return how they differ.

        Both run in training mode with the same random state. Afterwards, parameters, gradients,
        buffers, modes and generators are unchanged. Compare on the first batches of a phase and
        from time to time, because a forward may branch on images or batches that were not tried.

        Args:
            images: A batch ``[N, C, H, W]``.
            activations: Stored outputs of the prefix ``[N, ...]`` for these images, such as cached
                rows; None to run the prefix.
            tolerance: The largest relative difference that is accepted. Activations that were
                stored in half precision need a larger value than the default.

        Returns:
            The difference as text; None if there is none.
        """
        net, inside = self.net, self.boundary.names
        if activations is None:
            activations = self._activations(images)
            # So that the suffix cannot use what the network stored about these images.
            self._activations(torch.zeros_like(images[:1]))
        parts = step(net, _given(self.suffix, activations), images, inside)
        whole = step(net, net, images.clone(), inside)
        return difference(whole, parts, tolerance)

    def _activations(self, images: Tensor, seed: int = 0) -> Tensor:
        """Return the prefix's output. The images are not changed."""
        with seeded(seed):
            activations: Tensor = self.prefix(images.clone())
            return activations


@dataclass(frozen=True)
class CutResult:
    """The result of :func:`cut`.

    Attributes:
        cut: The cut; None if the network must run whole.
        reasons: Why the boundaries deeper than the cut were rejected, deepest first. Without a cut:
            why all boundaries were rejected, or that nothing is frozen at the network's start.
    """

    cut: Cut | None
    reasons: tuple[str, ...]


def cut(module: nn.Module, stages: Iterable[Stage], plan: FreezePlan, images: Tensor) -> CutResult:
    """Cut a network after its frozen part, exactly or not at all.

    The prefix is a fixed function of each image, so its output (the activations) can be computed
    once and stored. Training uses the suffix::

        result = siamkit.engine.cut(net, stages, plan, images)
        if result.cut is not None:
            with torch.no_grad():
                activations = result.cut.prefix(images)
            loss = criterion(result.cut.suffix(activations), labels)

    The possible ends of the prefix (boundaries) are tried on ``images``, deepest first, until one
    is exact. In training mode, outputs, gradients and buffers must equal those of the whole
    network; in eval mode, outputs and buffers for a single image. :meth:`Cut.differs` repeats the
    comparison on training batches.

    Args:
        module: Any network whose forward takes images. Wrappers (``DistributedDataParallel``,
            ``torch.compile``) are removed; the suffix runs the network inside.
        stages: The network's stages (:func:`siamkit.model.stages.discover_stages`).
        plan: The plan that a :class:`~siamkit.freezing.controller.FreezeController` applied to the
            network.
        images: Two or more real images ``[N, C, H, W]``, not all equal, on the network's device.

    Returns:
        The cut or None, and the reasons against the deeper boundaries.

    Raises:
        ConfigError: The plan was not applied to the network; or ``images`` is no tensor
            ``[N, C, H, W]``, holds NaN or infinity, or holds no two different images.
    """
    _require_images(images)
    net, stages = unwrap(module), tuple(stages)
    plan = without_frozen_norms(plan, stages)
    trains = {name for name, p in named_parameters(net) if p.requires_grad}
    if wrong := sorted(trains ^ plan.trainable):
        raise ConfigError(
            "the plan was not applied to the network: requires_grad differs from the plan for "
            f"{plural(len(wrong), 'parameter')}, such as {wrong[0]!r}",
            hint="call FreezeController(module, stages).apply(plan) first",
        )
    boundaries = find_boundaries(net, stages, plan)
    exact, reasons = first_exact_cut(net, boundaries, images)
    return CutResult(exact, tuple(reasons) if boundaries else (NOTHING_FROZEN,))


def _require_images(images: Tensor) -> None:
    """Refuse images on which a wrong cut could look exact."""
    allowed = "a tensor [N, C, H, W] of two or more different images, without NaN"
    if not isinstance(images, Tensor) or images.ndim != 4:
        got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ConfigError("are no batch of images", where="images", got=got, allowed=allowed)
    if not bool(images.isfinite().all()):
        raise ConfigError("contain NaN or infinity", where="images", allowed=allowed)
    if all_alike(images):
        what = "all images are equal" if len(images) > 1 else "one image is not enough"
        raise ConfigError(what, where="images", got=list(images.shape), allowed=allowed)


def all_alike(images: Tensor) -> bool:
    """Return whether all images are equal, or there are fewer than two."""
    return len(images) < 2 or bool((images[1:] == images[0]).all())


def first_exact_cut(
    net: nn.Module, boundaries: Sequence[Boundary], images: Tensor
) -> tuple[Cut | None, list[str]]:
    """Cut the network at the first boundary that passes its trial.

    Args:
        net: The network, with a plan applied.
        boundaries: The boundaries to try, in order of preference.
        images: Different images ``[N, C, H, W]``, two or more.

    Returns:
        The cut, or None; and the reason why each boundary that was tried before was rejected.
    """
    reasons: list[str] = []
    for boundary in boundaries:
        try:
            tried, reason = _tried(net, boundary, images)
        except SiamkitError as error:
            reason = str(error)
        except Exception as error:  # the network's own code may fail on activations
            reason = f"{type(error).__name__}: {error}"
        if reason is None:
            return tried, reasons
        text = f"{boundary.name}: {reason}"
        if text not in reasons:
            reasons.append(text)
    return None, reasons


def _tried(net: nn.Module, boundary: Boundary, images: Tensor) -> tuple[Cut | None, str | None]:
    """Cut a network at a boundary, and return why the cut is not exact; None if it is."""
    inside = boundary.names
    seen = Recording(len(images))
    drawn = False

    def recorded(some: Tensor) -> Any:
        start = generators_state()

        def ended(call: Call) -> None:
            nonlocal drawn
            drawn |= call == Call(boundary.module, 0) and generators_state() != start

        return seen.forward(net, inside, some, ended)

    whole = step(net, recorded, images.clone(), inside)
    if whole.error is not None:
        raise whole.error
    if drawn and _varies(net, boundary, images, seen):
        return None, "its output depends on random numbers"
    if len(images) == TRACED:
        seen = Recording(_RECORDED)
        black = images.new_zeros(_RECORDED, *images.shape[1:])
        other = step(net, partial(seen.forward, net, inside), black, inside, training=False)
        if other.error is not None:
            raise other.error
    frontier = find_frontier(net, boundary, images, seen)
    cut = Cut(boundary, frontier, Prefix(net, boundary, frontier), Suffix(net, boundary, frontier))
    changed = [b for b in frontier.buffers if f"the buffer {b!r}" in whole.values]
    if changed:
        return cut, f"its output depends on the buffer {changed[0]!r}, which changes in training"
    return cut, _trial(cut, images, whole)


def _varies(net: nn.Module, boundary: Boundary, images: Tensor, seen: Recording) -> bool:
    """Return whether a boundary's output in training depends on the random numbers of a step.

    A forward may skip frozen blocks at random. All trials have the same random numbers, so they
    would skip the same blocks.

    Args:
        net: The network.
        boundary: The boundary.
        images: The images of the recording.
        seen: The calls of an ordinary step.
    """
    last = Call(boundary.module, 0)
    known = calls_until(seen.calls, last)
    for seed in range(1, 1 + _SEEDS):
        other = Recording(len(images))
        with undisturbed(net), seeded(seed):
            other.forward(net, boundary.names, images.clone())
        calls = calls_until(other.calls, last)
        if list(calls) != list(known):
            return True
        if not calls:  # the boundary's output trains, which the frontier shows
            return False
        pairs = zip(tree_leaves(known[last]), tree_leaves(calls[last]), strict=True)
        for one, two in pairs:
            if isinstance(one, Tensor) and _apart(two, one) > allowed_for(images, one):
                return True
    return False


def _trial(cut: Cut, images: Tensor, whole: Outcome) -> str | None:
    """Return why a cut is not exact; None if it is.

    Each part of the network runs as seldom as possible, because the trial delays every phase. The
    order matters: before each run of the suffix, the network last ran on other images, so the
    suffix cannot use what the network stored about the suffix's images.
    """
    net, inside = cut.net, cut.boundary.names
    alone = cut._activations(images[-1:], seed=1)
    together = cut._activations(images)
    if len(together) != len(images):
        return f"the activations of {len(images)} images have shape {list(together.shape)}"
    allowed = allowed_for(images, together)
    if _apart(together[-1:], alone) > allowed:
        if _apart(together, cut._activations(images, seed=2)) > allowed:
            return "its output differs each time"
        return "its output for an image depends on the other images of the batch"
    last = images[-1:]
    parts = step(net, _given(cut.suffix, alone), last, inside, training=False)
    other = step(net, net, last.clone(), inside, training=False)
    if reason := difference(other, parts, allowed):
        return _UNLIKE.format("in eval mode with 1 image", reason)
    parts = step(net, _given(cut.suffix, together), images, inside)
    if reason := difference(whole, parts, allowed):
        return _UNLIKE.format("in training mode", reason)
    changed = next((name for name in whole.values if name.startswith(ATTRIBUTE)), None)
    if changed is not None:
        with undisturbed(net):
            net(images.clone())
            later = cut._activations(images)
        if _apart(together, later) > allowed:
            return (
                f"its output depends on {changed.removeprefix('the ')}, which changes in training"
            )
    return None


def _given(suffix: Suffix, activations: Tensor) -> Callable[[Tensor], object]:
    """Return a function that ignores its images and runs the suffix on the given activations."""
    return lambda _: suffix(activations)


def _apart(a: Tensor, b: Tensor) -> float:
    return relative_difference(b, a, equal_nan=True)
