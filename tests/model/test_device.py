from __future__ import annotations

import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn

from siamkit.engine.difference import relative_difference
from siamkit.errors import ConfigError
from siamkit.model.device import (
    float64_device,
    free_memory_of,
    laid_out_for,
    layout_of,
    memory_format,
    one_thread,
    place,
    resolve_device,
    using_threads,
)
from siamkit.model.fingerprint import mark_of
from siamkit.model.pretrained.identity import difference


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


@pytest.mark.parametrize(
    ("cuda", "mps", "picked"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_picks_the_fastest_device(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, picked: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto") == torch.device(picked)


def test_a_device_is_known_by_its_name_unless_it_holds_no_values() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError):
        resolve_device("meta")


class Reading(nn.Module):
    """A network whose backbone may need images in one layout."""

    def __init__(self, **about: bool) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)
        vars(self.backbone).update(about)


LAST = torch.channels_last


def test_weights_are_placed_in_the_fastest_layout_that_the_backbone_accepts() -> None:
    cpu = torch.device("cpu")
    for about, layout in (({}, LAST), ({"channels_last": True}, LAST),
                          ({"channels_last": False}, torch.contiguous_format)):  # fmt: skip
        assert memory_format(place(Reading(**about), cpu)) == layout
        assert memory_format(place(Reading(**about).backbone, cpu)) == layout
    assert memory_format(nn.Linear(3, 4)) == torch.contiguous_format


def test_images_have_the_layout_of_the_weights() -> None:
    images = torch.ones(2, 3, 8, 8)
    net = Reading()
    assert laid_out_for(net, images).is_contiguous()
    assert laid_out_for(place(net, torch.device("cpu")), images).is_contiguous(memory_format=LAST)
    assert laid_out_for(nn.Identity(), images).is_contiguous()


def test_the_layout_of_a_tensor_that_fits_both_is_the_plain_one() -> None:
    images = torch.ones(2, 3, 4, 5)
    assert layout_of(images) == torch.contiguous_format
    assert layout_of(images.contiguous(memory_format=LAST)) == LAST
    assert layout_of(torch.ones(2, 3, 1, 1).contiguous(memory_format=LAST)) != LAST
    assert layout_of(images.transpose(2, 3)) == torch.contiguous_format  # neither layout
    assert layout_of(torch.ones(2, 3)) == torch.contiguous_format
    assert layout_of(torch.ones(2, 3, 4, 5, 6)) == torch.contiguous_format


def test_what_torch_keeps_for_itself_is_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("mem_get_info", (100, 900)), ("memory_reserved", 50), ("memory_allocated", 20),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory_of(torch.device("cuda")) == 100 + 50 - 20
    assert free_memory_of(torch.device("cpu")) is None


class OnMps(torch.Tensor):
    """A tensor that refuses float64 as those on MPS do."""

    @property
    def device(self) -> torch.device:
        return torch.device("mps")

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def double(self) -> torch.Tensor:
        raise TypeError("the MPS framework doesn't support float64")

    def to(self, target: object) -> torch.Tensor:
        return self.cpu() if target == torch.device("cpu") else self.double()


def test_float64_is_computed_on_the_cpu_where_a_device_lacks_it() -> None:
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert float64_device(torch.device("mps")) == torch.device("cpu")
    one, other = (torch.tensor(values).as_subclass(OnMps) for values in ([1.0, 4.0], [1.0, 2.0]))
    with pytest.raises(TypeError, match="float64"):
        one.double()
    for a, b in ((other, one), (other.cpu(), one), (other, one.cpu())):
        assert relative_difference(a, b) == 0.5
    assert difference(other, one) == pytest.approx(2 / 17**0.5)
    assert mark_of([one]) == mark_of([one]) != mark_of([other])
