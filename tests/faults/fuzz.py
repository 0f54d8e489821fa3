"""Damaged and invented input: each reader must return a value or raise a siamkit error."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from readers import Readers
from records import Record

from siamkit.errors import SiamkitError


def cases(kills: Any, count: int, number: int) -> Iterator[tuple[str, Callable[[], Record]]]:
    """Yield the name of each reader, and a function that tries it; ``count`` inputs in all."""
    if not count:
        return
    from subjects import Subject

    whole, _, _ = kills.whole(Subject("stages", True))
    folder = Path(tempfile.mkdtemp(dir=kills.folder, prefix="fuzz-"))
    made = kills.programs.run(
        ["index", whole, kills.images, "-o", folder / "index", "--workers", "0"], folder / "none"
    )
    assert made.code == 0, made.err
    readers = Readers(folder, whole, folder / "index", whole.parent / "cache")
    each = -(-count // len(readers.all))
    for name in readers.all:
        yield name, partial(case, readers, name, each, number)


def case(readers: Readers, name: str, count: int, number: int) -> Record:
    """Give one reader ``count`` inputs."""
    strategy, read = readers.all[name]
    told = {"read": 0, "refused": 0}

    @seed(number)
    @settings(
        max_examples=count, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    @given(strategy)
    def attempt(content: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=readers.folder) as place:
            suffix = {"images": ".png", "tables of images": ".csv", "lists of pairs": ".csv"}
            path = Path(place) / f"input{suffix.get(name, '.json')}"
            path.write_bytes(content)
            for copy in "abcd":
                shutil.copy(readers.folder / "a.png", f"{place}/{copy}.png")
            try:
                read(path)
                told["read"] += 1
            except SiamkitError as error:
                assert error.exit_code != 1, error
                told["refused"] += 1

    problem = None
    try:
        attempt()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        notes = " ".join(getattr(error, "__notes__", []))
        problem = f"{type(error).__name__}: {error} {notes}"[:1500]
    total = sum(told.values())
    happened = problem or f"{told['read']} read, {told['refused']} refused"
    return Record("fuzz", f"{number}/{name}", name, f"{total} inputs", happened, problem, total)
