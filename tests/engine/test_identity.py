"""The identity of a prefix: what makes cached rows those of another network."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from siamkit.engine.identity import code_of


class Base(nn.Module):
    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


class Body(Base):
    def __init__(self, act: Any = torch.relu, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 1)
        self.act, self.scales = act, [1.0, 2.0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.act(self.pooled(self.conv(images)))

    @property
    def factor(self) -> float:
        return 1.0

    @staticmethod
    def kinds() -> frozenset[str]:
        return frozenset({"a", "b", "c"})


def of(body: Any, names: tuple[str, ...] = ("0",)) -> str:
    return code_of(nn.Sequential(body, nn.Linear(4, 2)), names)


def decorated(factor: int) -> Any:
    """Return ``Body.forward`` in a decorator that changes its output."""

    @functools.wraps(Body.forward)
    def forward(self: Body, images: torch.Tensor) -> torch.Tensor:
        return factor * forward.__wrapped__(self, images)

    return forward


def edited(owner: type, **members: Any) -> Callable[[pytest.MonkeyPatch], Any]:
    def edit(monkeypatch: pytest.MonkeyPatch) -> Any:
        for name, member in members.items():
            monkeypatch.setattr(owner, name, member, raising=False)
        return Body()

    return edit


def changed(**attributes: Any) -> Callable[[pytest.MonkeyPatch], Any]:
    def change(_: pytest.MonkeyPatch) -> Any:
        body = Body()
        for name, value in attributes.items():
            setattr(body, name, value)
        return body

    return change


def inside(monkeypatch: pytest.MonkeyPatch) -> Any:
    body = Body()
    body.conv.padding_mode = "reflect"
    return body


@pytest.mark.parametrize(
    "change",
    [
        edited(Body, forward=lambda self, images: self.pooled(self.conv(images))),
        edited(Base, pooled=lambda self, images: images.amax((2, 3))),
        edited(Body, factor=property(lambda self: 2.0)),
        edited(Body, kinds=staticmethod(lambda: frozenset({"a", "b"}))),
        edited(Body, more=lambda self: 1),
        edited(Body, forward=decorated(2)),
        changed(act=torch.sin),
        changed(act=nn.functional.gelu),
        changed(act=lambda x: 2 * x),
        changed(act=partial(torch.clamp, min=0)),
        changed(scales=[1.0, 3.0]),
        changed(factor_of_width=1),
        inside,
        lambda _: Base(),
    ],
)  # fmt: skip
def test_code_and_attributes_that_change_the_output_change_the_hash(
    change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = of(Body())
    assert of(change(monkeypatch)) != before
    monkeypatch.undo()
    assert of(Body()) == before


def test_functions_with_other_constants_differ() -> None:
    def power(of: int) -> Any:
        return {2: lambda x: x**2, 3: lambda x: x**3}[of]

    assert (
        len({of(Body(act)) for act in (power(2), power(3), partial(pow, 2), partial(pow, 3))}) == 4
    )


def test_what_comes_after_does_not_count_and_what_is_around_does() -> None:
    class Around(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.body, self.scale = Body(), scale

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.scale * self.body(images)

    assert code_of(Around(1.0), ["body"]) != code_of(Around(2.0), ["body"])
    one, two = (nn.Sequential(Body(), last) for last in (nn.ReLU(), nn.Linear(4, 2)))
    assert code_of(one, ["0"]) == code_of(two, ["0"])
    assert code_of(one, ["0"]) != code_of(one, ["0", "1"])


def test_the_hash_is_the_same_in_every_process(tmp_path: Any) -> None:
    script = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('own', sys.argv[1])\n"
        "own = importlib.util.module_from_spec(spec)\n"
        "sys.modules['own'] = own\n"
        "spec.loader.exec_module(own)\n"
        "import torch.nn.functional as F\n"
        "print(own.of(own.Body(F.gelu)), own.of(own.Body(lambda x: x in {'a', 'b', 'c'})))\n"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", script, __file__],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            check=True, capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(hashes) == 1 and hashes.pop().count(" ") == 1
