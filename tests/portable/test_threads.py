import threading

import pytest

from siamkit.portable.threads import in_threads


def test_results_come_in_order() -> None:
    assert list(in_threads(lambda n: n * n, range(1000), 4)) == [n * n for n in range(1000)]
    assert list(in_threads(str, [], 2)) == []


def test_only_a_few_items_are_taken_ahead() -> None:
    taken = []

    def items():
        for number in range(100_000):
            taken.append(number)
            yield number

    results = in_threads(lambda n: n, items(), 2)
    assert next(results) == 0
    assert len(taken) < 100
    before = threading.active_count()
    results.close()
    assert threading.active_count() < before


def test_the_first_error_is_raised_and_ends_the_work() -> None:
    done = []

    def fail(number: int) -> int:
        done.append(number)
        return 1 // (3 - number)

    with pytest.raises(ZeroDivisionError):
        list(in_threads(fail, range(100_000), 2))
    assert len(done) < 1000
