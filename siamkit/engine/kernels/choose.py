"""Choosing the fastest kernel that is exact enough, by a short measurement."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from siamkit.engine.difference import relative_difference
from siamkit.engine.kernels.base import (
    EagerKernel,
    Kernel,
    KernelError,
    Precision,
    batch_size,
    kernel_class,
)
from siamkit.engine.kernels.build import Source, available
from siamkit.engine.kernels.check import tolerance
from siamkit.engine.kernels.worth import expected, worth_building
from siamkit.errors import ConfigError

# A kernel this many times slower than the best is not worth a closer look.
_HOPELESS = 1.3
# One this much faster needs no second look: other load only ever makes a kernel look slower.
_CLEAR = 1.1
_REPEATS = 3
# Folding alone seldom brings more: where another kernel is so much ahead, it is not measured.
_AHEAD = 1.25
_TRIED = ("onnxruntime", "folded", "inductor")
_SHORT = 3.0  # seconds: what the plain network does in less is over before anything else is built


@dataclass(frozen=True)
class Choice:
    """The kernel to use, and what led to it.

    Args:
        kernel: The kernel.
        seconds_per_image: By the name of each kernel that was measured.
        setup_seconds: The same, what it took to build and to run first.
        rejected: By the name of each kernel that was not used or not tried, the reason.
    """

    kernel: Kernel
    seconds_per_image: dict[str, float]
    setup_seconds: dict[str, float]
    rejected: dict[str, str]


def choose(
    prefix: nn.Module,
    images: Tensor,
    count: int,
    *,
    wanted: str = "auto",
    precision: Precision = "fp32",
    plain: tuple[Tensor, float] | None = None,
) -> Choice:
    """Return the kernel that runs ``prefix`` over ``count`` images in the least time.

    A kernel is built only if the images pay for its setup, and none where the plain network is
    done in a moment. None is trusted before its output on ``images`` agrees with the plain
    network's.

    Args:
        prefix: From images to activations, in eval mode.
        images: ``[B, C, H, W]``, real ones, float32, on the network's device. Kernels run
            batches of :func:`batch_size` rows; fewer images than that are repeated.
        count: How many images will be run.
        wanted: ``auto``, or the name of the kernel to use.
        precision: The type to compute in, on a GPU.
        plain: The plain network's output for ``images``, and the seconds that an image took, if
            they are known.

    Raises:
        ConfigError: The kernel that is wanted is unknown, or not available here.
        KernelError: The kernel that is wanted, or the plain network, fails or is not exact enough.
    """
    reasons = available(images.device)
    allowed = ", ".join(["auto", *(name for name, reason in reasons.items() if reason is None)])
    if wanted != "auto" and (reason := reasons.get(wanted, "there is no such kernel")):
        raise ConfigError(reason, where="engine.prefix", got=wanted, allowed=allowed)

    example = _repeat(images, batch_size(images.device))
    known = plain if len(images) == len(example) else None
    contest = _Contest(Source(prefix, example, precision), count, known)
    if wanted != "auto":
        try:
            contest.enter(wanted)
        except KernelError as error:
            raise KernelError(str(error), where="engine.prefix", allowed=allowed) from error
        return contest.result()
    if contest.is_short():
        contest.enter("eager")
        return contest.result()
    for name in _TRIED:
        reason = reasons[name] or contest.not_worth(name)
        if reason is None:
            try:
                contest.enter(name)
            except KernelError as error:
                reason = str(error)
        if reason is not None:
            contest.rejected[name] = reason
    contest.enter("eager")
    return contest.result()


class _Contest:
    """Measures kernels side by side; the first run of the plain network is the reference."""

    def __init__(
        self,
        source: Source,
        count: int,
        plain: tuple[Tensor, float] | None = None,
    ) -> None:
        self._source = source
        self._count = count
        self._kernels: dict[str, Kernel] = {}
        self._seconds: dict[str, float] = {}
        self._setup: dict[str, float] = {}
        self.rejected: dict[str, str] = {}
        device = source.example.device
        self._on_cpu = device.type == "cpu"
        self._class = kernel_class(device, source.precision)
        if plain is not None:
            rows = len(source.example)
            self._plain: Kernel = EagerKernel(source.prefix, rows, device, "fp32")
            self._reference, self._first_run = plain[0].float(), plain[1] * rows
            return
        began = self._now()
        self._plain, self._reference = Source(source.prefix, source.example, "fp32").start("eager")
        self._first_run = self._now() - began

    def is_short(self) -> bool:
        """Tell whether the plain network is done before another kernel could be built."""
        return self._count * self._first_run < _SHORT * len(self._source.example)

    def not_worth(self, name: str) -> str | None:
        """Return why a kernel is not worth a try, or None."""
        if name == "folded":
            rows = len(self._source.example)
            ahead = self._first_run / rows / self._best()
            return f"not tried: another is {ahead:.2f}x as fast already" if ahead > _AHEAD else None
        cost = expected(name, self._source.example.device.type)
        if cost is None:
            return None
        best = self._best()
        try:
            setup = cost.setup(self._source.nodes, self._source.nbytes)
        except KernelError as error:
            return str(error)
        gain = best * cost.gain / self._seconds.get("folded", best)
        if worth_building(self._count, best, setup, gain):
            return None
        return (
            f"not tried: about {setup:.0f} s of setup do not pay for {self._count} images "
            f"at {best * 1e3:.3g} ms"
        )

    def enter(self, name: str) -> None:
        """Build, check and time a kernel.

        Raises:
            KernelError: It cannot be built, does not run, or is not exact enough.
        """
        began = self._now()
        if name == "eager" and (self._on_cpu or self._source.precision == "fp32"):
            kernel, output, setup = self._plain, self._reference, self._first_run
        else:
            kernel, output = self._source.start(name)
            setup = self._now() - began
        # Compared with itself a network that gives NaN would be told to be inexact, not poisoned.
        apart = 0.0 if kernel is self._plain else relative_difference(output, self._reference)
        allowed = tolerance(self._class)
        if not apart <= allowed:
            raise KernelError(
                f"kernel {name!r} differs from the plain network by {apart:.1e} of its largest "
                f"output, and {allowed:.0e} is the most"
            )
        self._setup[name] = setup
        self._seconds[name] = self._time(kernel)
        self._kernels[name] = kernel

    def result(self) -> Choice:
        """Return the fastest of the kernels that were entered."""
        name = min(self._kernels, key=lambda name: self._seconds[name])
        return Choice(self._kernels[name], self._seconds, self._setup, self.rejected)

    def _best(self) -> float:
        rows = len(self._source.example)
        return min(self._seconds.values(), default=self._first_run / rows)

    def _time(self, kernel: Kernel) -> float:
        """Return seconds an image: the least of a few runs, for other load only ever adds."""
        rows = len(self._source.example)
        best = self._best() * rows
        if kernel is self._plain and (not self._kernels or self._first_run > _HOPELESS * best):
            return self._first_run / rows
        fastest = float("inf")
        for _ in range(_REPEATS):
            began = self._now()
            kernel(self._source.example)
            fastest = min(fastest, self._now() - began)
            if not best / _CLEAR < fastest < best * _HOPELESS:
                break
        return fastest / rows

    def _now(self) -> float:
        if not self._on_cpu:
            torch.accelerator.synchronize(self._source.example.device)
        return time.perf_counter()


def _repeat(images: Tensor, rows: int) -> Tensor:
    """Return exactly ``rows`` images, from the first ones on and over again."""
    if not len(images):
        raise ValueError("a choice of kernel needs at least one image")
    return images[torch.arange(rows, device=images.device) % len(images)]
