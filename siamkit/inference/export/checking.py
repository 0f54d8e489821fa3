"""The check of an exported network: it must compute what the run's network computes."""

from __future__ import annotations

import numpy as np

from siamkit.errors import CheckpointError
from siamkit.inference.export.runners import Array, Runner

BATCHES = (1, 2, 7)
"""The sizes of the batches that an exported network is checked with."""

COSINE = 0.99999
"""The least cosine similarity of an exported float32 network's embeddings to torch's."""

_LENGTH = 1e-3  # the largest relative difference of the lengths of two embeddings
_STEADY = 0.999  # int8: the least cosine of one image's embeddings in batches of different sizes


def require_same(runner: Runner, reference: Runner, images: Array, what: str) -> float:
    """Check that a float32 network computes the same as torch, at each batch size.

    Args:
        runner: The exported network.
        reference: The run's network.
        images: ``[7, C, H, W]`` or more, prepared images of the run.
        what: The format, for messages.

    Returns:
        The least cosine similarity of an image's two embeddings.

    Raises:
        CheckpointError: The embeddings differ. Nothing may be published.
    """
    least = 1.0
    for size in BATCHES:
        expected, got = reference(images[:size]), runner(images[:size])
        _require_shape(got, expected, what, size)
        least = min(least, float(cosines(got, expected).min()))
        lengths, wanted = (np.linalg.norm(side, axis=1) for side in (got, expected))
        apart = float((abs(lengths - wanted) / np.maximum(wanted, 1e-12)).max())
        if not (least >= COSINE and apart <= _LENGTH):
            raise CheckpointError(
                "the exported network computes other embeddings than torch, so nothing was written",
                where=f"{what}, batch of {size}",
                got=f"a cosine similarity of {least:.7f}, lengths that differ by {apart:.2g}",
                allowed=f"{COSINE} or more, {_LENGTH:g} or less",
                hint="export it to another format",
            )
    return least


def require_steady(runner: Runner, reference: Runner, images: Array, what: str) -> None:
    """Check that an int8 network gives usable embeddings that do not depend on the batch.

    Its embeddings differ from torch's by design. Their quality is measured on validation images.

    Args:
        runner: As for :func:`require_same`, like all arguments.
        reference: See there.
        images: See there.
        what: See there.

    Raises:
        CheckpointError: The embeddings have another shape, are not finite, or depend on the batch.
    """
    alone = np.concatenate([runner(images[number : number + 1]) for number in range(max(BATCHES))])
    for size in BATCHES:
        got = runner(images[:size])
        _require_shape(got, reference(images[:size]), what, size)
        least = float(cosines(got, alone[:size]).min())
        if not least >= _STEADY:
            raise CheckpointError(
                "an image's embedding depends on the other images of the batch",
                where=f"{what}, batch of {size}",
                got=f"a cosine similarity of {least:.5f}",
                allowed=f"{_STEADY} or more",
            )


def cosines(one: Array, other: Array) -> Array:
    """Return the cosine similarity ``[N]`` of each row of ``one`` with the row of ``other``."""
    a, b = (side.astype(np.float64) for side in (one, other))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result: Array = (a * b).sum(axis=1) / np.maximum(lengths, 1e-24)
    return result


def _require_shape(got: Array, expected: Array, what: str, size: int) -> None:
    if got.shape != expected.shape or not np.isfinite(got).all():
        whole = np.isfinite(got).all()
        raise CheckpointError(
            "the exported network gives no embeddings that can be used",
            where=f"{what}, batch of {size}",
            got=f"shape {list(got.shape)}" + ("" if whole else " with NaN or infinity"),
            allowed=f"finite numbers of shape {list(expected.shape)}",
        )
