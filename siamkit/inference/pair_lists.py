"""Lists of pairs to verify: a table with the columns ``a,b`` and, if known, ``same``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from siamkit.data.decode import unreadable
from siamkit.data.folders import listed
from siamkit.data.tables import Cells, read_table, require_columns
from siamkit.errors import DataError
from siamkit.evaluation.pairs import Pairs, scores
from siamkit.inference.embedder import Embedder

COLUMNS = ("a", "b")


@dataclass(frozen=True)
class PairsToVerify:
    """Pairs of images by index, each row of a list one.

    Attributes:
        names: Each image once, as a path relative to the list.
        paths: Where it lies.
        first: ``[P]``, into these.
        second: ``[P]``
        same: ``[P]``, whether both show the same; None where the file doesn't say.
    """

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.first)


def read_pairs(file: Path) -> PairsToVerify:
    """Read a list of pairs, and check the header of every image that it names.

    Unlike data to train on, a row may repeat another, or compare an image with itself.

    Args:
        file: A table with the columns ``a`` and ``b`` and, if known, ``same``. Paths are relative
            to its folder and stay within it; other columns play no part.

    Raises:
        DataError: The file or rows of it cannot be used: every one is told, by its number.
    """
    table = read_table(file)
    require_columns(table, COLUMNS, ("same",))
    cells = Cells(file.absolute().parent.resolve())
    has_same = "same" in table.columns
    index: dict[str, int] = {}
    named: list[int] = []  # the row where each image is first named
    ends: list[tuple[int, int]] = []
    same: list[bool] = []
    for number, row in table.rows:
        pair = [cells.path(number, row[name], name) for name in COLUMNS]
        flag = cells.flag(number, row["same"], "same") if has_same else False
        first, second = pair
        if first is None or second is None or flag is None:
            continue
        for name in (first, second):
            if name not in index:
                index[name] = len(index)
                named.append(number)
        ends.append((index[first], index[second]))
        same.append(flag)
    paths = tuple(cells.root / name for name in index)
    bad = dict(unreadable(paths))
    problems = [*table.problems, *cells.problems]
    for name, path, number in zip(index, paths, named, strict=True):
        if path in bad:
            problems.append(f"row {number}: {name}: {bad[path]}")
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DataError(f"{count}:{listed(problems)}", where=str(file))
    if not ends:
        raise DataError("the list holds no pairs", where=str(file))
    one, other = np.array(ends, np.int64).T
    return PairsToVerify(tuple(index), paths, one, other, np.array(same) if has_same else None)


def scored(embedder: Embedder, pairs: PairsToVerify) -> NDArray[np.float64]:
    """Return the cosine similarity of each pair ``[P]``; each image is embedded once.

    Raises:
        SiamkitError: As for :meth:`.Embedder.embed`.
    """
    vectors = torch.empty(len(pairs.paths), embedder.embedding_dim)
    done = 0
    for part in embedder.stream(pairs.paths):
        vectors[done : done + len(part.paths)] = F.normalize(part.embeddings, dim=-1)
        done += len(part.paths)
    every = np.zeros(len(pairs), bool)
    return scores(vectors, Pairs(pairs.first, pairs.second, every, all=False)).clip(-1, 1)
