"""The identity of a prefix: what makes cached rows those of another network."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from siamkit.engine import identity
from siamkit.engine.identity import code_of


class Base(nn.Module):
    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


class Body(Base):
    limit = 0.5

    def __init__(self, act: Any = torch.relu, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 1)
        self.act, self.scales = act, [1.0, 2.0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.act(helper(self.pooled(self.conv(images)))).clamp(max=LIMIT)

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


LIMIT = 0.5


def helper(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def scaled(factor: int) -> Any:
    return lambda x: factor * x


@dataclass
class Settings:
    slope: int

    def times(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope * x


def replaced(name: str, value: Any) -> Callable[[pytest.MonkeyPatch], Any]:
    """Return a function that edits a name of this module, which a method uses."""

    def replace(monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setitem(globals(), name, value)
        return Body()

    return replace


def hooked(monkeypatch: pytest.MonkeyPatch) -> Any:
    body = Body()
    body.conv.register_forward_hook(lambda module, args, output: 2 * output)
    return body


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
        changed(limits={"low": 0.5}),
        changed(mean=torch.tensor([0.5])),
        changed(mean=np.array([0.5])),
        changed(settings=SimpleNamespace(slope=2)),
        changed(settings=Settings(2)),
        changed(act=scaled(2)),
        changed(act=lambda x, factor=2: factor * x),
        changed(act=lambda x, *, factor=2: factor * x),
        changed(act=Settings(2).times),
        edited(Body, limit=0.7),
        edited(Body, forward=lambda self, images, least=1: images),
        replaced("helper", lambda x: x + 2),
        replaced("LIMIT", 0.7),
        hooked,
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


@pytest.mark.parametrize(
    "attributes",
    [
        lambda value: {"limits": {"low": value}}, lambda value: {"act": scaled(value)},
        lambda value: {"mean": torch.tensor([value])}, lambda value: {"mean": np.array([value])},
        lambda value: {"settings": Settings(value)}, lambda value: {"act": Settings(value).times},
        lambda value: {"names": {str(value), "b"}},
        lambda value: {"half": torch.tensor(value).half()},
    ],
)  # fmt: skip
def test_attributes_with_other_contents_differ(attributes: Any) -> None:
    def hashed(value: int) -> str:
        return of(changed(**attributes(value))(pytest.MonkeyPatch()))

    assert hashed(1) != hashed(2)
    assert hashed(1) == hashed(1)


def test_a_value_that_holds_itself_and_the_output_of_the_last_forward_are_no_trouble() -> None:
    body = Body()
    body.last = {"self": body.scales}  # type: ignore[assignment]
    body.last["again"] = body.last  # type: ignore[index, operator]
    before = of(body)
    assert of(body) == before
    body.attention = torch.zeros(5000)  # type: ignore[assignment]
    stored = of(body)
    body.attention = torch.ones(5000)  # type: ignore[assignment]
    assert of(body) == stored != before
    body.sparse = torch.eye(2).to_sparse()  # type: ignore[assignment]
    assert of(body) != stored


def test_the_version_of_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = of(Body())
    monkeypatch.setattr(identity, "version", lambda name: "0" if name == "torch" else "1")
    assert of(Body()) != before


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
