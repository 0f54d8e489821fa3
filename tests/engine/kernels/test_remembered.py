from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from siamkit.engine.cache import budget
from siamkit.engine.kernels import Memory, batch_size, choose
from siamkit.engine.kernels import build as building
from siamkit.engine.kernels.base import FoldedKernel
from siamkit.engine.kernels.remembered import Measurements

remembered = importlib.import_module("siamkit.engine.kernels.remembered")
MANY = 10**6


@pytest.fixture(autouse=True)
def few_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building.onnxruntime, "find_spec", lambda name: None)
    monkeypatch.setenv("CXX", "no-such-compiler")


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "cache", {"machine": "this one"})


MEASURED = Measurements(100, {"eager": 0.2, "folded": 0.1}, {"eager": 9.0, "folded": 30.0})


def test_what_is_written_is_read(memory: Memory) -> None:
    assert memory.read() is None
    memory.write(MEASURED)
    assert memory.read() == MEASURED
    assert replace(memory, facts={"machine": "another"}).read() is None


def test_measurements_expire(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.write(MEASURED)
    now = remembered.time.time()
    monkeypatch.setattr(remembered.time, "time", lambda: now + 29 * 86_400)
    assert memory.read() == MEASURED
    monkeypatch.setattr(remembered.time, "time", lambda: now + 31 * 86_400)
    assert memory.read() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"time": 1}'])
def test_damaged_measurements_are_none(memory: Memory, text: str) -> None:
    memory.write(MEASURED)
    memory._path.write_text(text)
    assert memory.read() is None
    memory.write(MEASURED)
    content = memory._path.read_text()
    memory._path.write_text(content.replace("0.2", "0.3"))
    assert memory.read() is None, "the seal notices a changed digit"


def test_a_folder_that_is_not_writable_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file", {})
    memory.write(MEASURED)
    assert memory.read() is None


def test_the_setup_counts_except_for_the_plain_network() -> None:
    assert MEASURED.fastest(299) == "eager"
    assert MEASURED.fastest(301) == "folded"


def test_clearing_the_cache_forgets_the_measurements(memory: Memory) -> None:
    memory.write(MEASURED)
    budget.clear(memory.root)
    assert memory.read() is None


def test_a_choice_is_kept_and_then_not_measured_again(
    small: nn.Module, images: Tensor, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    run = FoldedKernel._run
    monkeypatch.setattr(FoldedKernel, "_run", lambda k, x: runs.append(1) or run(k, x))
    measured = choose(small, images, MANY, memory=memory)
    known = memory.read()
    assert known is not None and known.count == MANY
    assert known.seconds_per_image == measured.seconds_per_image
    memory.write(replace(known, seconds_per_image={"eager": 1.0, "folded": 0.5}))
    runs.clear()
    again = choose(small, images, MANY, memory=memory)
    assert again.kernel.name == "folded" and again.seconds_per_image["folded"] == 0.5
    assert len(runs) == 1, "checked once, never timed"
    assert torch.allclose(again.kernel(images), small(images), atol=1e-5)


def test_many_more_images_are_measured_again(
    small: nn.Module, images: Tensor, memory: Memory
) -> None:
    memory.write(replace(MEASURED, count=MANY // 5))
    assert choose(small, images, MANY, memory=memory).seconds_per_image["folded"] != 0.1
    assert memory.read().count == MANY  # type: ignore[union-attr]


def test_a_remembered_kernel_that_is_wrong_now_is_not_used(
    small: nn.Module, images: Tensor, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.write(replace(MEASURED, count=MANY))
    run = FoldedKernel._run
    monkeypatch.setattr(FoldedKernel, "_run", lambda k, x: run(k, x) * 1.001)
    choice = choose(small, images, MANY, memory=memory)
    assert choice.kernel.name == "eager" and "differs" in choice.rejected["folded"]


def test_short_work_and_a_wanted_kernel_leave_no_trace(
    small: nn.Module, images: Tensor, memory: Memory
) -> None:
    choose(small, images[:1], 2, memory=memory)
    choose(small, images, MANY, wanted="folded", memory=memory)
    assert memory.read() is None and batch_size("cpu") > 1


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0}, {"seconds_per_image": {}}, {"seconds_per_image": {"eager": -1.0}},
        {"setup_seconds": {"eager": 1.0}}, {"seconds_per_image": [1.0]}, {"count": "many"},
    ],
)  # fmt: skip
def test_measurements_that_make_no_sense_are_none(
    memory: Memory, change: dict[str, object]
) -> None:
    memory.write(replace(MEASURED, **change))  # type: ignore[arg-type]
    assert memory.read() is None
