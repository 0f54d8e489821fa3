"""Lists of pairs to verify: tables with the columns ``a``, ``b`` and optionally ``same``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, DataError
from ..files import path_of, replacing
from ..spelling import argument
from ..words import inert, plural
from .calibration import Calibration
from .cells import Cells
from .cosine import pair_cosines, require_direction
from .csv_rows import RowWriter
from .decode import RGB, Decoding
from .embedding import Embeds
from .folders import listed
from .judging import judge_files
from .looking import unreadable
from .rates import errors_at
from .tables import read_table, require_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = ("a", "b")


@dataclass(frozen=True)
class ListedPairs:
    """The pairs of a list.

    Attributes:
        rows: The two paths of each pair, relative to the folder of the list.
        same: Whether each pair shows one class, as the list says; None if it doesn't.
        notices: Notices about the list.
    """

    rows: tuple[tuple[str, str], ...]
    same: tuple[bool, ...] | None
    notices: tuple[str, ...] = ()

    @property
    def paths(self) -> list[str]:
        """The paths in ``rows``, each once, in the order of the rows."""
        return list(dict.fromkeys(path for row in self.rows for path in row))


@dataclass(frozen=True)
class PairVerdicts:
    """The decisions on a list of pairs.

    Attributes:
        pairs: The pairs, as listed.
        scores: ``[P]``, the cosine similarity of each pair.
        calibration: The calibration that decides.
        notices: Notices about the list, and about the images; see :func:`.judge_files`.
    """

    pairs: ListedPairs
    scores: NDArray[np.float64]
    calibration: Calibration
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def summary(self) -> dict[str, Any]:
        """Return the counts, the threshold, the error rates (if known), and the notices."""
        threshold = self.calibration.threshold
        known = self.pairs.same
        return {
            "pairs": len(self),
            "images": len(self.pairs.paths),
            "threshold": threshold,
            "prior": self.calibration.prior,
            "accepted": int((self.scores >= threshold).sum()),
            "errors": None if known is None else errors_at(self.scores, known, threshold),
            "notices": list(self.notices),
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each pair: ``a``, ``b``, the listed ``expected`` if any, the verdict."""
        for index, ((a, b), score) in enumerate(
            zip(self.pairs.rows, self.scores.tolist(), strict=True)
        ):
            verdict = self.calibration.verdict(score)
            known = {} if self.pairs.same is None else {"expected": self.pairs.same[index]}
            yield {
                "a": a,
                "b": b,
                **known,
                "same": verdict.same,
                "score": score,
                "probability": verdict.probability,
            }

    def write(self, stream: IO[str]) -> None:
        """Write :meth:`rows` as CSV, with 1 and 0 for true and false.

        A path that a spreadsheet program would take for a formula is written with ``./`` before it.
        """
        writer = RowWriter(stream)
        for number, row in enumerate(self.rows()):
            if not number:
                writer.writerow(row)
            paths = {name: inert(row[name]) for name in COLUMNS}
            values = {**row, **paths}.values()
            writer.writerow(int(v) if isinstance(v, bool) else v for v in values)

    def save(self, path: Path) -> None:
        """Write :meth:`rows` as CSV into a new file.

        Raises:
            ConfigError: The file exists, or its folder doesn't.
            ResourceError: The disk is full or not writable.
        """
        require_new(path)
        with (
            replacing(path, "free some space, or choose another file") as new,
            new.open("x", encoding="utf-8", newline="") as stream,
        ):
            self.write(stream)


def require_new(path: Path) -> None:
    """Check that a file does not exist, but its folder does.

    Raises:
        ConfigError: The file exists, or its folder doesn't.
    """
    if not path.absolute().parent.is_dir():
        raise ConfigError("no such folder", where=argument("output"), got=str(path.parent))
    if path.exists():
        raise ConfigError(
            "the file already exists",
            where=argument("output"),
            got=str(path),
            hint="remove it, or choose another file",
        )


def read_pairs(file: Path, how: Decoding = RGB) -> ListedPairs:
    """Read a list of pairs, and check the header of every listed image.

    Unlike in training data, a row may repeat another row, or compare an image with itself.

    Args:
        file: A table with the columns ``a``, ``b`` and optionally ``same``. Other columns are
            ignored. Paths are relative to the table's folder, and must not lead out of it.
        how: How the images will be decoded.

    Raises:
        DataError: The file or some rows cannot be used. The message lists the rows by number.
    """
    table = read_table(file)
    ignored = require_columns(table, COLUMNS, ("same",))
    cells = Cells(_root(file))
    has_same = "same" in table.columns
    first_row: dict[str, int] = {}
    rows: list[tuple[str, str]] = []
    same: list[bool] = []
    for number, row in table.rows:
        a, b = (cells.path(number, row[name], name) for name in COLUMNS)
        flag = cells.flag(number, row["same"], "same") if has_same else False
        if a is None or b is None or flag is None:
            continue
        for path in (a, b):
            first_row.setdefault(path, number)
        rows.append((a, b))
        same.append(flag)
    bad = dict(unreadable([cells.root / name for name in first_row], how))
    problems = [*table.problems, *cells.problems]
    for name, number in first_row.items():
        if (problem := bad.get(cells.root / name)) is not None:
            problems.append(f"row {number}: {name}: {problem}")
    if problems:
        count = plural(len(problems), "problem")
        raise DataError(f"{count}:{listed(problems)}", where=str(file))
    if not rows:
        raise DataError("the list has no pairs", where=str(file))
    notices = [f"ignored columns: {', '.join(ignored)}"] if ignored else []
    notices += _doubtful(rows, same) if has_same else []
    return ListedPairs(tuple(rows), tuple(same) if has_same else None, tuple(notices))


def _doubtful(rows: Sequence[tuple[str, str]], same: Sequence[bool]) -> list[str]:
    """Return notices about pairs that make the error rates of a list say less than they seem to."""
    flags: dict[tuple[str, ...], set[bool]] = {}
    for row, flag in zip(rows, same, strict=True):
        flags.setdefault(tuple(sorted(row)), set()).add(flag)
    notices = []
    if both := [pair for pair, found in flags.items() if len(found) > 1]:
        verb = "is" if len(both) == 1 else "are"
        notices.append(
            f"{plural(len(both), 'pair')} {verb} listed as same and as different, so one of the "
            f"rows counts as an error: {both[0][0]} and {both[0][1]}"
        )
    if own := sum(a == b for a, b in rows):
        compares = "compares" if own == 1 else "compare"
        notices.append(
            f"{plural(own, 'pair')} {compares} an image with itself, which any network accepts"
        )
    return notices


def _root(file: Path) -> Path:
    return file.absolute().parent.resolve()


def verify_pairs(embedder: Embeds, pairs: ListedPairs, file: Path) -> PairVerdicts:
    """Verify each pair of a list.

    Args:
        embedder: The network, with its calibration.
        pairs: The pairs from :func:`read_pairs`.
        file: The file of the list. Paths are relative to the file's folder.

    Raises:
        CheckpointError: The network has no threshold. The message says how to get one.
        SiamkitError: As for :meth:`.Embedder.embed`.
    """
    calibration = embedder.calibration  # before the embedding, which takes time: it may be missing
    root = _root(file)
    about = judge_files([root / name for name in pairs.paths], embedder)
    notices = [*pairs.notices, *about]
    return PairVerdicts(pairs, pair_scores(embedder, pairs, root), calibration, tuple(notices))


def verify_list(
    load: Callable[[], Embeds], pairs: str | Path, output: str | Path | None
) -> PairVerdicts:
    """Verify each pair of a list, and write the verdicts to a file if one is given.

    Args:
        load: Returns the network; called once the arguments are known to be usable.
        pairs: The list; see :func:`read_pairs`.
        output: A new CSV file for the verdicts; None writes no file.

    Raises:
        ConfigError: ``output`` exists, or its folder doesn't.
        SiamkitError: As for :func:`read_pairs` and :func:`verify_pairs`.
    """
    path = path_of(pairs, "pairs", "a table of pairs")
    target = None if output is None else path_of(output, "output", "a new CSV file")
    if target is not None:
        require_new(target)
    embedder = load()
    verdicts = verify_pairs(embedder, read_pairs(path, embedder.decoding), path)
    if target is not None:
        verdicts.save(target)
    return verdicts


def pair_scores(embedder: Embeds, pairs: ListedPairs, root: Path) -> NDArray[np.float64]:
    """Return the cosine similarities ``[P]`` of the pairs. Each image is embedded once.

    Args:
        embedder: The network.
        pairs: The pairs.
        root: The folder that the paths are relative to.

    Raises:
        SiamkitError: As for :meth:`.Embedder.embed`.
    """
    names = pairs.paths
    vectors = np.empty((len(names), embedder.embedding_dim), np.float32)
    done = 0
    for part in embedder.stream([root / name for name in names]):
        vectors[done : done + len(part.paths)] = part.embeddings
        done += len(part.paths)
    require_direction(vectors, names)
    place = {name: index for index, name in enumerate(names)}
    first, second = np.array([[place[name] for name in row] for row in pairs.rows], np.int64).T
    return pair_cosines(vectors, first, second)
