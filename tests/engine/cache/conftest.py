"""Rows that are a function of their keys, so that every test can tell a wrong one."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from siamkit.engine.cache.store import FeatureStore, open_store

SHAPE = (3, 4)

PROGRAM = """
import hashlib, sys, time
from pathlib import Path
import torch
from siamkit.engine.cache.store import open_store
torch.set_num_threads(1)
def key(i): return hashlib.sha256(b"%d" % i).digest()[:16]
def rows(numbers):
    return torch.stack([torch.full((3, 4), float(i)) + torch.arange(12.0).view(3, 4) / 16
                        for i in numbers])
def opened(root): return open_store(Path(root), {"prefix": "a"}, (3, 4), torch.float32)
def say(text): print(text, flush=True)
root = sys.argv[1]
"""


def key(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()[:16]


def rows(numbers) -> Tensor:
    base = torch.arange(12.0).view(3, 4) / 16
    return torch.stack([torch.full(SHAPE, float(number)) + base for number in numbers])


class Maker:
    """What the tests of the cache share."""

    key = staticmethod(key)
    rows = staticmethod(rows)

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, prefix: str = "a", dtype: torch.dtype = torch.float32) -> FeatureStore:
        return open_store(self.root, {"prefix": prefix}, SHAPE, dtype)

    def keys(self, numbers) -> list[bytes]:
        return [key(number) for number in numbers]

    def fill(self, numbers, prefix: str = "a", shard: int = 4) -> Path:
        """Add rows in shards of ``shard`` rows, and return the store's folder."""
        numbers = list(numbers)
        with self.open(prefix) as store, store.filling() as fill:
            for start in range(0, len(numbers), shard):
                part = numbers[start : start + shard]
                fill.add(self.keys(part), rows(part))
                fill.publish()
            return store.path

    def shards(self, prefix: str = "a") -> list[Path]:
        with self.open(prefix) as store:
            return sorted(store.path.glob("shard-*"))

    def check(self, numbers, prefix: str = "a") -> None:
        """Assert that all of these rows are there and right."""
        numbers = list(numbers)
        with self.open(prefix) as store:
            assert store.missing(self.keys(numbers)) == []
            found = store.rows(self.keys(numbers)).gather(torch.arange(len(numbers)))
        assert torch.equal(found, rows(numbers))


@pytest.fixture
def cache(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "cache")


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], list[str]]:
    """The command that runs a program in another process; ``root`` is the cache's folder."""
    return lambda body: [sys.executable, "-c", PROGRAM + body, str(tmp_path / "cache")]


@pytest.fixture
def start(program):
    """Start a program; it is killed at the end of the test if it still runs."""
    running: list[subprocess.Popen[str]] = []

    def run(body: str) -> subprocess.Popen[str]:
        running.append(subprocess.Popen(program(body), stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()
