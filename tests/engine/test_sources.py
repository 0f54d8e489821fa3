from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from siamkit.batches import Batch
from siamkit.engine import reading, sources
from siamkit.engine.cache.store import open_store
from siamkit.engine.kernels import build_kernel, run
from siamkit.engine.sources import CachedSource, LiveSource, pack, unpack


@pytest.fixture
def kernel():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    return build_kernel("eager", net, torch.zeros(8, 3, 6, 6))


@pytest.mark.parametrize("count", [1, 8, 11, 16])
def test_any_number_of_images_runs(kernel, count):
    images = torch.randn(count, 3, 6, 6)
    found = run(kernel, images)
    assert found.shape == (count, 4, 4, 4)
    alone = torch.cat([run(kernel, image[None]) for image in images])
    torch.testing.assert_close(found, alone)


class FakeLoader:
    closed = False

    def batches(self, batches, view=0):
        for indices in batches:
            index = torch.tensor(indices)
            images = index.float()[:, None, None, None].expand(-1, 3, 6, 6) + view
            yield Batch(images, index % 2, index)

    def close(self):
        self.closed = True


def test_a_live_source_runs_the_kernel_on_what_it_loads(kernel):
    loader = FakeLoader()
    source = LiveSource(loader, kernel)
    (batch,) = source.batches([[3, 1]], view=2)
    expected = run(kernel, torch.tensor([5.0, 3.0])[:, None, None, None].expand(-1, 3, 6, 6))
    torch.testing.assert_close(batch.inputs, expected)
    assert batch.labels.tolist() == [1, 1] and batch.indices.tolist() == [3, 1]
    source.close()
    assert loader.closed


def test_a_cached_source_gives_the_view_that_is_shown(tmp_path):
    keys = {view: [bytes([index, view]) + bytes(14) for index in range(4)] for view in (0, 3)}
    source = CachedSource([0, 0, 1, 1])
    assert not source.shows(0)
    with pytest.raises(LookupError, match="view 0"):
        next(source.batches([[0]]))
    with open_store(tmp_path, {}, (2,), torch.float32) as store:
        with store.filling() as fill:
            fill.add(keys[0], torch.arange(8.0).view(4, 2))
            fill.add(keys[3], 100 + torch.arange(8.0).view(4, 2))
        source.show(3, store.rows(keys[3]))
        later = store.rows(keys[0])
    first, second = source.batches([[2, 0], [3]], view=3)
    assert first.inputs.tolist() == [[104, 105], [100, 101]]
    assert first.labels.tolist() == [1, 0] and second.indices.tolist() == [3]
    assert source.shows(3)
    with pytest.raises(LookupError, match="view 0"):
        next(source.batches([[0]]))
    source.show(0, later)
    with pytest.raises(LookupError, match="view 3"):
        next(source.batches([[0]], view=3))
    assert next(source.batches([[2]])).inputs.tolist() == [[4, 5]]
    source.close()
    assert next(source.batches([[0]])).inputs.tolist() == [[0, 1]], "closing ends nothing"


@pytest.mark.parametrize("shape", [(5, 7), (5, 6, 7), (5, 4, 3, 2)])
def test_packing_is_undone_and_leaves_maps_in_channels_last(shape):
    activations: Tensor = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float()
    assert torch.equal(unpack(pack(activations)), activations)
    if len(shape) == 4:
        assert pack(activations).shape == (5, 3, 2, 4)
        assert unpack(pack(activations).contiguous()).is_contiguous(
            memory_format=torch.channels_last
        )
    assert unpack(pack(activations).half()).dtype == torch.float32


SHAPES = [(5,), (4, 3, 3)]


@pytest.fixture(params=SHAPES, ids=str)
def rows(request, tmp_path):
    """Twelve rows in float16, in two files."""
    keys = [bytes([index]) + bytes(15) for index in range(12)]
    values = torch.randn(12, *request.param, generator=torch.Generator().manual_seed(0)).half()
    packed = pack(values).contiguous()
    with open_store(tmp_path, {}, tuple(packed.shape[1:]), torch.float16) as store:
        for half in (slice(0, 5), slice(5, 12)):
            with store.filling() as fill:
                fill.add(keys[half], packed[half])
        return store.rows(keys)


ORDER = [[3, 1, 3], [11, 0], [7], [2, 4, 6, 8]]


def inputs_of(source: CachedSource) -> list[Tensor]:
    return [batch.inputs for batch in source.batches(ORDER)]


def shown(rows, **settings) -> CachedSource:
    source = CachedSource(range(12), **settings)
    source.show(0, rows)
    return source


def test_rows_that_fit_stay_on_the_device_and_give_the_same_bits(rows, monkeypatch):
    plain = inputs_of(shown(rows))
    monkeypatch.setattr(reading, "_PART", 3 * rows.nbytes // 12)  # uploads three rows at once
    monkeypatch.setattr(sources, "free_memory_of", lambda device: 8 * rows.nbytes)
    source = shown(rows, keep=True)
    monkeypatch.setattr(rows, "gather", None)  # the disk is not read again
    kept = inputs_of(source)
    for a, b in zip(plain, kept, strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride()


@pytest.mark.parametrize(("keep", "free"), [(True, 8), (False, 1000), (True, None)])
def test_rows_that_do_not_fit_or_may_not_stay_are_read_from_the_disk(rows, monkeypatch, keep, free):
    bytes_free = free and free * rows.nbytes - 1
    monkeypatch.setattr(sources, "free_memory_of", lambda device: bytes_free)
    source = shown(rows, keep=keep)
    monkeypatch.setattr(rows, "gather", None)
    with pytest.raises(TypeError):
        inputs_of(source)


def test_batches_for_a_gpu_are_read_ahead_into_pinned_memory(rows, monkeypatch):
    plain, pinned, threads = inputs_of(shown(rows)), [], set()

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.data_ptr())
        threads.add(threading.current_thread().name)
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    ahead = inputs_of(shown(rows, device="cuda"))
    for a, b in zip(plain, ahead, strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride()
    assert [tensor.data_ptr() for tensor in ahead] == pinned, "nothing is copied after the pinning"
    assert all(name.startswith("read-ahead") for name in threads)
