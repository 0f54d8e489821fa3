"""Transfers to a GPU: from page-locked memory, without waiting, and without a changed value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from siamkit.batches import Batch
from siamkit.data.images import ImageSet
from siamkit.data.loader import Loader, ViewDataset
from siamkit.data.views import EvalView
from siamkit.engine import sources
from siamkit.engine.cache.rows import Rows
from siamkit.engine.cache.store import open_store
from siamkit.engine.kernels import build_kernel
from siamkit.engine.reading import ResidentRows
from siamkit.engine.sources import CachedSource, LiveSource
from siamkit.interfaces import Preprocessing
from siamkit.training.step import embedded

ORDER = [[3, 1, 3], [11, 0], [7], [2, 4, 6, 8]]


@contextmanager
def without_waiting(device: torch.device) -> Iterator[None]:
    """Raise an error at each operation that waits for the device."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def dataset(image_folder: Path) -> ViewDataset:
    keys: dict[str, list[str]] = {}
    for file in sorted(image_folder.rglob("*.png")):
        keys.setdefault(file.parent.name, []).append(f"{file.parent.name}/{file.name}")
    preprocessing = Preprocessing(size=(32, 32))
    return ViewDataset(ImageSet.of(image_folder, keys), EvalView(preprocessing), seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_loaded_images_are_uploaded_from_pinned_memory(
    dataset: ViewDataset, device: torch.device, workers: int
) -> None:
    pin = device.type == "cuda"
    with Loader(dataset, workers, pin_memory=pin) as loader:
        for batch in loader.batches(ORDER):
            assert batch.inputs.is_pinned() == pin
            with without_waiting(device):
                moved = batch.inputs.to(device, non_blocking=True)
            expected = torch.stack([dataset[index, 0] for index in batch.indices.tolist()])
            assert torch.equal(moved.cpu(), expected)


@pytest.fixture(params=[(5,), (4, 3, 3)], ids=str)
def rows(request: Any, tmp_path: Path) -> Rows:
    """Twelve rows in float16."""
    keys = [bytes([index]) + bytes(15) for index in range(12)]
    values = torch.randn(12, *request.param, generator=torch.Generator().manual_seed(0)).half()
    packed = sources.pack(values).contiguous()
    with open_store(tmp_path, {}, tuple(packed.shape[1:]), torch.float16) as store:
        with store.filling() as fill:
            fill.add(keys, packed)
        return store.rows(keys)


def shown(rows: Rows, device: torch.device | str, keep: bool) -> CachedSource:
    source = CachedSource(range(12), device, keep)
    source.show(0, rows)
    return source


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.cpu(), b) and a.dtype == b.dtype and a.stride() == b.stride()


def test_cached_rows_are_read_ahead_into_pinned_memory(rows: Rows, device: torch.device) -> None:
    plain = list(shown(rows, "cpu", False).batches(ORDER))
    for batch, expected in zip(shown(rows, device, False).batches(ORDER), plain, strict=True):
        assert batch.inputs.is_pinned() == (device.type == "cuda")
        with without_waiting(device):
            moved = batch.inputs.to(device, non_blocking=True)
        assert same(moved, expected.inputs)
        assert torch.equal(batch.labels, expected.labels)


def test_rows_on_the_device_are_read_without_waiting(
    rows: Rows, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = list(shown(rows, "cpu", False).batches(ORDER))
    monkeypatch.setattr(sources, "fits", lambda nbytes, free: True)
    source = shown(rows, device, True)
    assert isinstance(source._rows, ResidentRows)
    with without_waiting(device):
        kept = list(source.batches(ORDER))
    assert all(batch.inputs.device.type == device.type for batch in kept)
    assert all(same(a.inputs, b.inputs) for a, b in zip(kept, plain, strict=True))


def test_a_batch_that_is_uploaded_holds_the_same_values(device: torch.device) -> None:
    batch = Batch(torch.randn(4, 3, 8, 8), torch.arange(4), torch.arange(4))
    moved = batch.to(device, non_blocking=True)
    assert all(torch.equal(t.cpu(), vars(batch)[name]) for name, t in vars(moved).items())


def test_the_memory_of_a_batch_may_be_used_again_while_it_is_uploaded(
    dataset: ViewDataset, device: torch.device
) -> None:
    """Many uploads are on their way while the loader fills the memory of batches that are gone."""
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 4, 3).to(device).eval()
    order = [[n % 48, (n * 7 + 1) % 48] for n in range(60)]
    with Loader(dataset, pin_memory=device.type == "cuda") as loader, torch.no_grad():
        found = [
            embedded(net, batch.inputs, device, "fp32").mean((2, 3))
            for batch in loader.batches(order)
        ]
        for pair, output in zip(order, found, strict=True):
            images = torch.stack([dataset[index, 0] for index in pair]).to(device)
            torch.testing.assert_close(output, net(images).mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_the_prefix_runs_on_what_the_loader_pins(
    dataset: ViewDataset, device: torch.device
) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).to(device).eval()
    kernel = build_kernel("eager", net, torch.zeros(8, 3, 32, 32, device=device))
    with Loader(dataset, pin_memory=device.type == "cuda") as loader:
        for batch in LiveSource(loader, kernel).batches(ORDER):
            assert batch.inputs.device.type == device.type
            images = torch.stack([dataset[index, 0] for index in batch.indices.tolist()])
            with torch.no_grad():
                expected = net(images.to(device))
            torch.testing.assert_close(batch.inputs, expected, rtol=1e-4, atol=1e-5)
