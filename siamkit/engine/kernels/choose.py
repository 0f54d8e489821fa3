"""The choice of a kernel: measures kernels and picks the fastest one that is exact enough."""

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
from siamkit.engine.kernels.build import KernelSource, available
from siamkit.engine.kernels.check import tolerance
from siamkit.engine.kernels.remembered import Measurements, Memory
from siamkit.engine.kernels.worth import expected, worth_building
from siamkit.errors import ConfigError
from siamkit.words import plural

# A kernel that is slower than the best one by this factor is measured only once.
_HOPELESS = 1.3
# A kernel that is faster than the best one by this factor is measured only once too, because other
# load can only make a kernel look slower.
_CLEAR = 1.1
_REPEATS = 3
# The folded kernel is not tried if another kernel is faster than the plain network by this factor,
# because folding alone seldom gains more.
_AHEAD = 1.25
_TRIED = ("onnxruntime", "folded", "inductor")
_MOST = 30.0  # seconds of measuring after which no further kernel is tried
_MORE = 4  # times as many images as before, for which kernels are measured again
_SHORT = 3.0  # seconds of work for the plain network below which no other kernel is built


@dataclass(frozen=True)
class Choice:
    """The chosen kernel, and the measurements behind the choice.

    Attributes:
        kernel: The kernel.
        seconds_per_image: Seconds per image of each measured kernel, by name.
        setup_seconds: Seconds for building and first running each measured kernel, by name.
        rejected: The reason why each other kernel was not tried or not used, by name.
    """

    kernel: Kernel
    seconds_per_image: dict[str, float]
    setup_seconds: dict[str, float]
    rejected: dict[str, str]


def require_kernel(wanted: str, device: torch.device, where: str) -> str:
    """Check the name of a kernel, and return all allowed names as text.

    Args:
        wanted: A name, or ``auto``.
        device: The device that the kernel will run on.
        where: The place of the name, for the error.

    Raises:
        ConfigError: The kernel is unknown, or not available on the device.
    """
    reasons = available(device)
    allowed = ", ".join(["auto", *(name for name, reason in reasons.items() if reason is None)])
    if wanted != "auto" and (reason := reasons.get(wanted, "unknown kernel")):
        raise ConfigError(reason, where=where, got=wanted, allowed=allowed)
    return allowed


def choose(
    prefix: nn.Module,
    images: Tensor,
    count: int,
    *,
    wanted: str = "auto",
    precision: Precision = "fp32",
    plain: tuple[Tensor, float] | None = None,
    memory: Memory | None = None,
) -> Choice:
    """Return the kernel that runs ``prefix`` over ``count`` images in the least time.

    A kernel is built only if its setup pays off for the images, and only if the plain network
    takes longer than a few seconds. A kernel is used only if its output on ``images`` agrees with
    the plain network's output.

    Args:
        prefix: Maps images to activations, in eval mode.
        images: Real images ``[B, C, H, W]``, float32, on the network's device. Kernels run
            batches of :func:`batch_size` rows; fewer images are repeated.
        count: The number of images to run.
        wanted: ``auto``, or the name of the kernel to use.
        precision: The type to compute in, on a GPU.
        plain: The plain network's output for ``images`` and its seconds per image, if known.
        memory: Where measurements are kept. If it holds some, the kernel that was fastest is built
            and checked, and none is measured. None: measure, and keep nothing.

    Raises:
        ConfigError: The wanted kernel is unknown, or not available here.
        KernelError: The wanted kernel fails or is not exact enough.
        Exception: The plain network itself raised; its exception is unchanged.
    """
    reasons = available(images.device)
    allowed = require_kernel(wanted, images.device, "engine.prefix")
    example = _repeat(images, batch_size(images.device))
    known = plain if len(images) == len(example) else None
    contest = _Contest(KernelSource(prefix, example, precision), count, known)
    if wanted != "auto":
        try:
            contest.enter(wanted)
        except KernelError as error:
            raise KernelError(str(error), where="engine.prefix", allowed=allowed) from error
        return contest.result()
    if contest.is_short():
        contest.enter("eager")
        return contest.result()
    remembered = memory and memory.read()
    if remembered and (recalled := contest.recalled(remembered)):
        return recalled
    for name in _TRIED:
        reason = reasons[name] or contest.too_late() or contest.not_worth(name)
        if reason is None:
            try:
                contest.enter(name)
            except KernelError as error:
                reason = str(error)
        if reason is not None:
            contest.rejected[name] = reason
    contest.enter("eager")
    choice = contest.result()
    if memory:
        memory.write(Measurements(count, choice.seconds_per_image, choice.setup_seconds))
    return choice


class _Contest:
    """Measures and compares kernels. The first run of the plain network is the reference."""

    def __init__(
        self,
        source: KernelSource,
        count: int,
        plain: tuple[Tensor, float] | None = None,
    ) -> None:
        self._source = source
        self._count = count
        self._kernels: dict[str, Kernel] = {}
        self._seconds: dict[str, float] = {}
        self._setup: dict[str, float] = {}
        self.rejected: dict[str, str] = {}
        self._began = time.perf_counter()
        device = source.example.device
        self._on_cpu = device.type == "cpu"
        self._class = kernel_class(device, source.precision)
        if plain is not None:
            rows = len(source.example)
            self._plain: Kernel = EagerKernel(source.prefix, rows, device, "fp32")
            self._reference, self._first_run = plain[0].float(), plain[1] * rows
            return
        began = self._now()
        self._plain, self._reference = KernelSource(source.prefix, source.example, "fp32").start(
            "eager"
        )
        self._first_run = self._now() - began

    def is_short(self) -> bool:
        """Return whether the plain network takes too little time for another kernel to pay off."""
        return self._count * self._first_run < _SHORT * len(self._source.example)

    def too_late(self) -> str | None:
        """Return the reason why no further kernel is tried, or None."""
        spent = self._now() - self._began
        return f"not tried: measuring took {spent:.0f} s already" if spent > _MOST else None

    def not_worth(self, name: str) -> str | None:
        """Return the reason why a kernel is not worth trying, or None."""
        if name == "folded":
            rows = len(self._source.example)
            ahead = self._first_run / rows / self._best()
            if ahead <= _AHEAD:
                return None
            return f"not tried: another kernel is {ahead:.2f}x as fast as the plain network"
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
            f"not tried: about {setup:.0f} s of setup do not pay off for "
            f"{plural(self._count, 'image')} at {best * 1e3:.3g} ms per image"
        )

    def recalled(self, known: Measurements) -> Choice | None:
        """Return the choice that remembered measurements give, or None if they do not help.

        They do not if there are many more images now, for which other kernels may pay off, or if
        the fastest kernel can no longer be built.
        """
        if self._count > _MORE * known.count:
            return None
        try:
            kernel, _ = self._checked(known.fastest(self._count))
        except (KernelError, KeyError, TypeError):
            return None
        return Choice(kernel, dict(known.seconds_per_image), dict(known.setup_seconds), {})

    def enter(self, name: str) -> None:
        """Build, check and time a kernel.

        Raises:
            KernelError: The kernel cannot be built, does not run, or is not exact enough.
        """
        kernel, setup = self._checked(name)
        self._setup[name] = setup
        self._seconds[name] = self._time(kernel)
        self._kernels[name] = kernel

    def _checked(self, name: str) -> tuple[Kernel, float]:
        """Build and check a kernel, and return it with the seconds that this took."""
        began = self._now()
        if name == "eager" and (self._on_cpu or self._source.precision == "fp32"):
            kernel, output, setup = self._plain, self._reference, self._first_run
        else:
            kernel, output = self._source.start(name)
            setup = self._now() - began
        # A network that returns NaN would differ from itself; the evaluator reports NaN instead.
        apart = 0.0 if kernel is self._plain else relative_difference(output, self._reference)
        allowed = tolerance(self._class)
        if not apart <= allowed:
            raise KernelError(
                f"kernel {name!r} differs from the plain network by {apart:.1e} of its largest "
                f"output, more than the allowed {allowed:.0e}"
            )
        return kernel, setup

    def result(self) -> Choice:
        """Return the choice of the fastest measured kernel."""
        name = min(self._kernels, key=lambda name: self._seconds[name])
        return Choice(self._kernels[name], self._seconds, self._setup, self.rejected)

    def _best(self) -> float:
        rows = len(self._source.example)
        return min(self._seconds.values(), default=self._first_run / rows)

    def _time(self, kernel: Kernel) -> float:
        """Return the seconds per image: the minimum of a few runs, because load only adds time."""
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
    """Return exactly ``rows`` images, repeating them from the first if necessary."""
    if not len(images):
        raise ValueError("choosing a kernel needs at least one image")
    return images[torch.arange(rows, device=images.device) % len(images)]
