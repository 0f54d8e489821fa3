"""The setup costs of kernels: estimates whether a kernel's setup pays off."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """The expected setup cost and gain of a kernel.

    Attributes:
        fixed: Seconds of setup for any network, such as imports and starting a compiler.
        per_node: Seconds of setup per operation in the graph.
        per_gigabyte: Seconds of setup per 10^9 bytes of weights.
        gain: The expected speed relative to the folded kernel.
    """

    fixed: float
    per_node: float
    per_gigabyte: float
    gain: float

    def setup(self, nodes: int, nbytes: int) -> float:
        """Return the expected seconds of setup for a graph of ``nodes`` operations and its weights.

        Args:
            nodes: The number of operations.
            nbytes: The bytes of the weights.
        """
        return self.fixed + self.per_node * nodes + self.per_gigabyte * nbytes / 1e9


# Measured on two cores over 18 timm networks at 64 to 256 px, batches of 8, torch 2.14 and ONNX
# Runtime 1.32. ONNX Runtime: setup 1.3 s (ResNet10t) to 8.3 s (Swin-T), estimated by this formula
# to within a third; gain 0.76 (EdgeNeXt) to 1.9 (MobileViT), median 1.3, ResNet-50 1.1.
_ONNXRUNTIME = Cost(fixed=0.8, per_node=0.011, per_gigabyte=10.0, gain=1.25)
# Inductor, six of these networks: setup 7.5 s (ResNet18d) to 28 s (EfficientNet-B0); gain 0.88
# (ConvNeXt-T) to 1.15 (EfficientNet-B0), and never faster than the better of the two others.
_INDUCTOR = Cost(fixed=3.0, per_node=0.09, per_gigabyte=0.0, gain=1.05)
# Not measured: common figures for GPU compilers.
_INDUCTOR_GPU = Cost(fixed=10.0, per_node=0.15, per_gigabyte=0.0, gain=1.3)


def expected(name: str, device: str) -> Cost | None:
    """Return the expected cost of a kernel on a type of device; None if it needs no setup."""
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
    """Return whether a kernel saves more time over ``count`` images than its setup takes.

    Args:
        count: The number of images to run.
        seconds_per_image: Seconds per image of the best kernel so far.
        expected_setup: Expected seconds of setup.
        expected_gain: Expected speed relative to the best kernel so far.
    """
    saved = count * seconds_per_image * (1 - 1 / expected_gain)
    return saved > expected_setup
