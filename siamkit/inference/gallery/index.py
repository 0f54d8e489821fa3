"""The index: a gallery that is searched by torch or faiss; see :mod:`siamkit.portable.gallery`."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siamkit.checks import whole_number
from siamkit.inference.gallery import approximate as ann
from siamkit.portable.gallery import CELLS, Gallery, Neighbours, queries_of
from siamkit.portable.nearest import nearest, require_fit
from siamkit.showing import TextRepr
from siamkit.words import plural, printable


class Index(TextRepr, Gallery):
    """The embeddings of a gallery, opened for search; see :func:`siamkit.load_index`.

    Args:
        path: The folder of the index.
        verify: Whether to check every byte against the SHA-256 in ``meta.json``, which takes about
            a second per million embeddings. Otherwise, only the sizes of files are checked.

    Raises:
        CheckpointError: The folder is not an index, or a file is damaged. The message names it.
    """

    def __repr__(self) -> str:
        """Return a description with the number of images and the kind of search."""
        kind = "exact" if self.meta.kind == "exact" else "approximate"
        images = plural(len(self), "image")
        return (
            f"Index: {images}, {self.meta.dim} dimensions, {kind} search, in {printable(self.path)}"
        )

    def search(
        self, embeddings: Tensor | np.ndarray[Any, Any], k: int = 10, *, exact: bool = False
    ) -> Neighbours:
        """Return the k images most similar to each query.

        Args:
            embeddings: ``[Q, E]``, a tensor or an array, from the network that built the index,
                normalised or not.
            k: The number of results per query; all images if the index has fewer.
            exact: Whether to compare each query with every image, even if the index is approximate.

        Raises:
            ConfigError: The index is approximate, and faiss is not installed; or k is not positive.
            CheckpointError: The index was replaced before its first approximate search.
            DataError: The embeddings are no vectors of the width of the index, or one consists of
                zeros, so it is equally similar to all images.
            NonFiniteError: An embedding contains NaN or infinity.
        """
        k = whole_number(k, "k", least=1)
        queries = queries_of(embeddings)
        approximate = None if exact else self._approximate
        if approximate is None:
            scores, indices = nearest(queries, self.embeddings, k)
        else:
            require_fit(queries, self.embeddings, k)
            indices = approximate(queries, min(k, len(self)))
            scores, indices = ann.rescored(queries, self.embeddings, indices)
        return self.neighbours(torch.from_numpy(scores), torch.from_numpy(indices))

    def recall(self, embeddings: Tensor | np.ndarray[Any, Any], k: int = 10) -> float:
        """Return the recall@k of :meth:`search`: the share of truly nearest images that it finds.

        Args:
            embeddings: The queries ``[Q, E]``, normalised or not.
            k: The number of results per query, to be compared with the k results of exact search.

        Raises:
            SiamkitError: As for :meth:`search`.
        """
        k = whole_number(k, "k", least=1)
        queries = queries_of(embeddings)
        best = nearest(queries, self.embeddings, k)[1]
        if self._approximate is None:
            return 1.0
        return ann.overlap(self._approximate(queries, best.shape[1]), best)

    @cached_property
    def _approximate(self) -> ann.Search | None:
        if self.meta.kind == "exact":
            return None
        search = ann.opened(self.path / CELLS, self.meta.cells or 1)
        self._require_same()  # these cells were opened later than the other files
        return search
