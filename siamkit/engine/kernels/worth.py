"""Whether a kernel's setup pays for itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a kernel is expected to cost and to bring, before it is built.

    Args:
        fixed: Seconds of setup for any network: imports, starting a compiler.
        per_node: Seconds of setup for each operation in the graph.
        per_gigabyte: Seconds of setup for each 10^9 bytes of weights.
        gain: How many times faster than the folded kernel it runs.
    """

    fixed: float
    per_node: float
    per_gigabyte: float
    gain: float

    def setup(self, nodes: int, nbytes: int) -> float:
        """Return the expected seconds of setup for ``nodes`` operations, ``nbytes`` of weights."""
        return self.fixed + self.per_node * nodes + self.per_gigabyte * nbytes / 1e9


# Measured on two cores over 18 timm networks at 64 to 256 px, batches of 8, torch 2.14 and ONNX
# Runtime 1.32. ONNX Runtime: setup 1.3 s (ResNet10t) to 8.3 s (Swin-T), told by this line to
# within a third; gain 0.76 (EdgeNeXt) to 1.9 (MobileViT), 1.3 in the middle, ResNet-50 1.1.
_ONNXRUNTIME = Cost(fixed=0.8, per_node=0.011, per_gigabyte=10.0, gain=1.25)
# Inductor, six of these networks: setup 7.5 s (ResNet18d) to 28 s (EfficientNet-B0); gain 0.88
# (ConvNeXt-T) to 1.15 (EfficientNet-B0), and never ahead of the better of the two others.
_INDUCTOR = Cost(fixed=3.0, per_node=0.09, per_gigabyte=0.0, gain=1.05)
# Not measured: what compilers for GPUs are commonly said to take and to bring.
_INDUCTOR_GPU = Cost(fixed=10.0, per_node=0.15, per_gigabyte=0.0, gain=1.3)


def expected(name: str, device: str) -> Cost | None:
    """Return what a kernel with a setup cost is expected to cost on a kind of device."""
    match name:
        case "onnxruntime":
            return _ONNXRUNTIME
        case "inductor":
            return _INDUCTOR if device == "cpu" else _INDUCTOR_GPU
        case _:
            return None


def worth_building(
    count: int, seconds_per_image: float, expected_setup: float, expected_gain: float
) -> bool:
    """Tell whether a kernel saves more time over ``count`` images than it takes to set up.

    Args:
        count: The number of images to run.
        seconds_per_image: What the best kernel so far takes.
        expected_setup: Seconds of setup.
        expected_gain: How many times faster than the best so far it would run.
    """
    saved = count * seconds_per_image * (1 - 1 / expected_gain)
    return saved > expected_setup
