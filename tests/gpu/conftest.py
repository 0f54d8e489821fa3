"""The tests on a CUDA device. ``pytest tests/gpu`` runs them, and skips them where there is none.

``SIAMKIT_GPU_DEVICE=cpu pytest tests/gpu`` tries the same code on the CPU. This shows errors in the
tests, but nothing about a GPU.

Runs are compared with TF32 off and with torch's deterministic algorithms, where torch has them.
Then two equal runs are equal in every bit. Where torch has no deterministic algorithm, such as for
the backward of max pooling, they may differ by rounding; ``test_resume.py`` says by how much.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import siamkit
from siamkit import api
from siamkit.runs import checkpoint

# Read by cuBLAS when CUDA starts: without it, its sums have no fixed order.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

HERE = Path(__file__).parent
DEVICE = torch.device(os.environ.get("SIAMKIT_GPU_DEVICE", "cuda"))


class Run:
    """A run that ended: its events, its result, and its latest checkpoint."""

    def __init__(self, run_dir: str | Path, result: Any, events: list[siamkit.Event]) -> None:
        self.path, self.result, self.events = Path(run_dir), result, events
        saved = checkpoint.latest_intact(self.path / "checkpoints")[0]
        self.state = saved.state
        self.tensors = {**saved.model, **{f"o/{name}": t for name, t in saved.optimizer.items()}}

    def of(self, name: str) -> list[dict[str, Any]]:
        """The data of all events with a name."""
        return [dict(event.data) for event in self.events if event.name == name]

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [data["loss"] for data in self.of("step")]

    @property
    def notices(self) -> str:
        """All notices."""
        return "\n".join(data["text"] for data in self.of("notice"))


class Killed(BaseException):
    pass


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them without their device."""
    absent = DEVICE.type == "cuda" and not torch.cuda.is_available()
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker(pytest.mark.gpu)
        # torch warns of each operation without a deterministic algorithm, and that it does not
        # notice all operations that wait for the device.
        for text in ("deterministic", "Synchronization debug mode"):
            item.add_marker(pytest.mark.filterwarnings(f"ignore:.*{text}"))
        if absent:
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device that the tests run on."""
    return DEVICE


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The device, for tests that need CUDA itself."""
    if device.type != "cuda":
        pytest.skip("this test needs CUDA itself")
    return device


@pytest.fixture(autouse=True)
def compiler_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))


@pytest.fixture(autouse=True)
def reproducible() -> Iterator[None]:
    """Deterministic algorithms where torch has them, and float32 without TF32."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.allow_tf32 = cudnn.benchmark = False
    yield
    cudnn.allow_tf32, cudnn.benchmark = before
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def values(
    values_of: Callable[..., dict[str, Any]], tmp_path: Path, device: torch.device
) -> Callable[..., dict[str, Any]]:
    """A function that returns the config values of a small run on the device."""

    def make(run: str = "run", **sections: Any) -> dict[str, Any]:
        sections["train"] = {"device": str(device), **sections.get("train", {})}
        sections["engine"] = {"dtype": "float32", "prefix": "eager", **sections.get("engine", {})}
        return values_of(tmp_path / run, **sections)

    return make


@pytest.fixture
def train(values: Callable[..., dict[str, Any]]) -> Callable[..., Run]:
    """A function that trains a small run on the device."""

    def fit(run: str = "run", **sections: Any) -> Run:
        events: list[siamkit.Event] = []
        given = values(run, **sections)
        return Run(given["run_dir"], api.fit(given, listeners=[events.append]), events)

    return fit


@pytest.fixture
def train_interrupted(values: Callable[..., dict[str, Any]]) -> Callable[..., Run]:
    """The same, but the run is killed at its n-th event of a name, and then resumed."""

    def fit(name: str, count: int, run: str = "interrupted", **sections: Any) -> Run:
        events: list[siamkit.Event] = []
        given = values(run, **sections)

        def kill(event: siamkit.Event) -> None:
            events.append(event)
            if sum(e.name == name for e in events) == count:
                raise Killed

        with pytest.raises(Killed):
            api.fit(given, listeners=[kill])
        events.clear()
        result = api.resume(given["run_dir"], listeners=[events.append])
        return Run(given["run_dir"], result, events)

    return fit


@pytest.fixture
def different() -> Callable[..., list[str]]:
    """A function that returns the names of tensors that differ in a bit, or by more than this."""

    def names(a: Mapping[str, Tensor], b: Mapping[str, Tensor], by: float = 0.0) -> list[str]:
        assert a.keys() == b.keys()
        if not by:
            return [name for name in a if not torch.equal(a[name], b[name])]

        def apart(name: str) -> float:
            one, other = a[name].double(), b[name].double()
            scale = other.abs().max().clamp_min(1e-6) if other.numel() else 1.0
            return float(((one - other).abs() / scale).max()) if other.numel() else 0.0

        return [name for name in a if apart(name) > by]

    return names
