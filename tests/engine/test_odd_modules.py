"""Home-made modules of every odd kind: each is cut exactly, or runs whole with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from siamkit.engine import CutResult, cut, find_boundaries
from siamkit.errors import ConfigError
from siamkit.freezing.controller import FreezeController
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.names import named_parameters, submodule
from siamkit.model.undisturbed import attributes

SIZE = 16


def conv(into: int, out: int, *more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), *more)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


class Odd(nn.Module):
    """Frozen: ``first`` and ``second``; trained: ``third`` and ``head``."""

    frozen = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 8)
        self.second = conv(8, 8)
        self.third = conv(8, 8, nn.Dropout(0.2))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(pooled(self.third(self.second(self.first(x)))))


class Plain(Odd):
    pass


class Skips(Odd):
    """A skip connection leads around the boundary."""

    def forward(self, x):
        a = self.first(x)
        return self.head(pooled(self.third(self.second(a)) + a))


class SkipsFromTheImage(Odd):
    def forward(self, x):
        y = self.third(self.second(self.first(x)))
        return self.head(pooled(y * x.mean(1, keepdim=True).tanh()))


class GatesByTheImage(Odd):
    """A gate per image, computed outside of all modules."""

    def forward(self, x):
        gate = (x.flatten(1).mean(1) > 0).float().reshape(-1, 1, 1, 1)
        return self.head(pooled(self.third(self.second(self.first(x)) * gate)))


class GatesByAMask(Odd):
    """A mask of the image reaches what trains as booleans."""

    def forward(self, x):
        dark = x.mean(1, keepdim=True) < 0
        y = self.third(self.second(self.first(x)).masked_fill(dark, 0.5))
        return self.head(pooled(y))


class BranchesOnContent(Odd):
    def forward(self, x):
        y = self.second(self.first(x))
        if x.mean() > 0:
            y = y.flip(1)
        return self.head(pooled(self.third(y)))


class BranchesOnEachImage(Odd):
    def forward(self, x):
        rows = [row if row.mean() > 0 else -row for row in x]
        return super().forward(torch.stack(rows))


class BranchesOnFeatures(Odd):
    """Decides by the batch's activations, after the boundary: the suffix may do so too."""

    def forward(self, x):
        y = self.second(self.first(x))
        y = self.third(y if y.mean() > 0.5 else -y)
        return self.head(pooled(y))


class BranchesThroughNumpy(Odd):
    def forward(self, x):
        y = self.second(self.first(x))
        if x.detach().numpy().mean() > 0:
            y = y.flip(1)
        return self.head(pooled(self.third(y)))


class BranchesOnTheBatch(Odd):
    def forward(self, x):
        y = self.second(self.first(x if len(x) < 4 else x.flip(3)))
        return self.head(pooled(self.third(y)))


class FailsOnLargeBatches(Odd):
    """The frozen part takes three images at once, as a fixed buffer does."""

    def forward(self, x):
        y = torch.cat([self.second(self.first(part)) for part in x.split(3)])
        return self.head(pooled(self.third(y)))


class MixesTheBatch(Odd):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class DropsInForward(Odd):
    def forward(self, x):
        return super().forward(F.dropout(x, 0.5, training=True))


class DropsInTraining(Odd):
    def forward(self, x):
        y = F.dropout(self.first(x), 0.5, training=self.training)
        return self.head(pooled(self.third(self.second(y))))


class TrainsDifferently(Odd):
    def forward(self, x):
        y = self.third(self.second(self.first(x)))
        out = self.head(pooled(y))
        return (out, y) if self.training else out


class WritesInPlace(Odd):
    """Functional in-place operations on what frozen modules gave."""

    def forward(self, x):
        a = self.first(x)
        a += 1
        b = self.second(a)
        b.mul_(2)
        return self.head(pooled(self.third(b)))


class WritesToTheImage(Odd):
    def forward(self, x):
        return super().forward(x.mul_(0.5))


class WritesInModules(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(8)

    frozen = ("first", "norm", "relu", "second")

    def forward(self, x):
        a = self.norm(self.first(x))
        b = self.second(self.relu(a))
        b += a
        return self.head(pooled(self.third(self.relu(b))))


class Tuples(Odd):
    """Stages pass a stream and a skip on, with sizes beside them."""

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(8, 8)

        def forward(self, state):
            x, skip, height = state
            return self.conv(x) + skip, x, height

    def __init__(self) -> None:
        super().__init__()
        self.second, self.third = Tuples.Stage(), Tuples.Stage()

    def forward(self, x):
        a = self.first(x)
        y, skip, height = self.third(self.second((a, a, x.shape[2])))
        return self.head(pooled(y + skip) / height)


class Dicts(Odd):
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(8, 8)

        def forward(self, state):
            y = self.conv(state["x"])
            return {"x": y, "pooled": [pooled(y)], "count": len(y), "name": "stage"}

    def __init__(self) -> None:
        super().__init__()
        self.second = Dicts.Stage()

    def forward(self, x):
        state = self.second({"x": self.first(x)})
        y = pooled(self.third(state["x"]))
        assert len(y) == state["count"]
        return self.head(y + state["pooled"][0])


@dataclass
class State:
    x: Tensor


class Objects(Odd):
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(8, 8)

        def forward(self, x):
            return State(self.conv(x))

    def __init__(self) -> None:
        super().__init__()
        self.second = Objects.Stage()

    def forward(self, x):
        return self.head(pooled(self.third(self.second(self.first(x)).x)))


class Towers(Odd):
    """Two frozen towers, and what joins them."""

    def __init__(self) -> None:
        super().__init__()
        self.second = conv(3, 8)

    def forward(self, x):
        a, b = self.first(x), self.second(x.flip(3))
        return self.head(pooled(self.third(a * b)))


class Integers(Odd):
    """Which values are largest crosses the boundary: no activation can hold that."""

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(8, 8)

        def forward(self, x):
            y = self.conv(x)
            return y, y.argmax(1, keepdim=True)

    def __init__(self) -> None:
        super().__init__()
        self.second = Integers.Stage()

    def forward(self, x):
        y, largest = self.second(self.first(x))
        return self.head(pooled(self.third(y.gather(1, largest).expand_as(y))))


class Sequences(Odd):
    """``[T, N, C]``: images are counted in the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.third = nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16)

    def forward(self, x):
        y = self.second(self.first(x)[:, :, ::4, ::4].flatten(2).permute(2, 0, 1))
        return self.head(self.third(y).mean(0))


class Windows(Odd):
    """``[N * windows, ...]``."""

    def __init__(self) -> None:
        super().__init__()
        self.second = conv(8, 8)

    def forward(self, x):
        y = self.first(x)
        parts = torch.stack(y.chunk(4, 2), 1).flatten(0, 1)
        y = self.third(self.second(parts))
        return self.head(pooled(y).reshape(len(x), 4, -1).mean(1))


class Similarities(Odd):
    """``[N, N]``: no part of it belongs to one image."""

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(8, 8)

        def forward(self, x):
            y = pooled(self.conv(x))
            return y @ y.T, y

    def __init__(self) -> None:
        super().__init__()
        self.second = Similarities.Stage()
        self.third = nn.Linear(8, 8)

    def forward(self, x):
        similar, y = self.second(self.first(x))
        return self.head(self.third(similar.softmax(1) @ y))


class SharesAModule(Odd):
    """The frozen module runs twice, and the boundary is its second run."""

    def forward(self, x):
        y = self.second(self.second(self.first(x)))
        return self.head(pooled(self.third(y)))


class SharesWithWhatTrains(Odd):
    """The frozen module runs again on what trains."""

    def forward(self, x):
        y = self.third(self.second(self.first(x)))
        return self.head(pooled(self.second(y)))


class UsesKeywords(Odd):
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(8, 8)

        def forward(self, *, x, scale=1.0):
            return self.conv(x) * scale

    def __init__(self) -> None:
        super().__init__()
        self.second, self.third = UsesKeywords.Stage(), UsesKeywords.Stage()

    def forward(self, x):
        y = self.third(x=self.second(x=self.first(x), scale=2.0))
        return self.head(pooled(y))


class ReadsAChangingBuffer(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.mean((0, 2, 3)).detach(), 0.5)
        return super().forward(x - self.mean.reshape(1, 3, 1, 1))


class ReplacesABuffer(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        y = self.second(self.first(x))
        if self.training:
            self.mean = 0.5 * self.mean + y.detach().mean((0, 2, 3))[:3]
        return self.head(pooled(self.third(y)))


class NormalisesByABuffer(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(1, 3, 1, 1))

    def forward(self, x):
        return super().forward(x - self.mean)


class HookChangesOutput(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.first.register_forward_hook(lambda m, i, o: o * 2)
        self.second.register_forward_hook(lambda m, i, o: o + 1)


class HookCollects(Odd):
    """Features are collected by hooks and used later, as feature extractors do."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}
        self.first.register_forward_hook(lambda m, i, o: self.kept.update(first=o))

    def forward(self, x):
        y = self.third(self.second(self.first(x)))
        return self.head(pooled(y + self.kept["first"]))


class KeepsState(Odd):
    """A frozen module leaves its features on itself; nothing shows that they are used."""

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 8)

        def forward(self, x):
            self.kept = self.conv(x)
            return self.kept * 2

    def __init__(self) -> None:
        super().__init__()
        self.first = KeepsState.Stage()

    def forward(self, x):
        y = self.third(self.second(self.first(x)))
        return self.head(pooled(y + self.first.kept))


class ChecksItsInput(Odd):
    def forward(self, x):
        if x.isnan().any():
            raise ValueError("an image holds NaN")
        return super().forward(x)


class Checkpoints(Odd):
    def forward(self, x):
        y = self.second(self.first(x))
        y = checkpoint(self.third, y.requires_grad_(), use_reentrant=False)
        return self.head(pooled(y))


class CheckpointsAcross(Odd):
    def forward(self, x):
        def run(x):
            return self.third(self.second(self.first(x)))

        return self.head(pooled(checkpoint(run, x, use_reentrant=False)))


class ReturnsViews(Odd):
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x[:, :]

    def __init__(self) -> None:
        super().__init__()
        self.second = ReturnsViews.Stage()

    def forward(self, x):
        a = self.first(x)
        b = self.second(a)
        b += 1
        return self.head(pooled(self.third(b) + a))


class HoldsATrainedToken(Odd):
    """A token that trains is added before the boundary, and frozen modules work on it."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 8, 1, 1))

    def forward(self, x):
        y = self.second(self.first(x) + self.token)
        return self.head(pooled(self.third(y)))


class DetachesATrainedToken(HoldsATrainedToken):
    def forward(self, x):
        y = self.second(self.first(x) + self.token.detach())
        return self.head(pooled(self.third(y)) * self.token.mean())


class FrozenTable(Odd):
    """A frozen module that never sees the image."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Embedding(4, 8)

    frozen = ("second", "first")

    def forward(self, x):
        table = self.second(torch.arange(4)).mean(0).reshape(1, 8, 1, 1)
        return self.head(pooled(self.third(self.first(x) + table)))


class TrainsUnderNoGrad(Odd):
    """What trains decides a gate without a gradient, before the boundary."""

    def forward(self, x):
        a = self.first(x)
        with torch.no_grad():
            gate = self.head(pooled(a)).mean(1).sigmoid().reshape(-1, 1, 1, 1)
        y = self.second(a * gate)
        return self.head(pooled(self.third(y)))


class Doubles(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, x):
        return super().forward(x.double())


class Halves(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.bfloat16()

    def forward(self, x):
        return super().forward(x.bfloat16())


class Scripted(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.jit.script(self.first)
        self.second = torch.jit.script(self.second)


class Compiled(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.second = torch.compile(self.second, backend="eager")
        self.third.compile(backend="eager")


class OwnForward(Odd):
    """Another library has put a forward on the instance, as accelerate does."""

    def __init__(self) -> None:
        super().__init__()
        original = self.second.forward
        self.second.forward = lambda x: original(x) + 1


class EndsOnExceptions(Odd):
    def forward(self, x):
        try:
            y = self.second(self.first(x))
        except Exception:
            y = x
        return self.head(pooled(self.third(y)))


class CountsImagesInABuffer(Odd):
    """The network's own forward updates a buffer from the frozen part, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 8, 1, 1))

    def forward(self, x):
        a = self.first(x)
        if self.training:
            self.mean.mul_(0.9).add_(a.mean((0, 2, 3), keepdim=True), alpha=0.1)
        return self.head(pooled(self.third(self.second(a) - self.mean)))


class AveragesInAnAttribute(Odd):
    """What is stored in a plain attribute is used in the next step."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Any = 0.0

    def forward(self, x):
        a = self.first(x)
        y = self.third(self.second(a) - self.mean)
        self.mean = self.mean * 0.9 + a.detach().mean((0, 2, 3), keepdim=True) * 0.1
        return self.head(pooled(y))


class AveragesAcrossTheBoundary(Odd):
    """What training stores in an attribute changes the frozen part's input."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = torch.zeros(3, 1, 1)

    def forward(self, x):
        y = super().forward(x - self.centre)
        if self.training:
            self.centre = self.centre * 0.5 + x.mean((0, 2, 3)).reshape(3, 1, 1) * 0.5
        return y


class CountsItsForwards(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.seen = 0, {"images": [0]}

    def forward(self, x):
        self.calls += 1
        self.seen["images"][0] += len(x)
        return super().forward(x) * (1 + 0.1 * self.calls) + self.seen["images"][0]


class AddsABufferInForward(Odd):
    def forward(self, x):
        a = self.first(x)
        if not hasattr(self, "started"):
            self.register_buffer("started", a.detach().mean((0, 2, 3), keepdim=True))
        return self.head(pooled(self.third(self.second(a) - self.started)))


class Views(Odd):
    """A view of a convolution's output, which fails on images in channels_last."""

    def forward(self, x):
        a = self.first(x)
        return self.head(pooled(self.third(self.second(a.view(len(a), -1).view(a.shape)))))


class MergesInEval(Odd):
    """What trains computes with a copy of its weight in eval mode, and forgets it in train mode."""

    class Merged(nn.Linear):
        merged: Tensor | None = None

        def train(self, mode: bool = True) -> Any:
            self.merged = None if mode else self.weight.detach().clone()
            return super().train(mode)

        def forward(self, x):
            return F.linear(x, self.weight if self.merged is None else self.merged, self.bias)

    def __init__(self) -> None:
        super().__init__()
        self.head = self.Merged(8, 4)


WHOLE = {
    "AveragesAcrossTheBoundary",
    "FailsOnLargeBatches", "KeepsState", "BranchesOnEachImage", "BranchesOnTheBatch",
    "MixesTheBatch", "DropsInForward", "ReadsAChangingBuffer",
    "CheckpointsAcross", "ChecksItsInput",
}  # fmt: skip
"""Those that no boundary is exact for. All others are cut, at ``second`` but for what is below."""
SHALLOWER = {
    "DropsInTraining", "Integers", "Similarities", "HoldsATrainedToken", "DetachesATrainedToken",
    "TrainsUnderNoGrad", "Objects", "ReturnsViews",
}  # fmt: skip
ODD = {kind.__name__: kind for kind in [*Odd.__subclasses__(), DetachesATrainedToken]}


def stages_of(net: Odd) -> tuple[Stage, ...]:
    names = [*net.frozen, *(n for n, _ in net.named_children() if n not in net.frozen)]
    own = tuple(n for n, _ in net.named_parameters(recurse=False))
    stages = []
    for name in names:
        inside = tuple(f"{name}.{n}" for n, _ in named_parameters(submodule(net, name)))
        if name == "head":
            inside += own
        stages.append(Stage(name, inside, (name,), name))
    return tuple(stages)


def cut_it(net: Odd, count: int = 5) -> CutResult:
    stages = stages_of(net)
    plan = FreezePlan.of(stages, [s.name for s in stages if s.name not in net.frozen])
    FreezeController(net, stages).apply(plan)
    assert find_boundaries(net, stages, plan)
    scale = torch.linspace(-1, 1, count).reshape(-1, 1, 1, 1)
    images = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3)) + scale
    return cut(net, stages, plan, images)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ODD)
def test_it_is_cut_exactly_or_runs_whole(name: str) -> None:
    torch.manual_seed(0)
    net = ODD[name]()
    state = {n: t.clone() for n, t in net.state_dict().items()}
    kept = {n: repr(v) for n, v in attributes(net).items()}
    result = cut_it(net)
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(t, state[n]) for n, t in net.state_dict().items())
    assert {n: repr(v) for n, v in attributes(net).items()} == kept
    assert all(p.grad is None for p in net.parameters())
    if name in WHOLE:
        assert result.cut is None and result.reasons
        return
    assert result.cut is not None, result.reasons
    assert (result.cut.boundary.name != net.frozen[-1]) == (name in SHALLOWER)
    generator = torch.Generator().manual_seed(9)
    for count in (2, 4, 7):
        others = torch.randn(count, 3, SIZE, SIZE, generator=generator)
        assert result.cut.differs(others) is None


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", sorted(ODD.keys() - WHOLE))
def test_a_plain_loop_with_the_cut_trains_as_without(name: str) -> None:
    """The prefix runs in training mode and without no_grad, as in a careless loop."""
    losses, states = [], []
    for uses_the_cut in (False, True):
        torch.manual_seed(0)
        net = ODD[name]()
        result = cut_it(net)
        assert result.cut is not None
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05)
        generator = torch.Generator().manual_seed(9)
        for step in range(4):
            images = torch.randn(6, 3, SIZE, SIZE, generator=generator)
            net.train()
            torch.manual_seed(step)
            if uses_the_cut:
                activations = result.cut.prefix(images)
                torch.manual_seed(step)
                output = result.cut.suffix(activations)
            else:
                output = net(images)
            loss = torch.stack([leaf.float().pow(2).mean() for leaf in tensors(output)]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        states.append(dict(net.state_dict()))
    assert losses[4:] == pytest.approx(losses[:4], rel=1e-4)
    whole, parts = states
    assert whole.keys() == parts.keys()
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-3, atol=1e-5, msg=key)


def tensors(output: Any) -> list[Tensor]:
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.requires_grad]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.randn(1, 3, SIZE, SIZE), "one image is not enough"),
        (torch.ones(4, 3, SIZE, SIZE), "all images are equal"),
        (torch.full((2, 3, SIZE, SIZE), float("nan")), "NaN"),
        (torch.randn(3, SIZE, SIZE), r"got \[3, 16, 16\]"),
        ([torch.randn(3, SIZE, SIZE)], "got 'list'"),
    ],
    ids=["one", "equal", "nan", "3-D", "list"],
)
def test_images_that_show_nothing_are_refused(images: Any, message: str) -> None:
    net = Plain()
    stages = stages_of(net)
    plan = FreezePlan.of(stages, ["third", "head"])
    FreezeController(net, stages).apply(plan)
    with pytest.raises(ConfigError, match=message):
        cut(net, stages, plan, images)
