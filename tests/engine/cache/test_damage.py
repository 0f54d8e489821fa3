"""Whatever happens to the files, a wrong row is never read, and the rest is kept."""

import errno
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from siamkit.engine.cache import budget, layout, shards
from siamkit.engine.cache.budget import list_stores
from siamkit.engine.cache.layout import DATA_START
from siamkit.errors import ResourceError


def missing(cache, numbers, prefix="a"):
    with cache.open(prefix) as store:
        absent = store.missing(cache.keys(numbers))
        return absent, store.notices


@pytest.mark.parametrize(
    "offset",
    [0, 7, 20, 60, 150, DATA_START, DATA_START + 100, -1, -40],
    ids=lambda offset: f"byte {offset}",
)
def test_a_flipped_bit_is_found_dropped_told_and_refilled(cache, offset):
    cache.fill(range(12), shard=4)
    shard = cache.shards()[1]
    data = bytearray(shard.read_bytes())
    data[offset] ^= 4
    shard.write_bytes(data)
    absent, notices = missing(cache, range(12))
    assert len(absent) == 4
    assert not shard.exists()
    assert [n for n in notices if str(shard) in n] == notices != []
    cache.fill(range(12))
    cache.check(range(12))
    assert missing(cache, range(12)) == ([], [])


@pytest.mark.parametrize("size", [0, 5, DATA_START, DATA_START + 50, -1])
def test_a_truncated_shard_is_dropped(cache, size):
    cache.fill(range(8), shard=4)
    shard = cache.shards()[0]
    shard.write_bytes(shard.read_bytes()[:size])
    absent, notices = missing(cache, range(8))
    assert len(absent) == 4 and len(notices) == 1
    cache.fill(range(8))
    cache.check(range(8))


def test_a_shard_with_more_bytes_than_its_rows_is_dropped(cache):
    cache.fill(range(8), shard=4)
    with cache.shards()[0].open("ab") as file:
        file.write(b"x")
    absent, (notice,) = missing(cache, range(8))
    assert len(absent) == 4 and "bytes instead of" in notice


def test_a_shard_is_verified_before_its_rows_are_read_but_only_where_it_is_needed(cache):
    cache.fill(range(4))
    cache.fill(range(4, 8))
    with cache.open() as store:
        shards = {bytes(s.keys[0]): s.path for s in store._index.shards}
        spoilt = shards[cache.key(4)]
        data = bytearray(spoilt.read_bytes())
        data[DATA_START] ^= 1
        spoilt.write_bytes(data)
        store.rows(cache.keys(range(4)))
        assert spoilt.exists() and store.notices == []
        with pytest.raises(LookupError):
            store.rows(cache.keys(range(8)))
        assert not spoilt.exists() and "checksum" in store.notices[0]


class Gadget:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_foreign_files_are_left_out(cache):
    path = cache.fill(range(4))
    other = cache.fill(range(100, 104), prefix="b")
    moved = path / next(other.glob("shard-*")).name
    shutil.copy(next(other.glob("shard-*")), moved)
    gadget = path / f"shard-{'0' * 32}.safetensors"
    gadget.write_bytes(pickle.dumps(Gadget()).ljust(DATA_START + 64))
    (path / "features.pt").write_bytes(pickle.dumps(Gadget()))
    (path / f"shard-{'1' * 32}.safetensors").mkdir()
    absent, notices = missing(cache, [0, 1, 2, 3, 100])
    assert absent == [4]
    assert len(notices) == 4
    assert not moved.exists() and not gadget.exists()
    assert (path / "features.pt").exists()  # not a name of ours: not ours to delete
    cache.check(range(4))


SPEC = '"schema": "siamkit.store/1", "dtype": "F32", "shape"'


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"schema": 1}', "\x00", '{"schema": "x/1"}'),
        f"{{{SPEC}: [3, 4]}}",
        f'{{{SPEC}: [3, 4], "description": 5}}',
        f'{{{SPEC}: 12, "description": {{"prefix": "a"}}}}',
        f'{{{SPEC}: [4, 3], "description": {{"prefix": "a"}}}}',
    ],
)
def test_a_damaged_spec_is_written_again_and_costs_no_row(cache, text):
    path = cache.fill(range(4))
    good = (path / "store.json").read_text()
    (path / "store.json").write_text(text)
    absent, notices = missing(cache, range(4))
    assert absent == [] and len(notices) == 1
    assert (path / "store.json").read_text() == good
    cache.check(range(4))


def test_a_spec_that_went_is_written_again(cache):
    path = cache.fill(range(4))
    (path / "store.json").unlink()
    cache.check(range(4))
    assert (path / "store.json").exists()


def test_a_shard_that_another_process_dropped_is_no_error(cache):
    cache.fill(range(4))
    with cache.open() as store:
        for shard in cache.shards():
            shard.unlink()
        assert store.missing(cache.keys(range(4))) == [0, 1, 2, 3]
        with store.filling() as fill:
            fill.add(cache.keys(range(4)), cache.rows(range(4)))
        assert torch.equal(store.rows(cache.keys([2])).gather(torch.tensor([0])), cache.rows([2]))


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)],
                         ids=["folder", "fifo", "loop"])  # fmt: skip
@pytest.mark.timeout(60)
def test_whatever_lies_in_a_shards_place_is_told_and_its_rows_are_made_again(cache, put):
    cache.fill(range(8), shard=4)
    shard = cache.shards()[0]
    shard.unlink()
    put(shard)
    absent, notices = missing(cache, range(8))
    assert len(absent) == 4 and [str(shard) in text for text in notices] == [True]
    list_stores(cache.root)
    cache.fill(range(8))
    cache.check(range(8))


@pytest.mark.parametrize("put", [os.mkfifo, Path.mkdir], ids=["fifo", "folder"])
@pytest.mark.timeout(60)
def test_something_in_the_place_of_the_spec_is_an_error_with_its_path(cache, put):
    cache.fill(range(4))
    (spec,) = cache.root.glob("*/store.json")
    spec.unlink()
    put(spec)
    assert [info.path for info in list_stores(cache.root)] == [spec.parent]
    with pytest.raises(ResourceError, match=r"store\.json: cannot write: .*; move away"):
        missing(cache, range(4))


def test_a_spec_nested_too_deeply_is_damage_like_any_other(cache):
    cache.fill(range(4))
    (spec,) = cache.root.glob("*/store.json")
    spec.write_text("[" * 100_000)
    absent, notices = missing(cache, range(4))
    assert absent == [] and "written again" in notices[0]


def test_a_shard_that_may_not_be_read_is_nobodys_to_remove(cache, monkeypatch):
    cache.fill(range(4))
    shard = cache.shards()[0]

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(layout, "open_regular", refuse)
    absent, notices = missing(cache, range(4))
    assert len(absent) == 4 and "cannot be read: Permission denied" in notices[0]
    assert shard.exists()


def test_what_a_killed_writer_of_the_spec_left_goes_with_the_store(cache):
    cache.fill(range(4))
    (spec,) = cache.root.glob("*/store.json")
    place = spec.parent / ".siamkit-0123456789abcdef"
    (place / "new").mkdir(parents=True)
    budget.clear(cache.root)
    assert not spec.parent.exists()


def test_what_the_system_cannot_read_now_is_ignored_and_not_removed(cache, monkeypatch):
    cache.fill(range(4))
    (path,) = cache.shards()

    def refuse(_path):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch, cache.open() as store:
        patch.setattr(shards, "open_regular", refuse)
        assert len(store.missing(cache.keys(range(4)))) == 4
        assert store.notices == [f"{path}: ignored, because it cannot be read: Too many open files"]
    assert path.is_file()
    with cache.open() as store:
        assert store.missing(cache.keys(range(4))) == []
