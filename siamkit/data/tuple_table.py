"""Tuple tables: read pairs, triplets and LFW's ``pairs.txt``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamkit.data.alike_names import alike_notices
from siamkit.data.images import ImageSet, Sample, Tuples
from siamkit.data.manifest import read_split
from siamkit.errors import DataError
from siamkit.portable.cells import Cells
from siamkit.portable.decode import missing
from siamkit.portable.tables import Table, missing_notices, require_columns
from siamkit.words import plural

PAIR = ("a", "b", "same")
TRIPLET = ("anchor", "positive", "negative")
OPTIONAL = ("split", "group")


@dataclass(frozen=True)
class TupleTable:
    """The pairs or triplets of a file.

    Attributes:
        rows: The paths of each pair or triplet, relative to the data's root folder.
        numbers: The number of each row or line in the file.
        same: Whether each pair shows one identity; None for triplets.
        splits: The split of each pair or triplet; None if not given.
        groups: The group of each pair or triplet; None if not given.
        folds: The fold of each pair; None if not given.
        names: The identity of each path. None if not given; then the pairs or triplets decide which
            paths show one identity.
    """

    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]
    same: tuple[bool, ...] | None
    splits: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    folds: tuple[int, ...] | None = None
    names: Mapping[str, str] | None = None

    @property
    def paths(self) -> list[str]:
        """The paths in ``rows``, each once, in the order of the rows."""
        return list(dict.fromkeys(path for row in self.rows for path in row))

    @property
    def alike(self) -> list[tuple[str, str]]:
        """The pairs of paths that show one identity."""
        if self.same is None:
            return [(row[0], row[1]) for row in self.rows]
        return [(row[0], row[1]) for row, same in zip(self.rows, self.same, strict=True) if same]

    def identities(self) -> dict[str, str]:
        """Return the identity of each path.

        Without ``names``, all paths that same pairs connect are one identity, named after the
        alphabetically first of these paths. With few pairs, one true identity may become several.
        """
        if self.names is not None:
            return dict(self.names)
        return connected(self.paths, self.alike)

    def without(self, paths: frozenset[str]) -> TupleTable:
        """Return the table without the rows that have one of ``paths``."""
        kept = [i for i, row in enumerate(self.rows) if not paths.intersection(row)]
        return TupleTable(
            tuple(self.rows[i] for i in kept),
            tuple(self.numbers[i] for i in kept),
            None if self.same is None else tuple(self.same[i] for i in kept),
            None if self.splits is None else tuple(self.splits[i] for i in kept),
            None if self.groups is None else tuple(self.groups[i] for i in kept),
            None if self.folds is None else tuple(self.folds[i] for i in kept),
            self.names,
        )

    def images(self, root: Path) -> ImageSet:
        """Return the images with their pairs or triplets."""
        identity = self.identities()
        paths = sorted(self.paths, key=lambda p: (identity[p], p))
        classes = tuple(sorted({identity[path] for path in paths}))
        label = {name: number for number, name in enumerate(classes)}
        index = {path: number for number, path in enumerate(paths)}
        samples = tuple(Sample(root / path, label[identity[path]], path) for path in paths)
        rows = tuple(tuple(index[path] for path in row) for row in self.rows)
        return ImageSet(samples, classes, Tuples(rows, self.same, self.folds))


def connected(paths: Iterable[str], edges: Iterable[Sequence[str]]) -> dict[str, str]:
    """Map each path to the alphabetically first path of its connected component."""
    parent = {path: path for path in paths}

    def root(path: str) -> str:
        while parent[path] != path:
            parent[path] = parent[parent[path]]  # shortens long chains
            path = parent[path]
        return path

    for first, *others in edges:
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    return {path: root(path) for path in parent}


def read_tuples(table: Table, cells: Cells) -> tuple[TupleTable, tuple[str, ...]]:
    """Return the pairs or triplets of a table, and notices for the user.

    A wrong value in a cell raises no error here: it is added to the problems of ``cells``.

    Raises:
        DataError: A required column is missing.
    """
    triplets = "anchor" in table.columns
    required = TRIPLET if triplets else PAIR
    unknown = require_columns(table, required, OPTIONAL)
    notices = [f"ignored columns: {', '.join(unknown)}"] if unknown else []
    has_split, has_group = ("split" in table.columns), ("group" in table.columns)
    firsts: dict[tuple[str, ...], tuple[int, bool]] = {}
    rows, numbers, sames, splits, groups, repeated = [], [], [], [], [], 0
    for number, row in table.rows:
        names = TRIPLET if triplets else PAIR[:2]
        paths = [cells.path(number, row[name], name) for name in names]
        same = True if triplets else cells.flag(number, row["same"], "same")
        split = read_split(number, row["split"], cells) if has_split else None
        group = cells.word(number, row["group"], "group") if has_group else None
        named = tuple(path for path in paths if path is not None)
        if len(named) < len(names) or same is None:
            continue
        if twice := [path for path in named if named.count(path) > 1]:
            cells.wrong(number, f"an image is compared with itself: {twice[0]}")
            continue
        key = named if triplets else tuple(sorted(named))
        first, first_same = firsts.setdefault(key, (number, same))
        if first_same != same:
            cells.wrong(number, f"contradicts row {first}: same is {row['same']}")
        elif first != number:
            repeated += 1
        else:
            rows.append(named)
            numbers.append(number)
            sames.append(same)
            splits.append(split or "")
            groups.append(group or "")
    if repeated:
        notices.append(f"left out {plural(repeated, 'repeated row')}")
    notices += missing_notices("group", groups, "triplet" if triplets else "pair")
    notices += alike_notices("group", groups)
    known = TupleTable(
        tuple(rows),
        tuple(numbers),
        None if triplets else tuple(sames),
        tuple(splits) if has_split else None,
        tuple(groups) if has_group else None,
    )
    return known, (*notices, *_contradictions(known))


def _contradictions(known: TupleTable) -> list[str]:
    """Return a notice if a chain of same pairs connects the two images of a different pair."""
    identity = known.identities()
    if known.same is None:
        wrong = [row for row in known.rows if identity[row[0]] == identity[row[2]]]
    else:
        pairs = zip(known.rows, known.same, strict=True)
        wrong = [row for row, same in pairs if not same and identity[row[0]] == identity[row[1]]]
    if not wrong:
        return []
    return [
        f"contradiction: chains of same pairs connect the images of "
        f"{plural(len(wrong), 'different pair')}, such as {wrong[0][0]} and {wrong[0][-1]}"
    ]


def read_lfw(path: Path, cells: Cells) -> TupleTable:
    """Return the pairs of an LFW file: ``pairs.txt``, ``pairsDevTrain.txt``, ``pairsDevTest.txt``.

    The first line holds the number of folds (left out if there is only one) and the number of pairs
    of each kind per fold. Then each fold has lines ``name n1 n2`` for pairs of one person, followed
    by lines ``name1 n1 name2 n2`` for pairs of two persons. Image 1 of a person is the file
    ``name/name_0001.jpg``. (Huang et al., Labeled Faces in the Wild, 2007.)

    Problems in the lines after the first are added to the problems of ``cells``.

    Raises:
        DataError: The file is missing, or its first line is not that of an LFW file.
    """
    try:
        if problem := missing(path):
            raise DataError(problem, where=str(path))
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        head = [int(word) for word in lines[0].split()]
    except (OSError, ValueError, IndexError):
        head = []
    if len(head) not in (1, 2) or min(head) < 1:
        raise DataError(
            "is not a file of LFW pairs",
            where=str(path),
            allowed="a first line with the number of folds and of pairs, such as '10\t300'",
            hint="write other pairs to a CSV file with the columns a,b,same",
        )
    folds, size = head if len(head) == 2 else (1, head[0])
    expected = 2 * folds * size
    rows, lines_of, sames, fold_of = [], [], [], []
    names: dict[str, str] = {}
    body = [(n, line.split()) for n, line in enumerate(lines[1:], 2) if line.strip()]
    if len(body) != expected:
        cells.problems.append(
            f"the first line announces {plural(expected, 'pair')}, but there are {len(body)}"
        )
    for i, (number, words) in enumerate(body):
        same = (i // size) % 2 == 0
        if len(words) != (3 if same else 4):
            cells.wrong(number, f"must have {3 if same else 4} words, got {len(words)}")
            continue
        ends = [(words[0], words[1]), (words[0] if same else words[2], words[-1])]
        resolved = [_lfw_path(number, *end, cells) for end in ends]
        if None in resolved:
            continue
        pair = tuple(path for path in resolved if path is not None)
        if pair[0] == pair[1]:
            cells.wrong(number, f"an image is compared with itself: {pair[0]}")
            continue
        names.update(zip(pair, (name for name, _ in ends), strict=True))
        rows.append(pair)
        lines_of.append(number)
        sames.append(same)
        fold_of.append(i // (2 * size))
    return TupleTable(
        tuple(rows), tuple(lines_of), tuple(sames),
        folds=tuple(fold_of) if folds > 1 else None, names=names,
    )  # fmt: skip


def _lfw_path(number: int, name: str, image: str, cells: Cells) -> str | None:
    if not (image.isdecimal() and len(image) < 10):
        cells.wrong(number, f"must have an image number, got {image!r}")
        return None
    return cells.path(number, f"{name}/{name}_{int(image):04d}.jpg")
