"""Deciding: which layers a run's network keeps in float32, and whether int8 is good enough."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from siamkit.errors import ConfigError
from siamkit.inference.export.checking import cosines
from siamkit.inference.export.formats import INT8
from siamkit.inference.export.images import BATCH, drawn, embedded, part_of
from siamkit.inference.export.quality import AUC, RETRIEVAL, lost, metrics_of
from siamkit.inference.export.runners import Array, Runner
from siamkit.inference.export.subject import Row, Subject
from siamkit.inference.quantizing.quantizer import CALIBRATION_IMAGES, Quantizer
from siamkit.inference.quantizing.search import Choice, choose
from siamkit.model.machine import Machine
from siamkit.spelling import argument

LIMIT = 0.02
"""The largest fall of recall@1 (or of AUC, for pairs) on the validation images."""

_SMALLER = 3.0  # times; what int8 is expected to save


def calibration_images(subject: Subject) -> Array:
    """Return prepared training images ``[N, C, H, W]``, spread over the classes."""
    count = min(CALIBRATION_IMAGES, subject.train.most)
    return subject.train.together(drawn(subject.train.images, count, subject.seed))


def choice_of(subject: Subject, quantizer: Quantizer, plain: Runner, calibration: Array) -> Choice:
    """Return the layers that stay in float32; see :mod:`.search`.

    Args:
        subject: The network and the images.
        quantizer: Makes the int8 networks.
        plain: The float32 network in the same format.
        calibration: ``[N, C, H, W]``, the training images that the quantizer calibrates on.
    """
    val = subject.val
    part = part_of(val.images, val.most, subject.seed)
    images = type(val)(part, val.preprocessing, val.max_pixels).together()
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    before = metrics_of(embedded({"": plain}, batches)[""], part, None)
    few = calibration[:BATCH]
    wanted = plain(few)

    def loss(floats: Collection[str]) -> float:
        embeddings = embedded({"": quantizer.quantized(floats)}, batches)[""]
        fall = lost(before, metrics_of(embeddings, part, None)) if _finite(embeddings) else 1.0
        left = f" with {len(floats)} of {len(quantizer.layers)} layers in float32" if floats else ""
        subject.say(f"int8{left}: the quality falls by {max(fall, 0):.3f}")
        return fall

    def error(floats: Collection[str]) -> float:
        got = quantizer.quantized(floats)(few)
        return float(1 - cosines(got, wanted).mean()) if np.isfinite(got).all() else 2.0

    subject.say(f"quantizes, calibrated on {len(calibration)} training images")
    return choose(quantizer.layers, loss, error, weightless=quantizer.weightless)


def _finite(embeddings: object) -> bool:
    return bool(np.isfinite(np.asarray(embeddings)).all())


def require_quality(plain: Row, int8: Row, choice: Choice) -> None:
    """Check that an int8 network is almost as good as the float32 one.

    Raises:
        ConfigError: It is not. Nothing may be published.
    """
    for name in (RETRIEVAL, AUC):
        before, after = plain.metrics.get(name), int8.metrics.get(name)
        if before is None or after is None or after >= before - LIMIT:
            continue
        raise ConfigError(
            f"costs too much quality, so nothing was written: {name} on the validation images is "
            f"{before:.4f} in float32",
            where=argument("quantize", INT8),
            got=f"{after:.4f} with {len(choice.floats)} of {choice.layers} layers in float32",
            allowed=f"{before - LIMIT:.4f} or more",
            hint=f"leave {argument('quantize')} out",
        )


def notices_on(plain: Row, int8: Row, choice: Choice, machine: Machine) -> tuple[str, ...]:
    """Return what the user should know about an int8 network.

    Args:
        plain: The row of the float32 network in the same format.
        int8: The row of the int8 network.
        choice: The layers in float32.
        machine: The machine that measured the speed.
    """
    notices = []
    if choice.floats:
        notices.append(
            f"{len(choice.floats)} of {choice.layers} layers stay in float32, because they cost "
            "quality in int8; the validation images chose them, so the figures of int8 are "
            "slightly optimistic"
        )
    if plain.bytes < _SMALLER * int8.bytes:
        notices.append(f"int8 is only {plain.bytes / int8.bytes:.1f} times smaller than float32")
    if int8.latency > plain.latency or int8.throughput < plain.throughput:
        why = " It has no instructions for int8 (VNNI)." if machine.int8 is False else ""
        notices.append(f"int8 is not faster than float32 on this CPU.{why}")
    elif machine.int8 is False:
        notices.append(
            "this CPU has no instructions for int8 (VNNI); a CPU that has them gains more from int8"
        )
    return tuple(notices)
