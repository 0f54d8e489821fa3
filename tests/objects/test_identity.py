"""The name of an object in a config, and the hash that tells one from another."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning import distances, losses, miners
from torch import Tensor, nn

from siamkit.errors import ConfigError
from siamkit.objects.identity import qualified_name, source_hash


class Plain(nn.Module):
    """A module with a layer, a plain attribute, and whatever else is given."""

    def __init__(self, width: int = 8, **given: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        for name, value in given.items():
            setattr(self, name, value)

    def forward(self, features: Tensor) -> Tensor:
        return features * RATE


class Thing:
    """An object with whatever attributes are given."""

    def __init__(self, **given: Any) -> None:
        vars(self).update(given)

    def __call__(self, *given: Any) -> Any:
        return given


class Slotted:
    """An object without a ``__dict__``."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(frozen=True)
class Settings:
    """A dataclass."""

    rate: float
    inner: Any = None


RATE = 0.5
TABLE = {"stem": [0.1, {"deep": 1}]}
BOX = Thing(value=1)


def rate(progress: Any) -> float:
    """Read a global number, a global table and a function of this module."""
    return RATE * float(TABLE["stem"][0]) * helper(progress)  # type: ignore[arg-type]


def helper(progress: Any) -> float:
    """Is read by another function."""
    return RATE if progress else rate(None)


def closing(value: Any) -> Callable[..., Any]:
    """Return a function that closes over a value."""
    return lambda progress: value


def factory(function: Callable[..., Any]) -> type:
    """Return a class whose method closes over a function."""

    class Made:
        def plan(self) -> Any:
            return function(self)

    return Made


def defaulted(value: Any) -> Callable[..., Any]:
    """Return a function with default arguments."""

    def function(progress: Any, size: Any = value, *, other: Any = value) -> Any:
        return progress, size, other

    return function


def big(value: float) -> np.ndarray[Any, Any]:
    """Return an array whose repr is shortened."""
    array = np.zeros(5000)
    array[2500] = value
    return array


def hidden(value: float) -> nn.Module:
    """Return a module with a buffer that no checkpoint holds."""
    module = Plain()
    module.register_buffer("scale", torch.tensor([value]), persistent=False)
    return module


def hooked(value: float) -> nn.Module:
    """Return a module with a hook, and the hook's handle."""
    module = Plain()
    module.handle = module.register_forward_hook(  # type: ignore[assignment]
        lambda module, inputs, output: output * value
    )
    return module


def tied(yes: bool) -> nn.Module:
    """Return two layers that are one, or equal."""
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, layer if yes else nn.Linear(4, 4))


class Scripted(nn.Module):
    """A module for TorchScript."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.layer, self.rate = nn.Linear(4, 4), rate

    def forward(self, features: Tensor) -> Tensor:
        scaled: Tensor = self.layer(features) * self.rate
        return scaled


KINDS: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "a width": (Plain, 8, 9),
    "a loss's margin": (lambda v: losses.TripletMarginLoss(margin=v), 0.1, 0.9),
    "a loss's weight": (lambda v: losses.MultiSimilarityLoss(alpha=v), 2, 50),
    "a loss's distance": (
        lambda v: losses.TripletMarginLoss(distance=distances.LpDistance(p=v)), 1, 2,
    ),
    "a miner": (
        lambda v: (losses.TripletMarginLoss(), miners.TripletMarginMiner(margin=v)), 0.2, 0.9,
    ),
    "a module's attribute": (lambda v: Plain(k=v), 1, 2),
    "a module's attribute in depth": (
        lambda v: nn.Sequential(Plain(table={"a": [1, {"b": (v,)}]})), 1, 2,
    ),
    "a type of number": (lambda v: Plain(k=v), 1, 1.0),
    "an order": (lambda v: Plain(k=dict(v)), [("a", 1), ("b", 2)], [("b", 2), ("a", 1)]),
    "a buffer that is not saved": (hidden, 0.5, 0.9),
    "a hook": (hooked, 0.5, 0.9),
    "a layer that is used twice": (tied, True, False),
    "an attribute of an object": (lambda v: Thing(k=v), 1, 2),
    "a slot": (Slotted, 1, 2),
    "a dataclass": (lambda v: Settings(0.1, Settings(v)), 0.5, 0.9),
    "an array with a long repr": (lambda v: Thing(a=big(v)), 0.5, 0.9),
    "an array with a long repr, closed over": (lambda v: closing(big(v)), 0.5, 0.9),
    "a random generator": (lambda v: Thing(r=random.Random(v)), 1, 2),
    "an array of objects": (
        lambda v: Thing(a=np.array([Settings(v), None], dtype=object)), 0.5, 0.9,
    ),
    "a tensor": (lambda v: Thing(t=torch.tensor([v], dtype=torch.bfloat16)), 0.5, 0.75),
    "a closure": (closing, 1, 2),
    "a closure over an object": (lambda v: closing(Thing(k=v)), 1, 2),
    "a closure over a closure": (lambda v: closing(closing(closing(v))), 1, 2),
    "an object that holds a closure": (lambda v: Thing(f=closing(v)), 1, 2),
    "a bound method": (lambda v: Thing(k=v).__call__, 1, 2),
    "a class that closes over a function": (lambda v: factory(closing(v))(), 1, 2),
    "a class's attribute": (lambda v: type("Made", (Thing,), {"k": v})(), 1, 2),
    "a class's constant": (lambda v: type("Made", (Thing,), {"LIMIT": v})(), 1, 2),
    "a class's method": (lambda v: type("Made", (Thing,), {"of": closing(v)})(), 1, 2),
    "a class's special method": (lambda v: type("Made", (Thing,), {"__len__": closing(v)})(), 1, 2),
    "default arguments": (defaulted, 1, 2),
    "a partial": (lambda v: partial(closing, value=v), 1, 2),
    "a partial of a partial": (lambda v: partial(partial(closing(v), 1), 2), 1, 2),
    "a cached function": (lambda v: lru_cache(closing(v)), 1, 2),
    "a decorated function": (lambda v: torch.no_grad()(closing(v)), 1, 2),
    "a set": (lambda v: Thing(s={"a", "b", v}), "c", "d"),
    "a lambda beside another": (lambda v: [lambda p: 0.5, lambda p: 0.9][v], 0, 1),
    "TorchScript": (lambda v: nn.Sequential(torch.jit.script(Scripted(v))), 0.5, 0.9),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("kind", KINDS)
def test_a_hash_tells_objects_apart_by_their_settings(kind: str) -> None:
    make, value, other = KINDS[kind]
    assert source_hash(make(value)) == source_hash(make(value)), "equal objects"
    assert source_hash(make(value)) != source_hash(make(other))


def cycle(value: int) -> Thing:
    """Return an object that contains itself, in two ways."""
    thing = Thing(k=value)
    thing.self, thing.list = thing, [thing]  # type: ignore[attr-defined]
    return thing


def test_an_object_may_contain_itself() -> None:
    assert source_hash(cycle(1)) == source_hash(cycle(1)) != source_hash(cycle(2))


def test_a_function_is_described_with_the_globals_that_it_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, module = source_hash(rate), source_hash(Plain())
    monkeypatch.setitem(globals(), "BOX", Thing(value=2))
    assert source_hash(rate) == before
    monkeypatch.setitem(globals(), "RATE", 0.9)
    assert source_hash(rate) != before and source_hash(Plain()) != module
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "TABLE", {"stem": [0.1, {"deep": 2}]})
    assert source_hash(rate) != before
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "helper", lambda progress: 1.0)
    assert source_hash(rate) != before
    monkeypatch.undo()
    assert source_hash(rate) == before


class Counted:
    """An object with a slot and a property that is never the same."""

    __slots__ = ("value",)
    reads = 0

    def __init__(self, value: int) -> None:
        self.value = value

    @property
    def number(self) -> int:
        """How often this was read."""
        type(self).reads += 1
        return self.reads


def test_what_an_object_computes_is_no_part_of_it() -> None:
    assert source_hash(Counted(1)) == source_hash(Counted(1)) != source_hash(Counted(2))
    assert Counted.reads == 0


LOOP: list[Any] = [1]
LOOP.append(LOOP)


def looping() -> Any:
    """Read a global list that contains itself."""
    return LOOP


def test_a_global_list_that_contains_itself_counts_by_its_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = source_hash(looping)
    other: list[Any] = [2]
    other.append(other)
    monkeypatch.setitem(globals(), "LOOP", other)
    assert source_hash(looping) != before


def test_weights_modes_and_wrappers_are_not_part_of_it() -> None:
    net = Plain()
    expected = source_hash(net)
    assert source_hash(net.eval()) == expected
    net.requires_grad_(False).layer.weight.data.zero_()
    assert source_hash(net) == source_hash(deepcopy(net)) == expected
    assert source_hash(nn.DataParallel(net)) == expected
    assert source_hash(torch.compile(net, backend="eager")) == expected
    shared = Plain(weights=[net.layer.weight], layers=[net])
    assert source_hash(shared) != expected


@pytest.mark.filterwarnings("ignore")
def test_lazy_quantised_and_computed_tensors_have_a_hash() -> None:
    lazy = [nn.Sequential(nn.LazyConv2d(width, 3)) for width in (8, 8, 9)]
    assert source_hash(lazy[0]) == source_hash(lazy[1]) != source_hash(lazy[2])
    quantised = torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Linear(3, 4)), {nn.Linear}, dtype=torch.qint8
    )
    assert source_hash(quantised) == source_hash(quantised)
    normed = [nn.utils.weight_norm(nn.Linear(3, 4)) for _ in range(2)]
    assert source_hash(normed[0]) == source_hash(normed[1])


def test_a_chain_that_is_too_long_is_refused() -> None:
    chain = Thing()
    for _ in range(5000):
        chain = Thing(next=chain)
    with pytest.raises(ConfigError, match=r"Thing: its attributes nest too deeply"):
        source_hash(chain)


MODULE = """
import enum, functools, random, re
import numpy as np, torch
from torch import nn
from pytorch_metric_learning import losses, miners
from siamkit.objects.identity import source_hash

NAMES = {"a", "b", "c", "d", ("e", 1)}
class Mode(enum.Enum):
    ON = 1
def helper(x):
    return x in {"p", "q", "r"} and x in NAMES
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)
        self.names, self.mode, self.pattern = frozenset(NAMES), Mode.ON, re.compile("x+")
        self.random, self.draw = random.Random(1), np.random.default_rng(1)
        self.handle = self.body.register_forward_hook(lambda m, i, o: helper(o))
        self.me = [self]
    def forward(self, x):
        return helper(self.body(x))
exec("def unsourced(x): return [helper(y) for y in x if y in {'s', 't'}]")
class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.rates = nn.Conv2d(3, 4, 3), {"a": 0.5}
    def forward(self, x):
        return self.layer(x) * self.rates["a"]
for thing in (
    Net(), helper, unsourced, functools.partial(helper, 1), lambda x: NAMES,
    (losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner()), losses.VICRegLoss(),
    torch.jit.script(Scripted()), nn.TransformerEncoderLayer(8, 2),
):
    print(source_hash(thing))
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["script", "module"])
def test_a_hash_is_the_same_in_every_process(where: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    command = ["mine.py"] if where == "script" else ["-c", "import mine"]

    def hashes(seed: str) -> list[str]:
        paths = os.pathsep.join([str(tmp_path), *sys.path])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *command],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    first = hashes("1")
    assert len(set(first)) == 9
    assert hashes("2") == first


def test_the_name_of_a_partial_is_its_functions_and_a_pair_has_both_names() -> None:
    assert qualified_name(partial(Plain, 3)) == qualified_name(Plain)
    assert qualified_name((Plain(), max)) == f"{Plain.__module__}.Plain+builtins.max"
    assert qualified_name(Plain()).endswith("test_identity.Plain")


def test_a_builtin_method_is_that_of_its_object() -> None:
    one, other = (source_hash(Plain(join=text.join)) for text in ("-", "+"))
    assert one != other
    assert one == source_hash(Plain(join="-".join))


class Unpicklable:
    """An object whose state cannot be read."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __getstate__(self) -> Any:
        raise TypeError("not this one")


class Named:
    """An object that is pickled by a name."""

    def __reduce__(self) -> str:
        return "NAMED"


def test_objects_that_cannot_be_pickled_and_tensors_without_values_have_a_hash() -> None:
    assert source_hash(Unpicklable(1)) == source_hash(Unpicklable(2))
    assert source_hash(Thing(k=Named())) == source_hash(Thing(k=Named()))
    empty = torch.ones(2, device="meta")
    assert source_hash(Thing(t=empty)) == source_hash(Thing(t=empty))
    assert source_hash(Thing(t=empty)) != source_hash(Thing(t=torch.ones(3, device="meta")))


def test_a_closure_over_what_is_not_yet_known_has_a_hash() -> None:
    def outer() -> Any:
        def inner() -> Any:
            return later

        early = source_hash(inner)
        later = 1
        return early, source_hash(inner)

    early, late = outer()
    assert early != late


def test_a_compiled_function_is_the_function_that_it_compiles() -> None:
    one = torch.compile(closing(1), backend="eager")
    assert source_hash(one) == source_hash(torch.compile(closing(1), backend="eager"))
    assert source_hash(one) != source_hash(torch.compile(closing(2), backend="eager"))


def test_an_attribute_that_shares_the_memory_of_a_weight_is_that_weight() -> None:
    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        inner = Plain()
        inner.row = inner.layer.weight.detach()[0]
        return nn.Sequential(inner)

    assert source_hash(made(0)) == source_hash(made(1))
    apart = [Plain(row=torch.tensor([value])) for value in (1.0, 2.0)]
    assert source_hash(apart[0]) != source_hash(apart[1])
