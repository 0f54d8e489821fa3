"""Cutting a network at the deepest boundary where prefix and suffix are exactly the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from siamkit.engine.boundary import Boundary, find_boundaries
from siamkit.engine.frontier import Frontier, find_frontier
from siamkit.engine.prefix import Prefix
from siamkit.engine.suffix import Suffix
from siamkit.engine.trial import TOLERANCE, allowed_for, difference, relative, seeded, step
from siamkit.errors import ConfigError, SiamkitError
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.names import named_parameters, unwrap
from siamkit.model.trace import evaluating

NOTHING_FROZEN = "no part of the network is frozen from the start on"

_UNLIKE = "what comes after it does not do the same with its output {}: {}"
_SIZES = (1, 2)
"""Smaller numbers of images that a cut is tried with, besides all that are given."""


@dataclass(frozen=True)
class Cut:
    """A network cut at a boundary that passed its trial.

    Attributes:
        boundary: Where.
        frontier: What crosses the boundary there.
        prefix: From images to activations ``[N, ...]``.
        suffix: From activations to what the network gives.
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
        """Run the whole and the cut network on a real batch, and say in words how they differ.

        Both run in training mode with the same random state. Parameters, gradients, buffers, modes
        and generators are as before afterwards. Call it on the first batches of a phase, and now
        and then: a forward may do something else for images or batches that were not tried.

        Args:
            images: A batch ``[N, C, H, W]``.
            activations: What will be used in place of the prefix's output, such as cached rows;
                None to run the prefix.
            tolerance: The largest relative difference that is none. Rows of half precision need
                more than the default.

        Returns:
            The difference; None where there is none.
        """
        net = self.net
        whole = step(net, net, images.clone())
        if activations is None:
            activations = self._activations(images)
        self._forget(images)
        parts = step(net, _given(self.suffix, activations), images)
        return difference(whole, parts, tolerance)

    def _activations(self, images: Tensor, seed: int = 0) -> Tensor:
        """Return the prefix's output; the images stay as they are."""
        with evaluating(self.net), seeded(seed, images.device):
            activations: Tensor = self.prefix(images.clone())
            return activations

    def _forget(self, images: Tensor) -> None:
        """Run another image, so that nothing the network kept of ``images`` helps the suffix."""
        self._activations(torch.zeros_like(images[:1]))


@dataclass(frozen=True)
class CutResult:
    """Where a network was cut, or why it was not.

    Attributes:
        cut: The cut; None where the network has to run whole.
        reasons: Why each deeper boundary was passed over, deepest first.
    """

    cut: Cut | None
    reasons: tuple[str, ...]


def cut(module: nn.Module, stages: Sequence[Stage], plan: FreezePlan, images: Tensor) -> CutResult:
    """Cut a network behind its frozen part, exactly or not at all.

    The prefix is a fixed function of each image, so its output (the activations) may be computed
    once and kept. Training goes on with the suffix::

        result = siamkit.engine.cut(net, stages, plan, images)
        if result.cut is not None:
            with torch.no_grad():
                activations = result.cut.prefix(images)
            loss = criterion(result.cut.suffix(activations), labels)

    Every boundary is tried on ``images``, deepest first: outputs, gradients and buffers must be
    those of the whole network, in training mode and in eval mode, for several numbers of images.
    :meth:`Cut.differs` repeats that on batches of the training.

    Args:
        module: Any network whose forward takes images. Wrappers (``DistributedDataParallel``,
            ``torch.compile``) are taken off; the suffix runs the network inside.
        stages: Its stages (:func:`siamkit.model.stages.discover_stages`).
        plan: The plan that was applied to it by a
            :class:`~siamkit.freezing.controller.FreezeController`.
        images: Real images ``[N, C, H, W]``, three or more where possible, of differing content.

    Returns:
        The cut, and why deeper boundaries were passed over.

    Raises:
        ConfigError: The plan was not applied to the network.
    """
    net = unwrap(module)
    trains = {name for name, p in named_parameters(net) if p.requires_grad}
    if wrong := sorted(trains ^ plan.trainable):
        raise ConfigError(
            "the plan was not applied to the network: "
            f"{len(wrong)} parameters differ, the first is {wrong[0]!r}",
            hint="call FreezeController(module, stages).apply(plan) first",
        )
    boundaries = find_boundaries(net, stages, plan)
    exact, reasons = first_exact_cut(net, boundaries, images)
    return CutResult(exact, tuple(reasons) if boundaries else (NOTHING_FROZEN,))


def first_exact_cut(
    net: nn.Module, boundaries: Sequence[Boundary], images: Tensor
) -> tuple[Cut | None, list[str]]:
    """Cut the network at the first boundary that passes its trial.

    Args:
        net: The network, with a plan applied.
        boundaries: Where it may be cut, in order of preference.
        images: Real images ``[N, C, H, W]``, two or more; with three, all sizes are tried.

    Returns:
        The cut, or None; and why each boundary before it was passed over.
    """
    reasons: list[str] = []
    for boundary in boundaries:
        try:
            frontier = find_frontier(net, boundary, images)
            tried = Cut(
                boundary, frontier, Prefix(net, boundary, frontier), Suffix(net, boundary, frontier)
            )
            reason = _trial(tried, images)
        except SiamkitError as error:
            reason = str(error)
        except Exception as error:  # the network's own code, fed with something else
            reason = f"{type(error).__name__}: {error}"
        if reason is None:
            return tried, reasons
        text = f"{boundary.name}: {reason}"
        if text not in reasons:
            reasons.append(text)
    return None, reasons


def _trial(tried: Cut, images: Tensor) -> str | None:
    """Return why a cut is not exact; None if it is."""
    net = tried.net
    together = tried._activations(images)
    if len(together) != len(images):
        return f"{len(images)} images give activations of shape {list(together.shape)}"
    allowed = allowed_for(images, together)
    whole = step(net, net, images.clone())
    if whole.error is not None:
        raise whole.error
    changed = [b for b in tried.frontier.buffers if f"the buffer {b!r}" in whole.values]
    if changed:
        return f"it depends on a buffer that changes in training, {changed[0]!r}"
    tried._forget(images)
    parts = step(net, _given(tried.suffix, together), images)
    if reason := difference(whole, parts, allowed):
        return _UNLIKE.format("in training mode", reason)
    for size in (s for s in _SIZES if s < len(images)):
        at = slice(0, size) if size % 2 == 0 else slice(len(images) - size, None)
        some = images[at]
        whole = step(net, net, some.clone(), training=False)
        activations = tried._activations(some, seed=1)
        if relative(together[at], activations) > allowed:
            if relative(together, tried._activations(images, seed=2)) > allowed:
                return "it gives something else each time"
            return "its output for an image depends on the other images of the batch"
        parts = step(net, _given(tried.suffix, activations), some, training=False)
        if reason := difference(whole, parts, allowed):
            return _UNLIKE.format(f"in eval mode with {size} images", reason)
    return None


def _given(suffix: Suffix, activations: Tensor) -> Callable[[Tensor], object]:
    """Return the suffix as a function of images, with the activations that they gave."""
    return lambda _: suffix(activations)
