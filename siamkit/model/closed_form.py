"""Closed forms: linear heads that are computed from features and labels, without a gradient step.

Both methods return an affine map ``x -> x @ weight.T + bias`` that is computed in float64. Classes
with one image say nothing about the spread within a class, so they only count for the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from siamkit.errors import DataError

Matrix = NDArray[np.float64]

_FACTOR = 2.0
"""The factor on the shrinkage of Ledoit and Wolf.

They minimise the error of the covariance, but whitening needs its inverse, and new classes vary in
directions that the training classes do not. Twice as much is better on sets with six images per
class and as good on larger ones (``tests/benchmarks/closed_form.py``).
"""

_RIDGE = 1e-10
"""A share of a variance that counts as nothing.

So much of the mean variance is added to each variance. Less than this share of the whole variance
is rounding errors, as between copies of one image.
"""


@dataclass(frozen=True)
class Affine:
    """An affine map of features ``[N, D]`` to embeddings ``[N, E]``.

    Attributes:
        weight: ``[E, D]``. Rows beyond the rank of the features are zero.
        bias: ``[E]``.
    """

    weight: Matrix
    bias: Matrix

    def __call__(self, features: Matrix) -> Matrix:
        """Return the embeddings ``[N, E]`` of features ``[N, D]``."""
        mapped: Matrix = features @ self.weight.T + self.bias
        return mapped


def wccn(features: Matrix, labels: NDArray[np.int64], width: int) -> Affine:
    """Return within-class covariance normalisation, reduced by PCA (Hatch et al. 2006).

    The features are centred on their mean and whitened by the covariance within classes, so that
    directions in which the images of one class differ count less. The covariance is shrunk by a
    multiple of the amount that Ledoit and Wolf (2004) give. PCA keeps the ``width`` directions in
    which the whitened features vary most.

    Args:
        features: ``[N, D]``.
        labels: ``[N]``, the class of each row.
        width: The width E of the embeddings.

    Raises:
        DataError: No class has two images.
    """
    return _whitened(features, labels, lambda whitened: _principal(whitened, width), width)


def lda(features: Matrix, labels: NDArray[np.int64], width: int) -> Affine:
    """Return linear discriminant analysis with a shrunk covariance (Fisher 1936).

    The features are whitened as by :func:`wccn`. Then PCA keeps the directions in which the means
    of the classes vary most. There are at most as many directions as classes less one.

    Args:
        features: ``[N, D]``.
        labels: ``[N]``, the class of each row.
        width: The width E of the embeddings.

    Raises:
        DataError: No class has two images, or there is only one class.
    """
    classes = len(np.unique(labels))
    if classes < 2:
        raise DataError("LDA needs two classes or more", got=1)

    def between(whitened: Matrix) -> Matrix:
        return _principal(_means(whitened, labels), min(width, classes - 1))

    return _whitened(features, labels, between, width)


def _whitened(
    features: Matrix,
    labels: NDArray[np.int64],
    chosen: Callable[[Matrix], Matrix],
    width: int,
) -> Affine:
    """Return the map that whitens by the covariance within classes, and keeps some directions.

    Args:
        features: ``[N, D]``.
        labels: ``[N]``, the class of each row.
        chosen: Returns the directions to keep ``[E, D]``, given the whitened features ``[N, D]``.
        width: The width of the embeddings.
    """
    from scipy.linalg import solve_triangular

    mean = features.mean(0)
    covariance = _within(features, labels)
    # Any root of the inverse whitens. The roots differ by a rotation, which PCA undoes.
    lower = np.linalg.cholesky(covariance)  # [D, D]; its inverse is such a root
    whitened = solve_triangular(lower, (features - mean).T, lower=True).T  # [N, D]
    directions = chosen(whitened)  # [E, D]
    weight = solve_triangular(lower, directions.T, lower=True, trans="T").T  # [E, D]
    return _affine(weight, mean, width)


def _within(features: Matrix, labels: NDArray[np.int64]) -> Matrix:
    """Return the shrunk covariance within classes ``[D, D]``; the identity if there is no spread.

    Raises:
        DataError: No class has two rows.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage  # importing it takes half a second

    residuals = _residuals(features, labels)
    if residuals.var(0).sum() <= _RIDGE * features.var(0).sum():
        return np.eye(features.shape[1])
    covariance = residuals.T @ residuals / len(residuals)
    shrinkage = ledoit_wolf_shrinkage(residuals, assume_centered=True)
    # Two rows mirror each other, so they seem to agree, but tell of one direction only.
    return _shrunk(covariance, 1.0 if len(residuals) == 2 else min(_FACTOR * shrinkage, 1.0))


def _shrunk(covariance: Matrix, shrinkage: float) -> Matrix:
    """Return a covariance, drawn to a multiple of the identity of the same trace."""
    variance = np.trace(covariance) / len(covariance)
    shrunk: Matrix = (1 - shrinkage) * covariance
    shrunk[np.diag_indices_from(shrunk)] += (shrinkage + _RIDGE) * variance
    return shrunk


def _residuals(features: Matrix, labels: NDArray[np.int64]) -> Matrix:
    """Return the difference of each row to its class's mean, for classes of two rows or more.

    Raises:
        DataError: No class has two rows.
    """
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rows = counts[index] > 1
    if not rows.any():
        raise DataError(
            "a head in closed form needs a class with two images or more",
            got=f"{len(counts)} classes with one image each",
        )
    residuals: Matrix = (features - _means(features, labels))[rows]
    # A class of n images has n - 1 degrees of freedom.
    scale = np.sqrt(counts[index] / np.maximum(counts[index] - 1, 1))[rows]
    return residuals * scale[:, None]


def _means(features: Matrix, labels: NDArray[np.int64]) -> Matrix:
    """Return the mean of its class for each row ``[N, D]``."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), features.shape[1]))
    np.add.at(sums, index, features)
    means: Matrix = (sums / counts[:, None])[index]
    return means


def _principal(centred: Matrix, width: int) -> Matrix:
    """Return at most ``width`` orthonormal directions ``[E, D]`` of most variance."""
    from sklearn.decomposition import PCA

    if not centred.any():
        return np.zeros((0, centred.shape[1]))
    width = min(width, *centred.shape)
    fitted = PCA(width, random_state=0).fit(centred)
    # Beyond the rank, such as the number of images less one, directions are rounding errors.
    variances = fitted.explained_variance_
    directions: Matrix = fitted.components_[variances > _RIDGE * variances[0]]
    return directions


def _affine(directions: Matrix, mean: Matrix, width: int) -> Affine:
    """Return the map that centres features and projects them on directions, with zeros to fill."""
    weight = np.zeros((width, len(mean)))
    weight[: len(directions)] = directions
    return Affine(weight, -weight @ mean)
