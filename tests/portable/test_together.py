import os
import sys
import threading
import warnings
from contextlib import contextmanager

import pytest

from siamkit.portable.decode import quiet
from siamkit.portable.together import Together
from siamkit.portable.untracked import untracked


@pytest.fixture(autouse=True)
def frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_turns(block, threads: int = 4, times: int = 2000) -> list[BaseException]:
    """Enter and leave a block in many threads, and return the errors."""
    errors: list[BaseException] = []

    def go() -> None:
        try:
            for _ in range(times):
                with block():
                    pass
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=go) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return errors


def test_the_change_holds_while_any_thread_is_inside() -> None:
    made: list[str] = []

    @contextmanager
    def change():
        made.append("in")
        yield
        made.append("out")

    block = Together(change)
    first, second = block(), block()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert made == ["in"]
    second.__exit__(None, None, None)
    assert made == ["in", "out"]
    with pytest.raises(ValueError, match="mine"), block():
        raise ValueError("mine")
    assert made == ["in", "out"] * 2
    assert not in_turns(block)
    assert made == ["in", "out"] * (len(made) // 2)


@pytest.mark.parametrize("before", [{}, {"CI": "false", "NNCF_CI": "0"}])
def test_telemetry_switches_are_put_back_after_many_threads(before, monkeypatch) -> None:
    for name in ("CI", "NNCF_CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    with untracked():
        assert os.environ["CI"] == "true" and os.environ["NNCF_CI"] == "1"
    assert not in_turns(untracked)
    assert {name: os.environ[name] for name in ("CI", "NNCF_CI") if name in os.environ} == before


def test_warnings_come_back_after_many_threads() -> None:
    before = list(warnings.filters)
    assert not in_turns(quiet)
    assert warnings.filters == before
    with quiet():
        warnings.warn("not raised", stacklevel=1)
    with pytest.raises(UserWarning, match="raised"):
        warnings.warn("raised", stacklevel=1)
