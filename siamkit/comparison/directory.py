"""The directory of a comparison: its plan, its results, and the runs that are being trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from siamkit.comparison.plan import Plan, Round
from siamkit.comparison.results import ArmResult
from siamkit.errors import CheckpointError, ConfigError
from siamkit.files import is_leftover, is_there, require_unicode, writing
from siamkit.json_files import parsed, read_sealed, write_sealed
from siamkit.runs.directory import run_around
from siamkit.spelling import argument

Unit = tuple[int, int]
"""The number of an arm and the number of a round, both from 0."""


class ComparisonDir:
    """The directory of a comparison.

    ``comparison.json`` holds the plan. ``results/`` holds a file for each finished run, and
    ``tables/`` the images of each round. ``runs/`` holds the runs that are being trained, which
    are removed when they are finished. ``pilot/`` is the comparison that tells how long the arms
    take, if all shall take equally long. At the end, ``best.yaml`` is the config of the best arm,
    and ``comparison.html`` is the report. Each run has a lock, so several processes may work on
    one comparison.

    Args:
        path: The directory.
        option: The argument with which the user chooses another directory.
    """

    def __init__(self, path: Path, option: str = "output") -> None:
        self.path, self.option = path, option
        self.plan = path / "comparison.json"
        self.results = path / "results"
        self.tables = path / "tables"
        self.runs = path / "runs"
        self.data = path / "data"
        self.pilot = path / "pilot"
        self.best = path / "best.yaml"
        self.report = path / "comparison.html"
        self._read: dict[Unit, ArmResult] = {}

    def require_free(self) -> None:
        """Check that the folder is missing, empty or a comparison's. Nothing is changed.

        Raises:
            CheckpointError: The folder holds a comparison whose plan is missing.
            ConfigError: The folder holds something else, lies in a run, or is not valid Unicode.
            ResourceError: The folder cannot be read.
        """
        require_unicode(self.path.absolute())
        with writing(self.path):
            if is_there(self.plan):
                return
            if outer := run_around(self.path):
                hint = "choose another folder"
                raise ConfigError(f"lies in the run {outer}", where=str(self.path), hint=hint)
            if self.path.exists() and not self.path.is_dir():
                raise ConfigError("is not a directory", where=str(self.path))
            if any(self.results.glob("arm-*-round-*.json")):
                raise CheckpointError(
                    "the file is missing, and the comparison in this folder cannot go on without",
                    where=str(self.plan),
                    hint="put the file back, or choose another folder to start anew",
                )
            if self.path.is_dir() and not all(map(is_leftover, self.path.iterdir())):
                raise ConfigError(
                    "the folder is not empty, and holds no comparison to go on with",
                    where=str(self.path),
                    hint="choose another folder",
                )

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write the plan of a new comparison, or check that an earlier one has the same plan.

        Args:
            facts: What decides the results. Values that JSON does not have are compared as text.

        Raises:
            CheckpointError: The directory holds a comparison whose plan is missing or damaged.
            ConfigError: The directory holds something else, or another comparison.
        """
        self.require_free()
        # As they are read back: a tuple of the user comes back as a list.
        facts = parsed(json.dumps(dict(facts), default=str))
        if is_there(self.plan):
            self._require_same(facts)
            return
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_sealed(self.plan, facts)

    def _require_same(self, facts: Mapping[str, Any]) -> None:
        before = read_sealed(self.plan, "choose another folder to start anew")
        wrong = [key for key in {**before, **facts} if before.get(key) != facts.get(key)]
        if wrong:
            key = wrong[0]
            hint = f"choose another folder ({argument(self.option, 'DIR')})"
            raise ConfigError(
                f"the folder holds a comparison with another {_WORDS.get(key, key)}",
                where=str(self.path),
                got=None if key in _HASHES else _unlike(facts.get(key), before.get(key)),
                allowed=None if key in _HASHES else _unlike(before.get(key), facts.get(key)),
                hint=hint if key in _HASHES else f"repeat its own command, or {hint}",
            )

    def table(self, turn: Round) -> Path:
        """Return the folder of the table of a round's images."""
        return self.tables / turn.name

    def run(self, unit: Unit, variant: int) -> Path:
        """Return the directory of a run while it is trained."""
        arm, turn = unit
        return self.runs / f"arm-{arm:02d}-round-{turn:03d}-{variant}"

    def _result(self, unit: Unit) -> Path:
        arm, turn = unit
        return self.results / f"arm-{arm:02d}-round-{turn:03d}.json"

    def done(self, plan: Plan) -> dict[Unit, ArmResult]:
        """Return all results so far. Each file is read once.

        Raises:
            CheckpointError: A file is damaged; the message says what to do.
        """
        for arm in range(len(plan.arms)):
            for turn in range(len(plan.rounds)):
                unit = arm, turn
                path = self._result(unit)
                if unit not in self._read and is_there(path):
                    hint = "remove the file, and the same command trains this run again"
                    values = read_sealed(path, hint)
                    try:
                        self._read[unit] = ArmResult.from_json(values)
                    except (KeyError, TypeError, ValueError, AttributeError):
                        what = "the file is of another version of siamkit"
                        raise CheckpointError(what, where=str(path), hint=hint) from None
        return dict(self._read)

    def keep(self, unit: Unit, result: ArmResult) -> None:
        """Store a result, and remove the runs that it comes from."""
        with writing(self.results):
            self.results.mkdir(exist_ok=True)
        write_sealed(self._result(unit), result.to_json())
        self._clear(self._result(unit))

    def _clear(self, result: Path) -> None:
        """Remove the runs that a result comes from."""
        for folder in self.runs.glob(f"{result.stem}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self, unit: Unit) -> None:
        """Remove a result, so that the run is trained again."""
        self._read.pop(unit, None)
        with writing(self.results):
            self._result(unit).unlink(missing_ok=True)

    def forget_mendable(self, plan: Plan) -> None:
        """Remove the failures that may have had a cause outside of the arm, such as full memory."""
        for unit, result in self.done(plan).items():
            if result.mendable:
                self.forget(unit)

    @contextmanager
    def claimed(self, unit: Unit) -> Iterator[bool]:
        """Claim a run for this process, unless another one has it or has finished it.

        Yields:
            Whether this process shall train the run.
        """
        with writing(self.runs):
            self.runs.mkdir(exist_ok=True)
        lock = FileLock(self.runs / f".arm-{unit[0]:02d}-round-{unit[1]:03d}.lock", timeout=0)
        try:
            with writing(self.runs):
                lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield not is_there(self._result(unit))
        finally:
            lock.release()

    def finish(self) -> None:
        """Remove what is left of the finished runs: folders after a kill, and the locks."""
        for result in self.results.glob("arm-*.json"):
            self._clear(result)
        with suppress(OSError):
            for lock in self.runs.glob(".arm-*.lock"):
                lock.unlink()
            self.runs.rmdir()


_WORDS = {
    "config": "configuration", "arms": "list of arms", "data": "set of images",
    "weights": "set of weights", "plugins": "version of a plugin",
}  # fmt: skip
_HASHES = ("data", "weights")
"""The facts that are hashes, which tell the user nothing."""


def _unlike(value: Any, other: Any, most: int = 200) -> str:
    """Return the part of a value that another value does not have, as short text."""
    if isinstance(value, dict) and isinstance(other, dict):
        keys = sorted(k for k in {**value, **other} if value.get(k) != other.get(k))
        text = ", ".join(f"{key}={value.get(key)}" for key in keys)
    elif isinstance(value, list) and isinstance(other, list):
        unlike = [item for item in value if item not in other] or value
        names = [item.get("name", item) if isinstance(item, dict) else item for item in unlike]
        text = ", ".join(map(str, names))
    else:
        text = str(value)
    return text if len(text) <= most else f"{text[:most]}..."
