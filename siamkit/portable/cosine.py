"""The cosine similarity in numpy: turns products of unit vectors into scores.

A float32 product of two unit vectors has an error of about 1e-7, which depends on where the vectors
lie in memory. So a score is the product, rounded to steps of 2^-20 (about 1e-6) and clipped to
[-1, 1]. Then equal embeddings score exactly 1, and equal similarities are equal numbers, but for a
few in a thousand that lie at the edge of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, NonFiniteError
from .arrays import array_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float32]

STEPS = 1 << 20
"""The number of steps from a score of 0 to a score of 1."""

_PAIRS = 1 << 14  # whose vectors are gathered at once
_SHORTEST = np.float32(1e-12)  # as in torch.nn.functional.normalize


def vectors_of(embeddings: ArrayLike) -> NDArray[Any]:
    """Return embeddings as an array of floats, of their own width or float32.

    Raises:
        DataError: They are no real numbers.
    """
    try:
        vectors = array_of(embeddings)
    except (TypeError, ValueError, RuntimeError):
        vectors = np.asarray(None)
    if vectors.dtype.kind not in "fiub":
        raise DataError(
            "are no real numbers",
            where="embeddings",
            got=str(vectors.dtype) if vectors.ndim else type(embeddings).__name__,
            allowed="an array or a tensor [N, E]",
        )
    return vectors if vectors.dtype == np.float64 else vectors.astype(np.float32, copy=False)


def directions(embeddings: ArrayLike) -> Floats:
    """Return embeddings ``[N, E]`` as unit vectors, float32; zeros stay zeros.

    Raises:
        DataError: They are no real numbers.
    """
    vectors = vectors_of(embeddings)
    if not vectors.size:
        return vectors.astype(np.float32)
    # Divided by a power of two, the largest value of each vector is between 1 and 2. Otherwise the
    # squares of a long or a short vector would be infinite or zero.
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        power = largest / (2 * np.frexp(largest)[0])
    # Zeros, NaN and infinity stay as they are.
    near = (vectors / np.where(np.isfinite(power), power, 1)).astype(np.float32)
    # Errors of a length would add up over many squares, and change all scores of its vector alike.
    squares = np.einsum("...e,...e->...", near, near, dtype=np.float64)
    lengths = np.sqrt(squares).astype(np.float32)[..., None]
    result: Floats = near / np.maximum(lengths, _SHORTEST)
    return result


def cosine(products: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return products of unit vectors, of any shape, as scores; infinity becomes 1 or -1."""
    scores = steps(products)
    scores /= STEPS
    return np.clip(scores, -1, 1, out=scores)


def steps(products: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return products of unit vectors as whole numbers of steps. Infinity stays infinity."""
    # STEPS is a power of two, so the product is exact and only the rounding changes the value.
    wide = np.multiply(products, STEPS)
    return np.rint(wide, out=wide)


def pair_cosines(
    embeddings: NDArray[Any], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the cosine similarities ``[P]`` of pairs of embeddings.

    Args:
        embeddings: ``[N, E]``, normalised or not.
        first: ``[P]``, the index of each pair's first embedding.
        second: ``[P]``, the index of each pair's second embedding.
    """
    vectors = directions(embeddings)
    products = np.empty(len(first), np.float32)
    for at in range(0, len(first), _PAIRS):
        some = slice(at, at + _PAIRS)
        products[some] = np.einsum("pe,pe->p", vectors[first[some]], vectors[second[some]])
    return cosine(products).astype(np.float64)


def require_direction(embeddings: NDArray[Any], names: Sequence[object]) -> None:
    """Check that no embedding consists of zeros, because its cosine similarity is undefined.

    Args:
        embeddings: ``[N, E]``.
        names: The name of each image, for messages.

    Raises:
        DataError: An embedding consists of zeros. The message names the image.
    """
    zeros = ~np.asarray(embeddings).any(axis=1)
    if zeros.any():
        raise DataError(
            "the embedding consists of zeros, so it has no similarity to any image",
            where=str(names[int(zeros.argmax())]),
            hint="the network finds nothing in this image: use larger images or another network",
        )


def require_finite(embeddings: NDArray[Any], names: Sequence[object]) -> None:
    """Check that all embeddings are finite.

    Args:
        embeddings: ``[N, E]``.
        names: The name of each image, for messages.

    Raises:
        NonFiniteError: An embedding holds NaN or infinity. The message names the image.
    """
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise NonFiniteError(
            "the embedding is NaN or infinite",
            where=str(names[int(finite.argmin())]),
            hint="check the weights and the image",
        )
