"""The conformance kit on objects: right ones pass, and the wrong plugins are caught as objects."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
import wrong_backbones
import wrong_heads
import wrong_losses
import wrong_policies
import wrong_schedulers
import wrong_trackers
from pytorch_metric_learning import losses, miners
from torch import nn

import siamkit
from siamkit import testing
from siamkit.interfaces import BackboneContext, FreezePlan, LossContext, Preprocessing
from siamkit.objects.identity import qualified_name
from siamkit.registry import KINDS

CHECKS = {
    "backbones": testing.check_backbone,
    "freeze_policies": testing.check_freeze_policy,
    "heads": testing.check_head,
    "losses": testing.check_loss,
    "optimizers": testing.check_optimizer,
    "schedulers": testing.check_scheduler,
    "trackers": testing.check_tracker,
}
CONTEXTS = {
    "backbones": (BackboneContext("wrong", False, 3, 64),),
    "heads": (16,),
    "losses": (LossContext(8, 4),),
}
# Their fault is in 'build', which an object has behind it.
IN_BUILD = {
    "numpy-init", "build-raises", "build-exits", "build-class", "build-pair", "three-channels",
    "downloads", "ten-classes", "eight-wide", "draws-anew", "property-plan", "folder-in-build",
    "not-callable", "needs-login", "opens-in-build", "fixed-width", "fixed-size-grey",
}  # fmt: skip
# Copies share this one's generator, so they differ before it ends.
SAYS = {"generator": "whatever the earlier calls"}
MODULES = (
    wrong_backbones,
    wrong_heads,
    wrong_policies,
    wrong_losses,
    wrong_schedulers,
    wrong_trackers,
)
MUTANTS = [m for module in MODULES for m in module.MUTANTS if m.name not in IN_BUILD]


def said(check, thing, **more):
    """Return what a check says of an object; nothing where it says nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check(thing, **more)
        except AssertionError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.kind}-{m.name}")
def test_a_wrong_object_is_caught(mutant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if mutant.kind == "optimizers":
        thing = lambda groups: mutant.build(None, groups)  # noqa: E731
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            thing = mutant.build(mutant.options(), *CONTEXTS.get(mutant.kind, ()))
    message = said(CHECKS[mutant.kind], thing, **mutant.check)
    assert message, f"passed, though it {mutant.wrong}"
    assert SAYS.get(mutant.name, mutant.says) in message
    singular = KINDS[mutant.kind].singular
    assert message.startswith(f"{singular} {qualified_name(thing)!r} given in Python: ")
    assert "expected " in message and ". " in message.partition("; got ")[2]


def test_each_kind_has_wrong_objects():
    counts = {kind: sum(m.kind == kind for m in MUTANTS) for kind in CHECKS}
    assert min(counts.values()) >= 2, counts
    assert IN_BUILD <= {m.name for module in MODULES for m in module.MUTANTS}


# --- right ones ----------------------------------------------------------------------------------


class Plain(nn.Module):
    """A network as anybody writes it."""

    def __init__(self, channels=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(8, 16, 3, 2), nn.ReLU())

    def forward(self, images):
        return self.top(self.body(images))


class Grey(Plain):
    """It says that its images have one channel."""

    preprocessing = Preprocessing((0.5,), (0.5,), (32, 32))

    def __init__(self):
        super().__init__(1)


def test_right_backbones_pass_and_stay_as_they_are():
    net = Plain()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    testing.check_backbone(net, image_size=48)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training and all(p.grad is None for p in net.parameters())
    testing.check_backbone(Grey())
    testing.check_backbone(Plain(5), channels=[5], image_size=32)
    testing.check_backbone(wrong_backbones.Small(*CONTEXTS["backbones"]))


def test_right_heads_pass():
    testing.check_head(nn.Sequential(nn.Linear(24, 8), nn.Tanh()))
    testing.check_head(nn.Identity())
    testing.check_head(nn.Sequential(nn.LayerNorm(12), nn.ReLU()), in_features=12)


@pytest.mark.parametrize(
    ("loss", "width"),
    [
        (losses.TripletMarginLoss(), 8),
        (losses.NTXentLoss(), 8),
        ((losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner()), 8),
        (losses.ArcFaceLoss(10, 16), 16),
        (losses.SelfSupervisedLoss(losses.NTXentLoss()), 8),
        (losses.VICRegLoss(), 8),
    ],
    ids=lambda value: type(value).__name__,
)
def test_right_losses_of_pytorch_metric_learning_pass(loss, width):
    testing.check_loss(loss, embedding_dim=width)


@pytest.mark.parametrize("name", wrong_losses.RIGHT)
def test_right_losses_pass(name):
    loss = wrong_losses.RIGHT[name](None, LossContext(8, 4))
    testing.check_loss(loss)
    assert all(p.grad is None for p in loss.parameters()), "copies are checked"


def last_stage(stages, progress):
    body = [stage.name for stage in stages if stage.name != "head"]
    return FreezePlan.of(stages, body[-1:] if progress.epoch % 2 else [])


class LastStage(siamkit.FreezePolicy):
    def plan(self, stages, progress):
        return last_stage(stages, progress)


class Falling(siamkit.Scheduler):
    def lr_scale(self, progress):
        return 1 - progress.fraction / 2


def test_right_policies_schedulers_optimizers_and_trackers_pass():
    for policy in (last_stage, LastStage()):
        testing.check_freeze_policy(policy, backbone=Plain())
    for scheduler in (lambda progress: 1 - progress.fraction / 2, Falling()):
        testing.check_scheduler(scheduler)
    testing.check_optimizer(torch.optim.RMSprop)
    testing.check_optimizer(lambda groups: torch.optim.SGD(groups, momentum=0.9))
    testing.check_tracker(wrong_trackers.Log(None))
    testing.check_tracker(lambda event: None)


# --- what only objects can get wrong -------------------------------------------------------------


class Locked(Plain):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class CountsCopies(Plain):
    copies = 0

    def __deepcopy__(self, memo):
        twin = CountsCopies()
        twin.copies = self.copies + 1
        return twin


class OneChannel(Plain):
    """A user would have to say that its images have one channel."""

    def __init__(self):
        super().__init__(1)


@pytest.mark.parametrize(
    ("check", "thing", "message"),
    [
        ("backbones", Plain, "pass an instance: Plain(...)"),
        ("backbones", 3, "expected a name, or a torch.nn.Module; got <class 'int'>"),
        (
            "backbones",
            Locked(),
            "expected no error when it is copied; got ConfigError",
        ),
        ("backbones", CountsCopies(), "siamkit.resume would take the copy for another"),
        ("backbones", OneChannel(), "in_chans=3: expected no error in build"),
        ("heads", nn.Linear, "pass an instance: Linear(...)"),
        ("heads", max, "expected a name, or a torch.nn.Module"),
        ("freeze_policies", LastStage, "pass an instance: LastStage(...)"),
        ("freeze_policies", FreezePlan(frozenset()), "or a function (stages, progress)"),
        ("losses", nn.ReLU(), "a loss of pytorch-metric-learning"),
        ("losses", (losses.ContrastiveLoss(), max), "a loss of pytorch-metric-learning"),
        ("losses", losses.ArcFaceLoss(4, 16), "embeddings of width 8; build it with num_classes=4"),
        ("losses", losses.CrossBatchMemory(losses.ContrastiveLoss(), 8), "a resumed run"),
        ("optimizers", torch.optim.SGD([torch.zeros(1)]), "such as torch.optim.RMSprop"),
        ("optimizers", lambda groups: torch.optim.SGD(groups[1:]), "does not own every parameter"),
        ("schedulers", 0.1, "expected a name, or a siamkit.Scheduler"),
        ("schedulers", Falling, "pass an instance: Falling(...)"),
        ("trackers", wrong_trackers.Log, "pass an instance: Log(...)"),
        ("trackers", None, "expected a name, or a function of a siamkit.Event"),
    ],
)
def test_an_object_that_cannot_be_used_says_why(check, thing, message):
    text = said(CHECKS[check], thing)
    assert message in text
    assert repr(qualified_name(thing)) in text


def test_an_object_takes_no_options():
    text = said(testing.check_head, nn.Identity(), options={"dim": 8})
    assert "expected options={...} only together with a name; got {'dim': 8}" in text


def test_a_policy_is_checked_on_a_module_as_it_is_now():
    counts = []

    def plan(stages, progress):
        counts.append(sum(len(stage.parameters) for stage in stages))
        return FreezePlan.of(stages, [])

    net = Plain()
    for _ in range(2):
        testing.check_freeze_policy(plan, backbone=net)
        counts.append(None)
        net.top.append(nn.Conv2d(16, 16, 1))
    first = counts.index(None)
    assert set(counts[:first]) != set(counts[first + 1 : -1])
