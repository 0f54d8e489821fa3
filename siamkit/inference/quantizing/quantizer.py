"""The interface of a quantizer, which both formats implement."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from siamkit.inference.export.runners import Runner

CALIBRATION_IMAGES = 128
"""The number of training images that the ranges of activations are measured on."""


class Quantizer(Protocol):
    """Makes int8 networks from one float32 network.

    Weights have one scale per output channel, activations one per tensor, measured on training
    images. Weights use 7 of the 8 bits: x86 CPUs without VNNI add products in 16 bits, which 8 bits
    would overflow, and the exported network must compute the same on every CPU.
    """

    @property
    def layers(self) -> Sequence[str]:
        """The names of the layers that can be quantized, in the order of the graph."""

    @property
    def weightless(self) -> Collection[str]:
        """Those of the layers that hold no weights, such as additions and softmax."""

    def quantized(self, floats: Collection[str]) -> Runner:
        """Return the network in int8, but with the layers ``floats`` in float32."""

    def write(self, floats: Collection[str], path: Path) -> None:
        """Write that network to ``path``."""
