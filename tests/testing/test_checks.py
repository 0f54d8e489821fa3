"""Each check of the conformance kit fails on a plugin that is wrong in just that way."""

from __future__ import annotations

import inspect
import itertools
import math
from dataclasses import replace

import pytest
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

import siamkit
from siamkit import plugins, testing
from siamkit.errors import ConfigError
from siamkit.interfaces import (
    FreezePlan,
    FreezePolicy,
    Loss,
    Options,
    Preprocessing,
    Scheduler,
    Stage,
)

SIZE = 16


def fails(check, *args, match, **kwargs):
    with pytest.raises(AssertionError, match=match) as caught:
        check(*args, **kwargs)
    assert "wrong" in str(caught.value), "the message must name the entry"


# --- options and whole distributions -------------------------------------------------------------


class LooseOptions(BaseModel):
    factor: float = 1.0


class RequiredOptions(Options):
    factor: float


class LossyOptions(Options):
    model_config = ConfigDict(allow_inf_nan=True)
    factor: float = math.nan  # becomes null in JSON


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LooseOptions, "options that are frozen and forbid extras: derive from siamkit.Options"),
        (RequiredOptions, r"options={...} with values for \['factor'\], which have no defaults"),
        (LossyOptions, "options that survive JSON"),
    ],
)
def test_options(register, options, message):
    register("schedulers", lambda options: Constant(), options=options)
    fails(testing.check_scheduler, "wrong", match=message)


def test_required_options_can_be_given(register):
    register("schedulers", lambda options: Constant(), options=RequiredOptions)
    testing.check_scheduler("wrong", {"factor": 0.5})
    testing.check_plugin("siamkit-wrong", {"wrong": {"factor": 0.5}})


def test_check_plugin_checks_all_that_a_distribution_registers(register):
    register("schedulers", lambda options: Constant(), "fine")
    testing.check_plugin("siamkit_wrong")
    register("losses", lambda options, context: Zero())
    fails(testing.check_plugin, "siamkit-wrong", match="loss 'wrong' of siamkit-wrong")
    assert testing.registered("schedulers", "Siamkit.Wrong") == ["fine"]
    assert "fine" in testing.registered("schedulers")
    assert "timm:" not in testing.registered("backbones")


def test_check_plugin_wants_the_plugin_installed_and_loaded(register, monkeypatch):
    fails(testing.check_plugin, "wrong", match="an installed entry point in the group 'siamkit'")
    broken = plugins.PluginInfo("x", "wrong-broken", "0", error="ImportError: no module 'y'")
    fake = replace(plugins.get(), infos=(broken,))
    monkeypatch.setattr(plugins, "get", lambda: fake)
    fails(testing.check_plugin, "wrong-broken", match="'x' to load; got ImportError: no module")


def test_two_plugins_with_one_name(register):
    register("schedulers", lambda options: Constant(), "cosine")
    for check, name in ((testing.check_scheduler, "cosine"), (testing.check_plugin, "siamkit")):
        with pytest.raises(AssertionError, match="siamkit and siamkit-wrong"):
            check(name)
    fails(testing.check_plugin, "siamkit-wrong", match="a scheduler name 'cosine' of its own")


def test_an_unknown_name_gets_the_usual_message():
    with pytest.raises(AssertionError, match=r"unknown loss 'tripled'; did you mean 'triplet'\?"):
        testing.check_loss("tripled")


@pytest.mark.parametrize(
    "check",
    [
        testing.check_backbone,
        testing.check_freeze_policy,
        testing.check_head,
        testing.check_loss,
        testing.check_optimizer,
        testing.check_scheduler,
        testing.check_tracker,
    ],
)
def test_checks_are_called_alike(check):
    """The entry and its options come first, also by name, and all else by name only."""
    entry, options, *others = inspect.signature(check).parameters.values()
    assert [entry.name, options.name] == ["given", "options"]
    assert entry.kind is options.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in others)


# --- backbones -----------------------------------------------------------------------------------


class Tiny(siamkit.Backbone):
    """A backbone that is right; the others differ from it in one thing."""

    def __init__(self, channels=3, size=None):
        super().__init__()
        self.channels, self.size = channels, size or SIZE
        self.one = nn.Sequential(nn.Conv2d(channels, 4, 3, 2), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(4, 8, 3, 2), nn.ReLU())

    def forward(self, images):
        return self.two(self.one(images)).mean((2, 3))

    @property
    def embedding_dim(self):
        return 8

    @property
    def preprocessing(self):
        return Preprocessing((0.5,) * self.channels, (0.5,) * self.channels, (self.size, self.size))

    def stages(self, granularity="stage"):
        return tuple(
            Stage(name, (f"{name}.0.weight", f"{name}.0.bias"), (name,), name)
            for name in ("one", "two")
        )


class WrongWidth(Tiny):
    embedding_dim = 9


class NotPooled(Tiny):
    def forward(self, images):
        return self.two(self.one(images))


class NotFinite(Tiny):
    def forward(self, images):
        return super().forward(images) / 0


class Noisy(Tiny):
    def forward(self, images):
        features = super().forward(images)
        return features + torch.randn_like(features)


class Unsaved(Tiny):
    def __init__(self, channels=3, size=None):
        super().__init__(channels, size)
        self.one.register_buffer("projection", torch.rand(8), persistent=False)


class BatchStatistics(Tiny):
    def forward(self, images):
        features = super().forward(images)
        return features - features.mean(0)


class Detached(Tiny):
    def forward(self, images):
        return super().forward(images).detach()


class HalfDetached(Tiny):
    def forward(self, images):
        return self.two(self.one(images).detach()).mean((2, 3))


class WrongChannels(Tiny):
    def __init__(self, channels=3, size=None):
        super().__init__(3, size)

    def forward(self, images):
        return super().forward(images.expand(-1, 3, -1, -1))


class Unused(Tiny):
    def __init__(self, channels=3, size=None):
        super().__init__(channels, size)
        self.third = nn.Linear(2, 2)

    def stages(self, granularity="stage"):
        return (*super().stages(), Stage("third", ("third.weight", "third.bias"), ("third",)))


def staged(change):
    class Staged(Tiny):
        def stages(self, granularity="stage"):
            return change(super().stages())

    return Staged


def tiny(options, context):
    return Tiny(context.in_chans, context.image_size)


ONE_BLOCK = (Stage("one.0", ("one.0.weight",), ("one.0",)),)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (WrongWidth, r"in_chans=3: expected embedding_dim 8, like the width of forward; got 9"),
        (NotPooled, r"features \[N, D\]: pool and flatten them; got \(2, 8, 3, 3\)"),
        (NotFinite, "finite features"),
        (Noisy, "the same features for the same images in eval mode"),
        (
            Unsaved,
            r"persistent=False that follow from the options; got other values in \['one.proj",
        ),
        (BatchStatistics, "features that do not depend on the other images in eval mode"),
        (Detached, "features that gradients flow through"),
        (HalfDetached, r"a gradient for each parameter that takes part; got none for \['one.0"),
        (Unused, "gradients in 'third'; got none for any of its parameters"),
        (WrongChannels, "in_chans=1: expected preprocessing for 1 channels; got 3"),
        (staged(lambda s: s[:1]), r"every parameter in a stage; got \['two.0.bias'"),
        (staged(lambda s: s[::-1]), r"stages in execution order, \['one', 'two'\]; got \['two'"),
        (staged(lambda s: (s[0], replace(s[1], name="one"))), "different names"),
        (staged(lambda s: (s[0], replace(s[1], name="head"))), "no stage named 'head'"),
        (
            staged(lambda s: (s[0], replace(s[1], parameters=s[0].parameters + s[1].parameters))),
            r"each parameter in one stage; got \['one.0.bias', 'one.0.weight'\] in several",
        ),
        (
            staged(lambda s: (s[0], replace(s[1], parameters=(*s[1].parameters, "two.9")))),
            r"names of the backbone's parameters; got \['two.9'\]",
        ),
        (
            staged(lambda s: (s[0], replace(s[1], modules=("too",)))),
            r"'two' to name only modules of the backbone; got \['too'\]",
        ),
        (
            staged(
                lambda s: (replace(s[0], modules=s[1].modules), replace(s[1], modules=s[0].modules))
            ),
            "the module of 'one.0.weight' in 'one', like the parameter; got a module in 'two'",
        ),
        (
            staged(lambda s: (replace(s[0], norms=frozenset(["two.0.bias"])), s[1])),
            "norms of 'one' that are its parameters",
        ),
        (
            staged(lambda s: (replace(s[0], blocks=ONE_BLOCK), s[1])),
            "the blocks of 'one' to contain each of its parameters once",
        ),
    ],
)
def test_backbones(register, backbone, message):
    register("backbones", tiny, "right")
    testing.check_backbone("right")
    register("backbones", lambda options, context: backbone(context.in_chans, context.image_size))
    fails(testing.check_backbone, "wrong", match=message)


def test_a_plain_module_is_a_backbone(register):
    def build(options, context):
        return nn.Sequential(
            nn.Conv2d(context.in_chans, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )

    register("backbones", build, "plain")
    testing.check_backbone("plain")


# --- freeze policies -----------------------------------------------------------------------------


class Policy(FreezePolicy):
    def __init__(self):
        self.calls = 0

    def plan(self, stages, progress):
        return FreezePlan.of(stages, [])


class Counting(Policy):
    def plan(self, stages, progress):
        self.calls += 1
        return FreezePlan.of(stages, [stages[0].name] if self.calls > 3 else [])


class Drawing(Policy):
    def plan(self, stages, progress):
        return FreezePlan.of(stages, [], lr_mult={stages[0].name: torch.rand(()).item()})


class Mutating(Policy):
    def plan(self, stages, progress):
        if len(stages) > 2:
            stages.pop(0)
        return FreezePlan.of(stages, [])


class Headless(Policy):
    def plan(self, stages, progress):
        return FreezePlan.of(stages, [stages[0].name], head=False)


class MetricDriven(Policy):
    def plan(self, stages, progress):
        better = progress.history[1:] and progress.monitored[-1] > progress.monitored[0]
        return FreezePlan.of(stages, [stages[0].name] if better else [])


class Declared(MetricDriven):
    metric_driven = True


def planning(make):
    class Planned(Policy):
        def plan(self, stages, progress):
            return make(FreezePlan.of(stages, []), stages)

    return Planned


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Counting, r"epochs, \w+: epoch \d+: expected the same plan for the same progress"),
        (Drawing, "the same plan for the same progress, whatever the earlier calls"),
        (Mutating, "that does not change its stages|the same plan"),
        (Headless, "the head to train in at least one epoch; got a head that never trains"),
        (MetricDriven, "plans that ignore the history, or metric_driven = True"),
        (planning(lambda plan, stages: set(plan.trainable)), "plan to return a FreezePlan"),
        (
            planning(lambda plan, _: replace(plan, trainable=plan.trainable | {"fc.weight"})),
            r"trainable with names of parameters in the stages; got \['fc.weight'\]",
        ),
        (
            planning(lambda plan, _: replace(plan, lr_mult={"layer9": 1.0})),
            r"lr_mult with the names of the stages as keys; got \['layer9'\]",
        ),
        (
            planning(lambda plan, _: replace(plan, lr_mult={"head": math.inf})),
            "rate multipliers that are finite and not negative; got {'head': inf}",
        ),
        (
            planning(lambda plan, _: replace(plan, lr_mult={"head": -1.0})),
            "rate multipliers that are finite and not negative; got {'head': -1.0}",
        ),
        (planning(lambda plan, _: replace(plan, norm="eval")), "norm to be one of .*; got eval"),
        (dict, "build to return a FreezePolicy"),
    ],
)
def test_freeze_policies(register, policy, message):
    register("backbones", tiny, "tiny")
    register("freeze_policies", lambda options: policy())
    fails(testing.check_freeze_policy, "wrong", backbone="tiny", match=message)


@pytest.mark.parametrize("policy", [Policy, Declared])
def test_right_freeze_policies_pass(register, policy):
    register("backbones", tiny, "tiny")
    register("freeze_policies", lambda options: policy(), "right")
    testing.check_freeze_policy("right", backbone="tiny")


# --- losses --------------------------------------------------------------------------------------


class Right(Loss):
    """Within-class scatter, over between-class scatter: right, and takes no tuples."""

    def forward(self, embeddings, labels, tuples=None):
        if labels is None:
            raise ConfigError("loss 'right' needs labels")
        distance = (embeddings[:, None] - embeddings[None]).square().sum(-1)
        same = labels[:, None] == labels[None]
        return (distance * same).mean() - (distance * ~same).mean()


class Zero(Right):
    def forward(self, embeddings, labels, tuples=None):
        return torch.zeros(())


class PerItem(Right):
    def forward(self, embeddings, labels, tuples=None):
        return embeddings.sum(1)


class Ordered(Right):
    def forward(self, embeddings, labels, tuples=None):
        return super().forward(embeddings[:4], labels if labels is None else labels[:4])


class Random(Right):
    def forward(self, embeddings, labels, tuples=None):
        return super().forward(embeddings, labels) * torch.rand(())


class Changing(Right):
    def forward(self, embeddings, labels, tuples=None):
        embeddings.data.mul_(1.01)
        return super().forward(embeddings, labels)


class DividesByNegatives(Right):
    def forward(self, embeddings, labels, tuples=None):
        value = super().forward(embeddings, labels)
        return value / (labels[:, None] != labels[None]).float().mean()


class RootOfZero(Right):
    def forward(self, embeddings, labels, tuples=None):
        if labels is None:
            raise ConfigError("loss 'wrong' needs labels")
        distance = (embeddings[:, None] - embeddings[None]).square().sum(-1)
        off = ~torch.eye(len(labels), dtype=torch.bool)
        same = (labels[:, None] == labels[None]) & off
        return (
            distance[same].sqrt().sum() - distance[off & ~same].sqrt().sum()
        ) + 0 * distance.sum()


class LooseZero(Right):
    def forward(self, embeddings, labels, tuples=None):
        if labels is not None and len(set(labels.tolist())) == 1:
            return torch.zeros((), requires_grad=True)
        return super().forward(embeddings, labels)


class Flat(Right):
    def forward(self, embeddings, labels, tuples=None):
        return (embeddings * 0).sum()


class IdleParameter(Right):
    def __init__(self):
        super().__init__()
        self.proxies = nn.Parameter(torch.zeros(4, 8))


class CrashesOnTuples(Right):
    def forward(self, embeddings, labels, tuples=None):
        labels.sum()
        return super().forward(embeddings, labels)


class IgnoresEmptyTuples(Right):
    def forward(self, embeddings, labels, tuples=None):
        if tuples is not None:
            return embeddings.square().mean() * embeddings.sum()
        return super().forward(embeddings, labels)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Zero, "a value connected to the embeddings, also if it is zero"),
        (PerItem, "a scalar tensor"),
        (Ordered, "for the batch in another order too"),
        (Random, "the same value for the same batch"),
        (Changing, "does not change the embeddings in place"),
        (DividesByNegatives, "one class: expected a finite value; got (nan|inf)"),
        (RootOfZero, "identical embeddings: expected finite gradients"),
        (LooseZero, "one class: expected a value connected to the embeddings"),
        (Flat, "a nonzero gradient for random embeddings"),
        (IdleParameter, r"each of the loss's own parameters; got none for \['proxies'\]"),
        (CrashesOnTuples, "pairs: expected a value, or ConfigError .*; got AttributeError"),
        (IgnoresEmptyTuples, "no pairs: expected zero"),
        (dict, "build to return a Loss"),
    ],
)
def test_losses(register, loss, message):
    register("losses", lambda options, context: loss())
    fails(testing.check_loss, "wrong", match=message)


def test_a_right_loss_passes_and_the_callers_random_numbers_stay(register):
    register("losses", lambda options, context: Right(), "right")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    testing.check_loss("right")
    assert torch.equal(torch.rand(3), expected)


# --- schedulers ----------------------------------------------------------------------------------


class Constant(Scheduler):
    def lr_scale(self, progress):
        return 1.0


class CountingScale(Scheduler):
    def __init__(self):
        self.calls = itertools.count()

    def lr_scale(self, progress):
        return 0.9 ** next(self.calls)


def scaling(make):
    class Scaled(Scheduler):
        def lr_scale(self, progress):
            return make(progress)

    return Scaled


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            CountingScale,
            "1 epoch, 7 steps per epoch, rising: expected the same scale for the same",
        ),
        (scaling(lambda p: 0.5 - p.fraction), "a finite number that is not negative"),
        (scaling(lambda p: math.inf), "a finite number that is not negative"),
        (scaling(lambda p: None), "a finite number that is not negative"),
        (scaling(lambda p: 0.0), "a scale above zero in at least one step"),
        (dict, "build to return a Scheduler"),
    ],
)
def test_schedulers(register, scheduler, message):
    register("schedulers", lambda options: Constant(), "right")
    testing.check_scheduler("right")
    register("schedulers", lambda options: scheduler())
    fails(testing.check_scheduler, "wrong", match=message)


# --- trackers ------------------------------------------------------------------------------------


class Notes:
    """A tracker that writes nothing; subclasses are wrong in one way."""

    def __init__(self, options):
        self.started = False

    def __call__(self, event):
        if event.name == "run_start":
            self.started = True


class FailsAtNotice(Notes):
    def __call__(self, event):
        super().__call__(event)
        if event.name == "notice" and not self.started:
            raise RuntimeError("not started")


class FailsWhenResumed(Notes):
    def __call__(self, event):
        if event.name == "run_start" and event.data["finished_steps"]:
            raise FileExistsError("there already")


class FailsAtTheUnknown(Notes):
    def __call__(self, event):
        known = ("notice", "run_start", "phase_start", "fill", "engine", "untrained", "step",
                 "epoch_end", "checkpoint", "early_stop", "non_finite", "run_end")  # fmt: skip
        known.index(event.name)


class ClosesWhatIsNotOpen(Notes):
    def close(self):
        if not self.started:
            raise AttributeError("writer")


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        (lambda options: None, "build to return a callable that takes an event; got None"),
        (FailsAtNotice, r"a run: expected no error at 'notice'; got RuntimeError"),
        (FailsWhenResumed, r"a resumed run: expected no error at 'run_start'; got FileExistsError"),
        (FailsAtTheUnknown, r"no error at 'something_new'"),
        (ClosesWhatIsNotOpen, r"a run that never started: expected no error in close\(\)"),
    ],
)
def test_trackers(register, tracker, message):
    register("trackers", Notes, "right")
    testing.check_tracker("right")
    register("trackers", tracker)
    fails(testing.check_tracker, "wrong", match=message)


@pytest.mark.slow
def test_the_events_that_trackers_are_checked_with_are_those_of_a_run(run_values, tmp_path):
    from siamkit.testing.trackers import run_events

    real, kit = {}, {event.name: event.data for event in run_events(tmp_path)}
    siamkit.fit(run_values(), listeners=[lambda event: real.setdefault(event.name, event.data)])
    assert {"run_start", "phase_start", "untrained", "step", "epoch_end", "run_end"} <= real.keys()
    for name in real.keys() - {"engine", "notice", "fill"}:
        missing = real[name].keys() - kit[name].keys()
        assert not missing, f"{name}: {missing}"
