"""What was added is what is gathered."""

import errno
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from siamkit.engine.cache import rows as reading
from siamkit.engine.cache import shards
from siamkit.engine.cache.index import RowIndex
from siamkit.engine.cache.layout import ShardHeader
from siamkit.engine.cache.locks import in_use
from siamkit.engine.cache.shards import Shard, ShardWriter, pack
from siamkit.engine.cache.store import FeatureStore, OverflowInCache, open_store
from siamkit.errors import ResourceError

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("loaded", [0, 1 << 30], ids=["read", "loaded"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)], ids=str)
def test_gather_returns_what_was_added(tmp_path, monkeypatch, dtype, shape, loaded):
    monkeypatch.setattr(reading, "LOADED_BYTES", loaded)
    count = 50
    keys = [bytes([i, 0, 255, *range(12), 0]) for i in range(count)]
    values = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    with open_store(tmp_path, {}, shape, dtype) as store:
        with store.filling() as fill:
            for start in range(0, count, 7):
                fill.add(keys[start : start + 7], values[start : start + 7])
                if start % 2:
                    fill.publish()
        assert len(list(store.path.glob("shard-*"))) > 2
        order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
        rows = store.rows([keys[i] for i in order])

        @settings(max_examples=40)
        @given(st.lists(st.integers(0, count - 1), max_size=80))
        def any_positions(positions):
            found = rows.gather(torch.tensor(positions, dtype=torch.int64))
            assert found.dtype == dtype
            assert torch.equal(found, values.to(dtype)[order[positions]])

        any_positions()
        with pytest.raises(IndexError):
            rows.gather(torch.tensor([count]))


def test_a_system_without_positional_reads_reads_the_same(cache, monkeypatch):
    cache.fill(range(10))
    monkeypatch.setattr(reading, "_open", reading._Map)
    cache.check(range(10))
    monkeypatch.setattr(reading, "LOADED_BYTES", 0)
    cache.check(range(10))


def test_rows_survive_their_store_and_its_files(cache, monkeypatch):
    monkeypatch.setattr(reading, "LOADED_BYTES", 0)
    cache.fill(range(10))
    with cache.open() as store:
        rows = store.rows(cache.keys(range(10)))
    for shard in cache.shards():
        shard.unlink()
    assert torch.equal(rows.gather(torch.tensor([7, 2])), cache.rows([7, 2]))


def test_a_shard_that_shrinks_while_it_is_read_is_an_error_not_garbage(cache, monkeypatch):
    monkeypatch.setattr(reading, "LOADED_BYTES", 0)
    cache.fill(range(4))
    with cache.open() as store:
        rows = store.rows(cache.keys(range(4)))
        with cache.shards()[0].open("r+b") as file:
            file.truncate(4100)
        with pytest.raises(ResourceError, match="shrank"):
            rows.gather(torch.tensor([3]))


def test_missing_tells_each_absent_key_once_and_in_order(cache):
    cache.fill([1, 2, 3])
    with cache.open() as store:
        assert store.missing(cache.keys([9, 1, 8, 9, 2, 8, 7])) == [0, 2, 6]
        assert store.missing([]) == []
        with pytest.raises(LookupError, match="2 of 3"):
            store.rows(cache.keys([9, 1, 8]))
        with pytest.raises(ValueError, match="16 bytes"):
            store.missing([b"short"])


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=30), st.data())
def test_the_index_finds_exactly_the_keys_of_its_shards(keys, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(keys)), max_size=3)))
    parts = [keys[a:b] for a, b in zip([0, *cuts], [*cuts, len(keys)], strict=True)]
    header = [ShardHeader("", "F32", (), len(part), "") for part in parts]
    index = RowIndex([Shard(None, h, pack(p)) for h, p in zip(header, parts, strict=True)])
    absent = data.draw(st.lists(st.binary(min_size=16, max_size=16)))
    shard, row = index.find(pack([*keys, *absent]))
    for i, key in enumerate([*keys, *absent]):
        if key in keys:
            first = next(n for n, part in enumerate(parts) if key in part)
            assert (shard[i], row[i]) == (first, parts[first].index(key))
        else:
            assert shard[i] == -1


def test_a_key_is_stored_once_whoever_adds_it_again(cache):
    with cache.open() as store, store.filling() as fill:
        fill.add(cache.keys([1, 2, 1]), cache.rows([1, 2, 1]))
        assert fill.missing(cache.keys([1, 2, 3])) == [2]
        fill.add(cache.keys([2, 3]), cache.rows([50, 3]))  # pending
        fill.publish()
        fill.add(cache.keys([3, 4]), cache.rows([60, 4]))  # published
    cache.check([1, 2, 3, 4])
    with cache.open() as store:
        assert len(store) == 4


@pytest.mark.parametrize("description", [{"prefix": "b"}, {"prefix": "a", "more": 1}, {}])
def test_another_description_is_another_store(cache, description):
    cache.fill(range(3))
    with open_store(cache.root, description, (3, 4), torch.float32) as store:
        assert store.missing(cache.keys(range(3))) == [0, 1, 2]


def test_another_shape_or_dtype_is_another_store_and_the_order_of_keys_is_not(tmp_path):
    def path(description, shape=(4,), dtype=torch.float32):
        with open_store(tmp_path, description, shape, dtype) as store:
            return store.path

    first = path({"x": 1, "y": [2, {"b": 3, "a": 4}]})
    assert path({"y": [2, {"a": 4, "b": 3}], "x": 1}) == first
    assert path({"x": 1, "y": [2, {"a": 4, "b": 3}]}, (2, 2)) != first
    assert path({"x": 1, "y": [2, {"a": 4, "b": 3}]}, dtype=torch.float16) != first


def test_safetensors_reads_a_shard(cache):
    cache.fill(range(5), shard=5)
    with safe_open(cache.shards()[0], "pt") as file:
        assert torch.equal(file.get_tensor("rows"), cache.rows(range(5)))
        found = [bytes(key.tolist()) for key in file.get_tensor("keys")]
    assert found == cache.keys(range(5))


def test_a_value_too_large_for_the_dtype_is_refused_and_one_infinite_before_is_kept(cache):
    with cache.open(dtype=torch.float16) as store:
        with store.filling() as fill:
            fill.add(cache.keys([1]), cache.rows([1]))
            large = cache.rows([2, 3])
            large[1, 2, 3] = 7e4
            with pytest.raises(OverflowInCache, match=r"float16, got 7.* at most 65504; cache in"):
                fill.add(cache.keys([2, 3]), large)
            infinite = cache.rows([4])
            infinite[0, 0, 0] = float("inf")
            fill.add(cache.keys([4]), infinite)
        assert store.missing(cache.keys([1, 2, 3, 4])) == [1, 2]
        found = store.rows(cache.keys([1, 4])).gather(torch.arange(2))
    assert torch.equal(found, torch.cat([cache.rows([1]), infinite]).half())


def test_rows_of_another_shape_are_refused(cache):
    with cache.open() as store, store.filling() as fill, pytest.raises(ValueError, match="shape"):
        fill.add(cache.keys([1]), torch.zeros(1, 4, 3))


def test_shards_are_published_by_size_and_by_time(cache):
    with cache.open() as store:
        row = store.row_bytes
        assert row == 48
        with store.filling(shard_bytes=4 * row) as fill:
            for i in range(10):
                fill.add(cache.keys([i]), cache.rows([i]))
            assert len(list(store.path.glob("shard-*"))) == 2
        with store.filling(shard_seconds=0) as fill:
            for i in range(10, 13):
                fill.add(cache.keys([i]), cache.rows([i]))
                assert store.missing(cache.keys([i])) == []
    assert len(cache.shards()) == 6
    cache.check(range(13))


def test_an_exception_in_a_fill_keeps_what_was_added(cache):
    with pytest.raises(KeyboardInterrupt), cache.open() as store, store.filling() as fill:
        fill.add(cache.keys([1, 2]), cache.rows([1, 2]))
        raise KeyboardInterrupt
    cache.check([1, 2])


def test_the_store_says_what_it_holds(cache):
    path = cache.fill([1])
    values = json.loads((path / "store.json").read_text())
    assert values == {
        "schema": "siamkit.store/1", "dtype": "F32", "shape": [3, 4],
        "description": {"prefix": "a"},
    }  # fmt: skip


def test_a_disk_that_is_full_at_the_last_moment_leaves_nothing_half(cache, monkeypatch):
    cache.fill([1])

    def full(path):
        raise OSError(errno.ENOSPC, "full")

    with cache.open() as store:
        with (
            monkeypatch.context() as patch,
            pytest.raises(ResourceError, match="cached features are intact"),
        ):
            patch.setattr(shards, "fsync", full)
            with store.filling() as fill:
                fill.add(cache.keys([2]), cache.rows([2]))
        assert list(store.path.glob(".tmp-*")) == []
        assert store.missing(cache.keys([1, 2])) == [1]
        assert store.notices == []
    cache.check([1])


def test_shards_without_wanted_rows_make_room_the_oldest_first(cache):
    cache.fill([1, 2], shard=1)
    cache.fill([3, 4], shard=1)
    one, two, three, _ = sorted(cache.shards(), key=lambda path: path.stat().st_mtime_ns)
    size = one.stat().st_size
    with cache.open() as store, store.filling() as fill:
        fill.shed(cache.keys([2]), size + 1)
        assert store.missing(cache.keys([1, 2, 3, 4])) == [0, 2]
        fill.shed(cache.keys([2]), 0)
        assert store.missing(cache.keys([1, 2, 3, 4])) == [0, 2]
    assert not one.exists() and two.exists() and not three.exists()
    cache.check([2, 4])


def test_what_another_reads_can_be_read_on_after_it_made_room(cache, monkeypatch):
    from siamkit.engine.cache import rows as reading

    monkeypatch.setattr(reading, "LOADED_BYTES", 0)
    cache.fill([1, 2])
    with cache.open() as reader:
        rows = reader.rows(cache.keys([1, 2]))
        with cache.open() as store, store.filling() as fill:
            fill.shed([], 10**9)
        assert torch.equal(rows.gather(torch.arange(2)), cache.rows([1, 2]))
        with pytest.raises(LookupError, match="gone"):
            reader.rows(cache.keys([1, 2]))
        assert reader.missing(cache.keys([1, 2])) == [0, 1]


def test_room_is_made_although_another_process_removed_a_shard(cache):
    cache.fill([1, 2], shard=1)
    one, two = sorted(cache.shards(), key=lambda path: path.stat().st_mtime_ns)
    size = two.stat().st_size
    with cache.open() as store, store.filling() as fill:
        one.unlink()
        assert fill.shed([], 1) == size, "what is gone already makes no room"
    assert not two.exists()


def test_a_shard_without_rows_is_not_published(cache, tmp_path):
    with cache.open() as store:
        writer = ShardWriter(tmp_path, store.path.name, store.spec)
    assert list(tmp_path.glob(".tmp-*")) and writer.publish(tmp_path) is None
    assert not list(tmp_path.glob(".tmp-*")) and not list(tmp_path.glob("shard-*"))


def test_a_store_that_could_not_be_opened_is_not_in_use(cache, monkeypatch):
    path = cache.fill([1])

    def fail(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureStore, "__init__", fail)
    with pytest.raises(KeyboardInterrupt):
        cache.open()
    assert not in_use(path)


def test_a_shard_with_a_row_that_was_interrupted_is_not_published(cache, tmp_path):
    class Interrupted:
        def update(self, rows):
            raise KeyboardInterrupt

    with cache.open() as store:
        writer = ShardWriter(tmp_path, store.path.name, store.spec)
    one, other = (cache.rows([number]).numpy().tobytes() for number in (1, 2))
    writer.add(cache.keys([1]), memoryview(one))
    writer._sha = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        writer.add(cache.keys([2]), memoryview(other))
    assert writer.publish(tmp_path) is None and not list(tmp_path.glob("*shard-*"))


def test_more_files_than_the_process_may_open_are_an_error_that_says_what_to_do(cache, monkeypatch):
    cache.fill([1])

    def refused(path):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(reading, "_open", refused)
    with cache.open() as store, pytest.raises(ResourceError, match=r"lie in 1 file, .*ulimit -n"):
        store.rows(cache.keys([1]))
