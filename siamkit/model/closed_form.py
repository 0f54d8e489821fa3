"""Closed forms: linear heads that are computed from features and labels, without a gradient step.

Both methods return an affine map ``x -> x @ weight.T + bias`` that is computed in float64. Classes
with one image say nothing about the spread within a class, so they only count for the mean.
"""

from __future__ import annotations

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

So much of the mean variance is added to each variance, for features without any spread.
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
    from scipy.linalg import solve_triangular
    from sklearn.covariance import ledoit_wolf_shrinkage  # importing it takes half a second

    mean = features.mean(0)
    residuals = _residuals(features, labels)
    covariance = residuals.T @ residuals / len(residuals)
    shrinkage = ledoit_wolf_shrinkage(residuals, assume_centered=True)
    covariance = _shrunk(covariance, min(_FACTOR * shrinkage, 1.0))
    # Any root of the inverse whitens. The roots differ by a rotation, which PCA undoes.
    lower = np.linalg.cholesky(covariance)  # [D, D]; its inverse is such a root
    whitened = solve_triangular(lower, (features - mean).T, lower=True).T  # [N, D]
    directions = _principal(whitened, width)  # [E, D]
    weight = solve_triangular(lower, directions.T, lower=True, trans="T").T  # [E, D]
    return _affine(weight, mean, width)


def lda(features: Matrix, labels: NDArray[np.int64], width: int) -> Affine:
    """Return linear discriminant analysis with a shrunk covariance (Fisher 1936).

    There are at most as many directions as classes less one.

    Args:
        features: ``[N, D]``.
        labels: ``[N]``, the class of each row.
        width: The width E of the embeddings.

    Raises:
        DataError: No class has two images, or there is only one class.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    _residuals(features, labels)
    if len(np.unique(labels)) < 2:
        raise DataError("LDA needs two classes or more", got=1)
    fitted = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(features, labels)
    directions = fitted.scalings_.T[: len(fitted.classes_) - 1]
    return _affine(directions[:width], features.mean(0), width)


def _shrunk(covariance: Matrix, shrinkage: float) -> Matrix:
    """Return a covariance, drawn to a multiple of the identity of the same trace."""
    variance = np.trace(covariance) / len(covariance) or 1.0
    shrunk: Matrix = (1 - shrinkage) * covariance
    shrunk[np.diag_indices_from(shrunk)] += (shrinkage + _RIDGE) * variance
    return shrunk


def _residuals(features: Matrix, labels: NDArray[np.int64]) -> Matrix:
    """Return the difference of each row to its class's mean, for classes of two rows or more.

    Raises:
        DataError: No class has two rows.
    """
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), features.shape[1]))
    np.add.at(sums, index, features)
    rows = counts[index] > 1
    if not rows.any():
        raise DataError(
            "a head in closed form needs a class with two images or more",
            got=f"{len(counts)} classes with one image each",
        )
    residuals: Matrix = (features - (sums / counts[:, None])[index])[rows]
    # A class of n images has n - 1 degrees of freedom.
    scale = np.sqrt(counts[index] / np.maximum(counts[index] - 1, 1))[rows]
    return residuals * scale[:, None]


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
