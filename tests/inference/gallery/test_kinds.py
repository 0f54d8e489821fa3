"""The kind of search."""

import pytest

from siamkit.errors import ConfigError
from siamkit.inference.gallery.kinds import choose_kind


def test_auto_goes_by_the_size():
    assert choose_kind("auto", 999_999, 128) == ("exact", None)
    assert choose_kind("auto", 1_000_000, 128) == ("faiss", None)
    assert choose_kind("exact", 10**9, 128) == ("exact", None)
    assert choose_kind("faiss", 1, 1) == ("faiss", None)
    with pytest.raises(ConfigError, match="exact, faiss"):
        choose_kind("hnsw", 1, 1)


def test_without_the_package_auto_searches_exactly_and_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    kind, notice = choose_kind("auto", 10**7, 128)
    assert kind == "exact" and notice is not None and "faiss" in notice
    with pytest.raises(ConfigError, match=r"siamkit\[search\]"):
        choose_kind("faiss", 1, 1)
