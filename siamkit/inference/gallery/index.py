"""The index: a folder with the embeddings of a gallery, and the search in these embeddings.

::

    INDEX/
      meta.json        the origin of the index, and the size and SHA-256 of every other file
      embeddings.npy   float32 [N, E], L2-normalised; mapped into memory, not read
      items.jsonl      {"path": ..., "label": ...}, one line per image
      offsets.npy      int64 [N + 1]: where each line of items.jsonl starts, and the end
      cells.faiss      the approximate index, if there is one
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from siamkit.checks import whole_number
from siamkit.errors import CheckpointError, ConfigError, DataError
from siamkit.evaluation.cosine import cosine, directions
from siamkit.evaluation.nearest import exact_search
from siamkit.files import is_there, open_regular, path_of, put_back, reading, sha256_of
from siamkit.inference.gallery import approximate as ann
from siamkit.inference.usable import require_direction
from siamkit.json_files import parsed, read_json, unsealed
from siamkit.showing import TextRepr
from siamkit.spelling import command
from siamkit.words import plural, printable

FORMAT = 2
META, EMBEDDINGS, ITEMS = "meta.json", "embeddings.npy", "items.jsonl"
OFFSETS, CELLS = "offsets.npy", "cells.faiss"


class FileSeal(BaseModel):
    """The size and digest of a file of an index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Meta(BaseModel):
    """The metadata of an index.

    Attributes:
        format: The format of the index.
        siamkit: The version of siamkit that wrote the index.
        kind: The kind of search: ``exact`` or ``faiss``.
        run: The run whose network made the embeddings.
        which: The checkpoint whose network made the embeddings: ``best`` or ``last``.
        model: The :attr:`siamkit.Embedder.fingerprint` of the network.
        dim: The width of the embeddings.
        count: The number of embeddings.
        root: The folder that the paths are relative to.
        cells: The number of cells to search per query, for an approximate index.
        recall: The recall@10 on a sample of the gallery, for an approximate index.
        files: The size and digest of each other file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2]
    siamkit: str
    kind: Literal["exact", "faiss"]
    run: str
    which: Literal["best", "last"]
    model: str
    dim: Annotated[int, Field(ge=1)]
    count: Annotated[int, Field(ge=0)]
    root: str
    cells: Annotated[int, Field(ge=1)] | None = None
    recall: Annotated[float, Field(ge=0, le=1)] | None = None
    files: dict[str, FileSeal]


@dataclass(frozen=True)
class Neighbours:
    """The results of Q queries. The most similar image of each query comes first.

    Attributes:
        scores: ``[Q, k]``, cosine similarities in [-1, 1]; -inf for a missing result.
        indices: ``[Q, k]``, positions in the index; -1 for a missing result. Only an approximate
            index can give fewer than k results.
        paths: The paths of the images, one list per query.
        labels: The labels of the images, one list per query. A label is a subfolder of the gallery,
            or None for an image outside subfolders.
    """

    scores: Tensor
    indices: Tensor
    paths: list[list[Path]]
    labels: list[list[str | None]]

    def rows(self) -> list[list[dict[str, Any]]]:
        """Return ``rank``, ``score``, ``label`` and ``path`` of each query's results, for JSON."""
        return [
            [
                {"rank": rank, "score": score, "label": label, "path": str(path)}
                for rank, (score, label, path) in enumerate(
                    zip(scores, labels, paths, strict=False), start=1
                )
            ]
            for scores, labels, paths in zip(
                self.scores.tolist(), self.labels, self.paths, strict=True
            )
        ]


class Index(TextRepr):
    """The embeddings of a gallery, opened for search; see :func:`siamkit.load_index`.

    Args:
        path: The folder of the index.
        verify: Whether to check every byte against the SHA-256 in ``meta.json``, which takes about
            a second per million embeddings. Otherwise, only the sizes of files are checked.

    Raises:
        CheckpointError: The folder is not an index, or a file is damaged. The message names it.
    """

    def __init__(self, path: str | Path, *, verify: bool = True) -> None:
        self.path = path_of(path, "path", "an index")
        put_back(self.path)
        with reading(self.path, _hint()):
            self.meta = _read_meta(self.path)
            _check(self.path, self.meta, verify)
        self.embeddings: np.ndarray[Any, Any] = _mapped(self.path / EMBEDDINGS)
        self._offsets = _mapped(self.path / OFFSETS)
        shapes = (self.embeddings.shape, self._offsets.shape)
        if shapes != ((self.meta.count, self.meta.dim), (self.meta.count + 1,)):
            raise CheckpointError(
                "does not match the other files of the index",
                where=str(self.path / META),
                hint=_hint(),
            )

    def __len__(self) -> int:
        return self.meta.count

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make a copy, which opens the same files again instead of copying arrays."""
        return _opened_again, (self.path.absolute(),)

    def __repr__(self) -> str:
        """Return a description with the number of images and the kind of search."""
        kind = "exact" if self._approximate is None else "approximate"
        images = plural(len(self), "image")
        return (
            f"Index: {images}, {self.meta.dim} dimensions, {kind} search, in {printable(self.path)}"
        )

    @property
    def embedding_dim(self) -> int:
        """The width E of the embeddings."""
        return self.meta.dim

    def item(self, index: int) -> tuple[Path, str | None]:
        """Return the path and the label of the image at a position, which counts from 0.

        Raises:
            ConfigError: There is no such position.
            CheckpointError: The file of the images is damaged.
        """
        index = whole_number(index, "index", least=0)
        if index >= len(self):
            raise ConfigError("there is no such image", where="index", got=index,
                              allowed=f"0 to {len(self) - 1}")  # fmt: skip
        start, end = self._offsets[index : index + 2].tolist()
        with reading(self.path / ITEMS, _hint()), open_regular(self.path / ITEMS) as file:
            file.seek(start)
            line = file.read(end - start)
        try:
            entry = parsed(line)
        except ValueError:  # possible if only the sizes of files were checked
            raise CheckpointError(
                "the file is damaged", where=str(self.path / ITEMS), hint=_hint()
            ) from None
        return Path(self.meta.root, entry["path"]), entry["label"]

    def require_model(self, fingerprint: str) -> None:
        """Check that the network with this fingerprint made the embeddings of the index.

        Raises:
            CheckpointError: Another network made the embeddings.
        """
        if fingerprint != self.meta.model:
            raise CheckpointError(
                "was built with another network",
                where=str(self.path),
                hint=f"{_hint()}, or use the run that built it",
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
            DataError: The embeddings are no vectors of the width of the index, or one consists of
                zeros, so it is equally similar to all images.
            NonFiniteError: An embedding contains NaN or infinity.
        """
        k = whole_number(k, "k", least=1)
        queries = _queries(embeddings)
        approximate = None if exact else self._approximate
        if approximate is None:
            products, indices = exact_search(queries, self.embeddings, k)
            scores, indices = ann.ordered(cosine(products), indices)
        else:
            self._require_usable(queries, k)
            indices = approximate(queries, min(k, len(self)))
            scores, indices = ann.rescored(queries, self.embeddings, indices)
        entries = [[self.item(i) for i in row if i >= 0] for row in indices.tolist()]
        return Neighbours(
            scores,
            indices,
            [[path for path, _ in row] for row in entries],
            [[label for _, label in row] for row in entries],
        )

    def recall(self, embeddings: Tensor | np.ndarray[Any, Any], k: int = 10) -> float:
        """Return the recall@k of :meth:`search`: the share of truly nearest images that it finds.

        Args:
            embeddings: The queries ``[Q, E]``, normalised or not.
            k: The number of images per query, which are compared with those of exact search.
        """
        queries = _queries(embeddings)
        best = exact_search(queries, self.embeddings, k)[1]
        if self._approximate is None:
            return 1.0
        return ann.overlap(self._approximate(queries, best.shape[1]), best)

    def _require_usable(self, queries: Tensor, k: int) -> None:
        exact_search(queries, self.embeddings[:1], k)  # raises an error for bad arguments

    @cached_property
    def _approximate(self) -> ann.Search | None:
        if self.meta.kind == "exact":
            return None
        return ann.opened(self.path / CELLS, self.meta.cells or 1)


def _queries(embeddings: Any) -> Tensor:
    try:
        vectors = torch.as_tensor(embeddings)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            "are no vectors", where="embeddings", got=type(embeddings).__name__,
            allowed="a tensor or an array [Q, E]",
        ) from error  # fmt: skip
    queries = directions(vectors)
    if queries.ndim == 2:  # the search refuses other shapes
        require_direction(queries, [f"query {number}" for number in range(len(queries))])
    return queries


def _opened_again(path: Path) -> Index:
    return Index(path, verify=False)


def seal(path: Path) -> FileSeal:
    """Return the size and digest of a file."""
    return FileSeal(bytes=path.stat().st_size, sha256=sha256_of(path))


def is_index(path: Path) -> bool:
    """Return whether a folder is an index, damaged or not."""
    if not path.is_dir():
        return False
    names = {file.name for file in path.iterdir()}
    return {META, OFFSETS} <= names <= {META, EMBEDDINGS, ITEMS, OFFSETS, CELLS}


def _hint() -> str:
    return f"build the index again with {command('index')}"


def _read_meta(path: Path) -> Meta:
    file = path / META
    if not is_there(file):
        raise CheckpointError(
            "is not an index: it has no meta.json",
            where=str(path),
            hint=f"{command('index')} builds one",
        )
    values = read_json(file, _hint())
    if isinstance(values, dict) and values.get("format") not in (FORMAT, None):
        raise CheckpointError(
            "unknown index format", where=str(file), got=values["format"], allowed=str(FORMAT),
            hint=_hint(),
        )  # fmt: skip
    try:
        meta = Meta.model_validate(unsealed(values, str(file), _hint()))
    except ValidationError:
        raise CheckpointError("the file is damaged", where=str(file), hint=_hint()) from None
    needed = {EMBEDDINGS, ITEMS, OFFSETS} | ({CELLS} if meta.kind == "faiss" else set())
    if set(meta.files) != needed:
        raise CheckpointError("the file is damaged", where=str(file), hint=_hint())
    return meta


def _check(path: Path, meta: Meta, verify: bool) -> None:
    for name, expected in meta.files.items():
        file = path / name
        with open_regular(file) as opened:
            whole = os.fstat(opened.fileno()).st_size == expected.bytes
        if not whole or (verify and seal(file) != expected):
            raise CheckpointError(
                "the file is damaged", where=str(file), hint=_hint()
            )  # fmt: skip


def _mapped(path: Path) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        raise CheckpointError("the file is damaged", where=str(path), hint=_hint()) from None
    return array
