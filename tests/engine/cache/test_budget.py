"""Whole stores go, the least recently used first, and nothing that is not ours."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.engine.cache import budget
from siamkit.engine.cache.budget import StoreInfo, choose, clear, list_stores, make_room, prune
from siamkit.engine.cache.layout import default_root
from siamkit.errors import ResourceError


def names(stores):
    return [store.description["prefix"] for store in stores]


@pytest.fixture
def three(cache):
    """Stores ``old``, ``mid`` and ``new``, of one size, last used a day apart."""
    for age, prefix in enumerate(("new", "mid", "old")):
        path = cache.fill(range(8), prefix=prefix)
        time = (path / "store.json").stat().st_mtime - 86_400 * age
        os.utime(path / "store.json", (time, time))
    return cache


def size_of(cache) -> int:
    return list_stores(cache.root)[0].bytes


def test_stores_are_listed_with_the_most_recently_used_first(three):
    stores = list_stores(three.root)
    assert names(stores) == ["new", "mid", "old"]
    assert [store.rows for store in stores] == [8, 8, 8]
    assert [store.in_use for store in stores] == [False] * 3
    files = [f for f in stores[0].path.iterdir() if f.is_file()]
    assert stores[0].bytes == sum(f.stat().st_size for f in files)
    assert list_stores(three.root / "none") == []


def test_room_is_made_by_age(three):
    size = size_of(three)
    assert make_room(three.root, 3 * size) == []
    assert names(make_room(three.root, 3 * size, needed_bytes=1)) == ["old"]
    assert names(list_stores(three.root)) == ["new", "mid"]
    assert names(make_room(three.root, size)) == ["mid"]


def test_a_use_makes_a_store_young(three):
    three.check(range(8), prefix="old")
    assert names(make_room(three.root, 2 * size_of(three))) == ["mid"]


def test_a_store_in_use_stays_whatever_its_age(three):
    with three.open("old") as store:
        os.utime(store.path / "store.json", (0, 0))
        assert names(list_stores(three.root))[-1] == "old"
        assert names(make_room(three.root, 0)) == ["mid", "new"]
        assert prune(three.root, older_than_days=1) == clear(three.root) == []
        assert len(store) == 8
    assert names(clear(three.root)) == ["old"]


def test_a_small_disk_is_a_budget_too(three, monkeypatch):
    size = size_of(three)
    monkeypatch.setattr(budget, "free_bytes", lambda root: size)
    assert names(make_room(three.root, 100 * size, needed_bytes=2 * size)) == ["old"]


def test_prune_goes_by_age_and_then_by_size(three):
    assert names(prune(three.root, older_than_days=1.5)) == ["old"]
    assert names(prune(three.root, budget_bytes=size_of(three), older_than_days=30)) == ["mid"]


def test_a_day_has_86_400_seconds(cache, monkeypatch):
    now = 1.7e9
    monkeypatch.setattr(budget.time, "time", lambda: now)
    for prefix, age in (("young", 2 * 86_400 - 0.5), ("old", 2 * 86_400 + 0.5)):
        os.utime(cache.fill([1], prefix=prefix) / "store.json", (now - age, now - age))
    assert prune(cache.root) == []
    assert names(prune(cache.root, older_than_days=2)) == ["old"]
    assert names(prune(cache.root, older_than_days=0)) == ["young"]


INFO = st.builds(
    StoreInfo, path=st.just(Path("x")), bytes=st.integers(0, 100), rows=st.just(0),
    last_used=st.floats(0, 100), in_use=st.booleans(), description=st.just({}), dtype=st.just(""),
)  # fmt: skip


@pytest.mark.slow
@given(st.lists(INFO, max_size=8), st.integers(-10, 400))
def test_no_store_goes_in_vain_and_none_that_is_used(stores, limit):
    gone = choose(stores, limit)
    left = sum(s.bytes for s in stores) - sum(s.bytes for s in gone)
    assert not any(store.in_use for store in gone)
    assert left <= limit or len(gone) == sum(not store.in_use for store in stores)
    assert not gone or left + gone[-1].bytes > limit
    stay = [s for s in stores if not s.in_use and not any(s is g for g in gone)]
    assert all(g.last_used <= s.last_used for g in gone for s in stay)


def test_only_what_is_ours_is_deleted(cache):
    root = cache.root
    path = cache.fill([1])
    mixed = cache.fill([1], prefix="mixed")
    (mixed / "notes.txt").write_text("mine")
    (root / "photo.png").write_text("mine")
    (root / ("0" * 32)).mkdir()
    (root / ("0" * 32) / "data.bin").write_text("mine")
    (root / ("1" * 32)).symlink_to(path)
    (root / "backup").mkdir()
    (root / "backup" / f"shard-{'0' * 32}.safetensors").write_text("mine")
    assert len(clear(root)) == 2
    left = sorted(str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir())
    assert left == sorted([
        ".lock", "photo.png", f"{'0' * 32}/data.bin", "1" * 32, f"{mixed.name}/notes.txt",
        f"backup/shard-{'0' * 32}.safetensors",
    ])  # fmt: skip
    assert not path.exists()


def test_a_store_without_a_readable_spec_is_listed_and_can_be_cleared(cache):
    path = cache.fill([1])
    (path / "store.json").write_text("{")
    (info,) = list_stores(cache.root)
    assert (info.rows, info.description) == (1, {})
    clear(cache.root)
    assert not path.exists()


def test_a_fill_that_does_not_fit_is_told_before(tmp_path):
    budget.require_room(tmp_path / "not" / "yet", 1)
    with pytest.raises(ResourceError, match=r"needs 1000000 TB more, and .*cache prune"):
        budget.require_room(tmp_path, 10**18)


def test_a_folder_that_cannot_be_written_is_told(tmp_path, cache):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ResourceError, match="SIAMKIT_CACHE_DIR"):
        cache.open()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SIAMKIT_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/siamkit/features"),
        ({"HOME": "/c"}, "/c/.cache/siamkit/features"),
    ],
)
def test_the_folder_comes_from_the_environment(monkeypatch, variables, expected):
    for name in ("SIAMKIT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_root() == Path(expected)


def test_what_may_be_evicted_counts_as_available(three, monkeypatch):
    root = three.root
    free = budget.free_bytes(root)
    evictable = sum(store.bytes for store in list_stores(root))
    monkeypatch.setattr(budget, "free_bytes", lambda _: free)
    assert budget.available_bytes(root) == free + evictable > free
    with three.open("old"):
        used = next(store.bytes for store in list_stores(root) if store.in_use)
        assert budget.available_bytes(root) == free + evictable - used


def test_nothing_is_available_where_nothing_can_be_written(tmp_path, monkeypatch):
    assert budget.available_bytes(tmp_path / "new" / "folder") > 0
    monkeypatch.setattr(budget.os, "access", lambda *_: False)
    assert budget.available_bytes(tmp_path / "new" / "folder") == 0
