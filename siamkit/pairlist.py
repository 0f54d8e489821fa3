"""Lists of pairs to verify: a CSV file with the columns ``a,b`` and, if known, ``same``."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from siamkit.data.decode import unreadable
from siamkit.data.sources import listed
from siamkit.embedding import Embedder
from siamkit.errors import DataError
from siamkit.evaluation.pairs import Pairs, scores

_SAME = {"1": True, "true": True, "yes": True, "same": True,
         "0": False, "false": False, "no": False, "different": False}  # fmt: skip


@dataclass(frozen=True)
class PairList:
    """Pairs of images by index.

    Attributes:
        names: Each image once, as the file writes it.
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


@dataclass
class _Found:
    """What was read so far; an image is checked the first time it is named."""

    root: Path
    index: dict[str, int] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # where each image is first named
    problems: list[tuple[int, str]] = field(default_factory=list)

    def image(self, name: str, row: int) -> int:
        if name not in self.index:
            path = self.root / name
            if problem := _problem(name, path, self.root):
                self.problems.append((row, f"{name!r}: {problem}"))
            self.index[name] = len(self.paths)
            self.paths.append(path)
            self.rows.append(row)
        return self.index[name]


def read_pairs(file: Path) -> PairList:
    """Read a list of pairs, and check the header of every image that it names.

    Args:
        file: UTF-8, with a header; ``same`` holds 1 or 0, true or false, yes or no. Paths are
            relative to the file's folder and stay within it; other columns play no part.

    Raises:
        DataError: The file or rows of it cannot be used: every one is told, by its number.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            return _read(csv.reader(stream, strict=True), file)
    except OSError as error:
        raise DataError(f"cannot read the list: {error.strerror}", where=str(file)) from None
    except UnicodeDecodeError:
        raise DataError("the list is not UTF-8", where=str(file), hint="save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"the list is not CSV: {error}", where=str(file)) from None


def _read(rows: Iterator[list[str]], file: Path) -> PairList:
    columns = _columns(next(rows, []), file)
    found = _Found(file.resolve().parent)
    ends: list[tuple[int, int]] = []
    same: list[bool] = []
    for number, row in enumerate(rows, 2):
        if not row:
            continue  # an empty line
        cells = {name: row[at].strip() if at < len(row) else "" for name, at in columns.items()}
        if empty := [name for name in cells if not cells[name]]:
            found.problems.append((number, f"nothing in {', '.join(empty)}"))
            continue
        ends.append((found.image(cells["a"], number), found.image(cells["b"], number)))
        if "same" in cells:
            word = cells["same"].lower()
            same.append(_SAME.get(word, False))
            if word not in _SAME:
                found.problems.append((number, f"same is {cells['same']!r}, allowed: 1, 0"))
    if not found.problems:
        bad = dict(unreadable(found.paths))
        found.problems += [
            (row, f"{name!r}: {bad[path]}")
            for name, path, row in zip(found.index, found.paths, found.rows, strict=True)
            if path in bad
        ]
    if found.problems:
        lines = [f"row {number}: {what}" for number, what in sorted(found.problems)]
        what = f"{len(lines)} problems with the list:" if len(lines) > 1 else "a problem:"
        raise DataError(what + listed(lines), where=str(file), hint="repair or remove these rows")
    if not ends:
        raise DataError("the list holds no pairs", where=str(file))
    first, second = np.array(ends, np.int64).T
    flags = np.array(same) if "same" in columns else None
    return PairList(tuple(found.index), tuple(found.paths), first, second, flags)


def _columns(header: list[str], file: Path) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice or not {"a", "b"} <= set(names):
        raise DataError(
            f"the header has {twice[0]!r} twice" if twice else "the header lacks a or b",
            where=f"{file}: row 1",
            got=",".join(header) or None,
            allowed="a,b or a,b,same",
        )
    return {name: names.index(name) for name in ("a", "b", "same") if name in names}


def _problem(name: str, path: Path, root: Path) -> str | None:
    if "\0" in name:
        return "a NUL character"
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        return "must be a path below the list's folder"
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError:
        return "no such file"
    except (OSError, RuntimeError):
        return "cannot be found"
    if not target.is_relative_to(root):
        return "a symbolic link out of the list's folder"
    return None if target.is_file() else "not a regular file"


def scored(embedder: Embedder, pairs: PairList) -> NDArray[np.float64]:
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


def errors_at(
    values: NDArray[np.float64], same: NDArray[np.bool_], threshold: float
) -> dict[str, Any]:
    """Return accuracy, FAR and FRR of scored pairs at a threshold; None where there is no pair."""
    accepted = values >= threshold
    return {
        "accuracy": float((accepted == same).mean()),
        "far": float(accepted[~same].mean()) if (~same).any() else None,
        "frr": float((~accepted[same]).mean()) if same.any() else None,
        "same": int(same.sum()),
        "different": int((~same).sum()),
    }
