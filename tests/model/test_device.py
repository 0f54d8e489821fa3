from __future__ import annotations

import pytest
import torch
from threadpoolctl import threadpool_info

from siamkit.errors import ConfigError
from siamkit.model.device import one_thread, resolve_device, using_threads


@pytest.mark.parametrize("available", [True, False])
def test_an_unknown_device_is_answered_with_those_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, available: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: available)
    allowed = "auto, cpu, cuda, mps" if available else "auto, cpu"
    with pytest.raises(ConfigError, match=f"got 'warp', allowed: {allowed}$"):
        resolve_device("warp")


def threads() -> set[int]:
    """Return the threads of torch and of NumPy's products, each once."""
    blas = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    assert blas, "NumPy has a library of its own"
    return {torch.get_num_threads(), *blas}


def test_torch_and_numpy_use_the_threads_and_give_them_back() -> None:
    with using_threads(1):
        with using_threads(2) as count:
            assert count == 2 and threads() == {2}
            with one_thread():
                assert threads() == {1}
            with using_threads(None) as kept:
                assert kept == 2 and threads() == {2}
            assert threads() == {2}
        assert threads() == {1}
