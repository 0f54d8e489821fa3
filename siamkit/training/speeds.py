"""The speeds of an int8 part and of float32, and what int8 saves, in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from siamkit.inference.export.timing import medians
from siamkit.model.quantized import ROWS
from siamkit.spelling import command
from siamkit.words import plural


@dataclass(frozen=True)
class Speeds:
    """The speeds of a part on this machine, in seconds per image in batches.

    Attributes:
        float32: The speed in float32, with ONNX Runtime.
        int8: The speed in int8.
    """

    float32: float
    int8: float


_AGAIN = 0.5  # seconds for each


def confirmed(speeds: Speeds, float32: Callable[[], object], int8: Callable[[], object]) -> Speeds:
    """Return the speeds, measured again in turns if int8 seemed not to be faster.

    Other programs that begin to run between two measurements slow down the second one.

    Args:
        speeds: The first measurement.
        float32: Computes a batch of :data:`.quantized.ROWS` images in float32.
        int8: The same in int8.
    """
    if speeds.int8 < speeds.float32:
        return speeds
    found = medians({"float32": float32, "int8": int8}, _AGAIN)
    return Speeds(found["float32"] / ROWS, found["int8"] / ROWS)


def paid(speeds: Speeds, computed: int, seconds: float | None) -> str:
    """Return what int8 saves, and what it took.

    Args:
        speeds: The speeds of the part.
        computed: The number of images that the run computes.
        seconds: The seconds that quantizing took; None if an earlier run has done it.
    """
    saved = computed * (speeds.float32 - speeds.int8)
    took = (
        "An earlier run has quantized it" if seconds is None else f"Quantizing took {seconds:.0f} s"
    )
    change = f"{in_ms(speeds.int8)} per image instead of {in_ms(speeds.float32)}"
    images = plural(computed, "image")
    text = (
        f"{took}. int8 takes {change}, which saves about {saved:.0f} s on the {images} of this run"
    )
    if seconds is not None and saved < seconds:
        text += "; quantizing took longer, so it pays only from the next run on these images on"
    if ROWS * speeds.int8 > speeds.float32:
        text += (
            f". A single image, as for {command('verify')}, takes as long as {ROWS}: "
            f"{in_ms(ROWS * speeds.int8)}"
        )
    return text


def in_ms(seconds: float) -> str:
    """Return a time in milliseconds, with its unit."""
    return f"{1e3 * seconds:.2g} ms" if seconds < 0.01 else f"{1e3 * seconds:.0f} ms"
