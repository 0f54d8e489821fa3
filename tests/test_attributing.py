"""An exception in a plugin's forward or backward, in the middle of a run, names the plugin."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import siamkit
from siamkit import api, plugins
from siamkit.errors import ConfigError, PluginError
from siamkit.guard import attributing, guard
from siamkit.interfaces import Loss
from siamkit.registry import Entry

LOSS, BACKBONE = "loss 'x' of siamkit-x", "backbone 'y' of siamkit-y"


class Broken(torch.autograd.Function):
    """The identity, whose backward raises what :data:`ARMED` holds."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if ARMED.backward is not None:
            raise ARMED.backward
        return gradient


ARMED = SimpleNamespace(forward=None, backward=None)
"""The exceptions that the classes here raise from now on."""


@pytest.fixture(autouse=True)
def disarm():
    yield
    ARMED.forward = ARMED.backward = None


class Breaking(nn.Module):
    """Passes its input on, and raises in forward or in backward."""

    def forward(self, x):
        if ARMED.forward is not None:
            raise ARMED.forward
        return Broken.apply(x)


class Scatter(Loss):
    """A loss that is right but for its backward."""

    def forward(self, embeddings, labels, tuples=None):
        x = Broken.apply(embeddings)
        same = labels[:, None] == labels[None]
        distance = (x[:, None] - x[None]).square().sum(-1)
        return (distance * same).mean() - (distance * ~same).mean()


class Quiet(Loss):
    """A loss of this file whose backward is right."""

    def forward(self, embeddings, labels, tuples=None):
        return embeddings.square().mean()


def tiny():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU()), nn.Sequential(Breaking(), nn.ReLU())
    )


def elsewhere(cls):
    """Return a class that looks as if another package defined it."""
    return type(cls.__name__, (cls,), {"__module__": "another_package.layers"})


# --- one call ------------------------------------------------------------------------------------


def test_the_forward_of_any_part_of_a_module_is_its_owners():
    net, head = tiny(), nn.Sequential(nn.Linear(8, 4), Breaking())
    ARMED.forward = ValueError("odd")
    modules = {BACKBONE: net, "head 'z' of siamkit-z": head}
    with pytest.raises(PluginError, match=f"{BACKBONE} failed in forward: ValueError: odd") as one:
        with attributing(modules):
            net(torch.rand(2, 3, 16, 16))
    with pytest.raises(PluginError, match="head 'z' of siamkit-z failed in forward"):
        with attributing(modules):
            head[1](torch.rand(2, 4))  # a part alone, as the cut network calls it
    assert one.value.__cause__ is ARMED.forward and one.value.exit_code == 5


def test_a_backward_belongs_to_the_module_whose_code_it_is():
    ARMED.backward = ValueError("odd")
    x = torch.rand(2, 3, requires_grad=True)
    for modules, owners in (
        ({LOSS: Scatter(), BACKBONE: nn.Linear(3, 3)}, LOSS),
        ({LOSS: elsewhere(Scatter)(), BACKBONE: tiny()}, BACKBONE),
        ({LOSS: Scatter(), BACKBONE: tiny()}, BACKBONE),  # no loss lies on the way
        ({BACKBONE: tiny(), "head 'z'": Breaking()}, f"{BACKBONE} or head 'z'"),
    ):
        with pytest.raises(PluginError, match=f"^{owners} failed in backward: ValueError: odd$"):
            with attributing(modules):
                Broken.apply(x).sum().backward()


@pytest.mark.parametrize("fails_in_loss", [True, False])
def test_a_file_with_both_is_told_apart_by_the_graph(fails_in_loss):
    loss, labels = guard(Scatter(), LOSS), torch.tensor([0, 0, 1])
    net = nn.Sequential(nn.Linear(3, 3), Breaking(), nn.Identity())
    embeddings = net(torch.rand(3, 3))
    # The marks of an earlier batch tell nothing of this one.
    guard(Scatter(), LOSS)(net(torch.rand(3, 3)), labels)
    if not fails_in_loss:
        loss = guard(Quiet(), LOSS)
    value = loss(embeddings, labels)
    ARMED.backward = ValueError("odd")
    whose = LOSS if fails_in_loss else BACKBONE
    with pytest.raises(PluginError, match=f"^{whose} failed in backward"):
        with attributing({BACKBONE: net, LOSS: loss}):
            value.backward()


def test_a_file_of_the_same_package_is_enough():
    source = "def fail(gradient):\n    raise ValueError('odd')\n"
    x = torch.rand(2, requires_grad=True)
    for name, package in (("another_package.functions", "another_package"), ("torch.x", None)):
        scope = {"__name__": name}
        exec(source, scope)
        y = x * 2
        y.register_hook(scope["fail"])
        with pytest.raises(PluginError if package else ValueError):
            with attributing({LOSS: elsewhere(Scatter)(), BACKBONE: nn.Linear(2, 2)}):
                y.sum().backward()


def test_a_file_says_more_than_its_package_():
    """Two modules of one package are told apart by the file of the code that failed."""
    source = "def fail(gradient):\n    raise ValueError('odd')\n"
    layers = elsewhere(Breaking)()
    other = type("Other", (nn.Linear,), {"__module__": "another_package.other"})(2, 2)
    both = f"{BACKBONE} or head 'z'"
    for name, owners in (
        ("another_package.layers", BACKBONE), ("another_package.other", "head 'z'"),
        ("another_package", both), ("another_package.third", both),
    ):  # fmt: skip
        scope = {"__name__": name}
        exec(source, scope)
        y = torch.rand(2, requires_grad=True) * 2
        y.register_hook(scope["fail"])
        with pytest.raises(PluginError, match=f"^{owners} failed in backward"):
            with attributing({BACKBONE: layers, "head 'z'": other, LOSS: Scatter()}):
                y.sum().backward()


def test_code_of_torch_is_nobodys_even_if_a_module_is_torchs_own():
    scope = {"__name__": nn.Linear.__module__}
    exec("def fail(gradient):\n    raise ValueError('odd')\n", scope)
    y = torch.rand(2, requires_grad=True) * 2
    y.register_hook(scope["fail"])
    with pytest.raises(ValueError, match="odd"), attributing({BACKBONE: nn.Linear(2, 2)}):
        y.sum().backward()


def test_a_forward_that_is_computed_again_in_backward_is_the_modules():
    net, x = nn.Sequential(Breaking(), nn.Sigmoid()), torch.rand(2, requires_grad=True)
    y = checkpoint(net, x, use_reentrant=False)
    ARMED.forward = ValueError("odd")
    with pytest.raises(PluginError, match=f"{BACKBONE} failed in forward"):
        with attributing({LOSS: Scatter(), BACKBONE: net}):
            y.sum().backward()


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), MemoryError(), torch.OutOfMemoryError("CUDA"), ConfigError("on purpose"),
     RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")],
)  # fmt: skip
def test_a_lack_of_memory_interruptions_and_our_own_errors_pass(error):
    modules = {LOSS: Scatter(), BACKBONE: tiny()}
    x = torch.rand(2, 3, requires_grad=True)
    ARMED.backward = error
    with pytest.raises(type(error)) as caught, attributing(modules):
        Broken.apply(x).sum().backward()
    assert caught.value is error
    ARMED.forward = error
    with pytest.raises(type(error)) as caught, attributing(modules):
        modules[BACKBONE](torch.rand(2, 3, 16, 16))
    assert caught.value is error


def test_what_no_module_did_passes():
    error = ValueError("somebody else's")
    modules = {LOSS: elsewhere(Scatter)(), BACKBONE: nn.Linear(3, 3)}
    with pytest.raises(ValueError) as caught, attributing(modules):
        raise error
    assert caught.value is error
    ARMED.backward = error
    with pytest.raises(ValueError) as caught, attributing(modules):
        Broken.apply(torch.rand(2, requires_grad=True)).sum().backward()
    assert caught.value is error
    with pytest.raises(RuntimeError, match="element 0 of tensors does not require grad"):
        with attributing({LOSS: Scatter(), BACKBONE: tiny()}):
            torch.ones(()).backward()


# --- in a run ------------------------------------------------------------------------------------


class Arms:
    """A tracker that lets forward or backward fail after the first epoch."""

    def __init__(self, place, error):
        self.place, self.error = place, error

    def __call__(self, event):
        if event.name == "epoch_end" and event.data["epoch"] == 1:
            setattr(ARMED, self.place, self.error)


@pytest.fixture
def mine(monkeypatch):
    """Register an entry of ``siamkit-mine``, as ``mine``."""

    def add(kind, build):
        entry = Entry("mine", build, siamkit.Options, distribution="siamkit-mine")
        monkeypatch.setitem(plugins.get().registries[kind].entries, "mine", entry)

    return add


def scenarios(mine, what):
    """Register what fails, and return the values of its run, and its text in the message."""
    error = ZeroDivisionError("no way")
    mine("trackers", lambda options: Arms("backward" if what == "loss" else "forward", error))
    text = f"{what} 'mine' of siamkit-mine failed in "
    if what == "loss":
        mine("losses", lambda options, context: Scatter())
        return error, {"loss": {"name": "mine"}}, text + "backward"
    if what == "backbone":
        mine("backbones", lambda options, context: tiny())
        return error, {"backbone": {"name": "mine"}, "freeze": {"name": "full"}}, text + "forward"
    mine("heads", lambda options, width: nn.Sequential(nn.Linear(width, 8), Breaking()))
    return error, {"head": {"name": "mine"}, "freeze": {"name": "freeze-all"}}, text + "forward"


@pytest.mark.parametrize("cache", ["off", "always"])
@pytest.mark.parametrize("what", ["loss", "backbone", "head"])
def test_a_run_names_what_fails_at_its_second_epoch(mine, run_values, what, cache):
    error, values, text = scenarios(mine, what)
    if what == "backbone" and cache == "always":
        values["freeze"] = {"name": "stages", "n": 1, "warmup": 1}
    events = []
    with pytest.raises(PluginError, match=f"^{text}: ZeroDivisionError: no way$") as caught:
        api.fit(
            run_values(**values, track=["mine"], engine={"cache": cache}), listeners=[events.append]
        )
    assert caught.value.__cause__ is error
    assert [e.data["epoch"] for e in events if e.name == "epoch_end"] == [1]


def test_a_trained_network_that_fails_names_its_plugin(mine, run_values, image_folder):
    mine("backbones", lambda options, context: tiny())
    result = api.fit(run_values(backbone={"name": "mine"}, train={"epochs": 1}))
    text = "backbone 'mine' of siamkit-mine failed in forward: ZeroDivisionError: no way"
    loaded = siamkit.load_embedder(result.run_dir, device="cpu", workers=0)
    ARMED.forward = error = ZeroDivisionError("no way")
    with pytest.raises(PluginError, match=text) as caught:
        loaded.embed(sorted(image_folder.glob("class0/*.png")))
    assert caught.value.__cause__ is error
    with pytest.raises(PluginError, match=text):
        siamkit.evaluate(loaded, image_folder)


def test_an_object_is_named_too(run_values):
    values = run_values(track=[], train={"epochs": 2})
    values.pop("backbone")

    def arm(event):
        if event.name == "epoch_end":
            ARMED.forward = ZeroDivisionError("no way")

    name = "torch.nn.modules.container.Sequential"
    with pytest.raises(PluginError, match=f"backbone '{name}' given in Python failed in forward"):
        siamkit.fit(values, backbone=tiny(), freeze="full", listeners=[arm])


def test_measuring_names_the_plugin(mine, run_values):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())

        def forward(self, images):
            if len(images) > 3:  # not the forwards of the build
                raise ZeroDivisionError("no way")
            return self.body(images)

    mine("backbones", lambda options, context: Small())
    with pytest.raises(PluginError, match="backbone 'mine' of siamkit-mine failed in forward"):
        api.inspect(run_values(backbone={"name": "mine"}), measure=True)
