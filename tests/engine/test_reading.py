from __future__ import annotations

import threading

import pytest

from siamkit.engine.reading import fits, read_ahead


@pytest.mark.parametrize(
    ("nbytes", "free", "expected"),
    [(100, 800, True), (101, 800, False), (0, None, False), (1, 0, False)],
)
def test_rows_may_take_an_eighth_of_the_free_memory(nbytes, free, expected):
    assert fits(nbytes, free) is expected


def test_the_next_item_is_loaded_while_the_caller_works():
    loaded = [threading.Event() for _ in range(3)]

    def load(item: int) -> int:
        loaded[item].set()
        return item * 10

    results = read_ahead(range(3), load)
    assert next(results) == 0
    assert loaded[1].wait(30), "item 1 loads without being asked for"
    assert not loaded[2].is_set(), "only one is loaded ahead"
    assert list(results) == [10, 20]
    assert list(read_ahead([], load)) == []


def test_an_error_comes_in_its_turn():
    def load(item: int) -> int:
        return 10 // item

    results = read_ahead([5, 0, 1], load)
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_iteration_that_is_left_ends_its_thread():
    before = threading.active_count()
    results = read_ahead(range(1000), lambda item: item)
    assert next(results) == 0
    results.close()
    assert threading.active_count() == before
