"""What a plugin does wrong in a run names it; what is not its fault passes."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import siamkit
from siamkit import api, plugins
from siamkit.errors import CheckpointError, ConfigError, PluginError, calling
from siamkit.freezing.schedule import FreezeSchedule
from siamkit.guard import _MARK, _reaches_mark, guard, name_of
from siamkit.interfaces import FreezePlan, FreezePolicy, Loss, Scheduler, Stage
from siamkit.registry import Entry

WHOSE = "thing 'x' of siamkit-mine"
STAGES = (Stage("stem", ("a",)), Stage("head", ("b",)))


@dataclass(frozen=True)
class Planned(FreezePolicy):
    """A policy that answers with what it is given; frozen, so that it refuses assignment."""

    answer: object

    def plan(self, stages, progress):
        return self.answer(progress) if callable(self.answer) else self.answer


class Scaled(Scheduler):
    def __init__(self, answer):
        self.answer = answer

    def lr_scale(self, progress):
        return self.answer(progress) if callable(self.answer) else self.answer


class Summed(Loss):
    def __init__(self, answer=None):
        super().__init__()
        self.proxies = nn.Parameter(torch.zeros(2))
        self.answer = answer

    def forward(self, embeddings, labels, tuples=None):
        return self.answer() if self.answer else embeddings.sum() + self.proxies.sum()


class Stuck(torch.optim.SGD):
    def step(self, closure=None):
        raise RuntimeError("stuck")


def raises(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), GeneratorExit(), KeyError(1)])
def test_whatever_is_raised_names_the_plugin(error):
    with pytest.raises(PluginError, match=f"{WHOSE} failed: {type(error).__name__}") as caught:
        with calling(WHOSE):
            raise error
    assert caught.value.__cause__ is error and caught.value.exit_code == 5


@pytest.mark.parametrize(
    "error",
    [ConfigError("x"), CheckpointError("x"), KeyboardInterrupt(), MemoryError(),
     torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
     RuntimeError("CUDA error: out of memory")],
)  # fmt: skip
def test_what_is_not_the_plugins_fault_passes(error):
    with pytest.raises(type(error)) as caught, calling(WHOSE):
        raise error
    assert caught.value is error


def test_each_interface_is_guarded_and_stays_what_it_is():
    policy, scheduler, loss = Planned(raises(OSError())), Scaled(raises(OSError())), Summed()
    before = dict(loss.state_dict())
    for made in (policy, scheduler, loss):
        assert guard(made, WHOSE) is made
        assert name_of(made, "other") == WHOSE
    assert name_of(Summed(), "other") == "other"
    with pytest.raises(PluginError, match=f"{WHOSE} failed: OSError"):
        policy.plan(STAGES, siamkit.Progress(0, 1))
    with pytest.raises(PluginError, match=f"{WHOSE} failed: OSError"):
        scheduler.lr_scale(siamkit.Progress(0, 1))
    assert loss.state_dict().keys() == before.keys()
    embeddings = torch.ones(2, 2, requires_grad=True)
    copy.deepcopy(loss)(embeddings, None).backward()
    assert embeddings.grad is not None


def test_what_is_guarded_already_is_not_guarded_twice():
    loss = guard(Summed(), WHOSE)
    forward = loss.forward
    assert guard(loss, "another").forward is forward


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf"), None, "1", torch.ones(2)])
def test_a_scale_that_is_none_is_refused(scale):
    scheduler = guard(Scaled(scale), WHOSE)
    with pytest.raises(PluginError, match=f"{WHOSE}: lr_scale must return a finite number"):
        scheduler.lr_scale(siamkit.Progress(0, 1))


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_scheduler_with_a_state_is_caught_and_a_pure_one_is_asked_twice_per_epoch(epochs):
    asked = itertools.count()
    stateful = guard(Scaled(lambda progress: 1.0 + next(asked)), WHOSE)
    for _ in range(2):  # a forecast that swallowed the error must not hide it
        with pytest.raises(PluginError, match=f"{WHOSE}: lr_scale returned two different"):
            stateful.lr_scale(siamkit.Progress(0, epochs))
    seen = []
    pure = guard(Scaled(lambda progress: seen.append(progress.step) or 0.5), WHOSE)
    for step in range(6):
        pure.lr_scale(siamkit.Progress(step // 3, 2, step, 6))
    assert seen == [0, 0, 1, 2, 3, 3, 4, 5]


def test_a_policy_that_changes_its_mind_during_a_run_is_caught():
    asked = itertools.count()

    def plan(progress):  # alike twice in a row, so nothing else would see it
        return FreezePlan(frozenset("ab" if next(asked) >= 4 else "b"))

    schedule = FreezeSchedule(guard(Planned(plan), WHOSE), STAGES, 3)
    assert schedule.plan_at(0) == schedule.plan_at(0)
    with pytest.raises(
        PluginError, match=f"{WHOSE}: plan returned different plans for epoch 1 of 3"
    ):
        schedule.plan_at(0)


def test_the_same_question_with_another_history_or_network_may_have_another_answer():
    policy = guard(Planned(lambda p: FreezePlan(frozenset("ab"[len(p.history) :]))), WHOSE)
    assert FreezeSchedule(policy, STAGES, 3).plan_at(1, [{"recall@1": 0.5}])
    assert FreezeSchedule(policy, STAGES, 3).plan_at(1, [])
    assert FreezeSchedule(policy, (*STAGES, Stage("c", ("c",))), 3).plan_at(1, [])


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (FreezePlan(frozenset("b"), {"stem": [1]}), "cannot be compared"),
        (FreezePlan(frozenset("b"), {"stem": "1"}), "rate multiplier of 'stem' must be finite"),
        (FreezePlan(frozenset("b"), norm="eval"), "unknown norm mode"),
        (FreezePlan(frozenset({"b", 1})), "trains a parameter that no stage has"),
        (None, "plan must return a FreezePlan"),
    ],
)
def test_a_plan_that_is_none_names_the_plugin(plan, message):
    with pytest.raises(PluginError, match=message) as caught:
        FreezeSchedule(guard(Planned(plan), WHOSE), STAGES, 1).plan_at(0)
    assert WHOSE in str(caught.value)


# --- in a run ------------------------------------------------------------------------------------


@pytest.fixture
def mine(monkeypatch):
    """Register an entry of ``siamkit-mine``, as ``mine``."""

    def add(kind, build, options=siamkit.Options):
        registry = plugins.get().registries[kind]
        entry = Entry("mine", build, options, distribution="siamkit-mine")
        monkeypatch.setitem(registry.entries, "mine", entry)
        return entry

    return add


@pytest.mark.parametrize(
    ("kind", "section", "build"),
    [
        ("freeze_policies", "freeze", lambda o: Planned(lambda p: {}[p.epoch])),
        ("schedulers", "scheduler", lambda o: Scaled(lambda p: [1.0][p.epoch])),
        ("losses", "loss", lambda o, c: Summed(raises(SystemExit(4)))),
        ("losses", "loss", lambda o, c: Summed(lambda: torch.ones(3))),
        ("backbones", "backbone", lambda o, c: raises(GeneratorExit())()),
        ("optimizers", "optimizer", lambda o, groups: Stuck(groups, lr=0.1)),
    ],
)
def test_a_run_names_the_plugin_that_stopped_it(mine, run_values, kind, section, build):
    mine(kind, build)
    with pytest.raises(PluginError, match="'mine' of siamkit-mine"):
        api.fit(run_values(**{section: {"name": "mine"}}))


def test_an_option_check_that_crashes_names_the_plugin(mine, run_values):
    class Broken(siamkit.Options):
        def model_post_init(self, context):
            raise KeyError("oops")

    mine("schedulers", lambda options: Scaled(1.0), Broken)
    with pytest.raises(PluginError, match="'mine' of siamkit-mine failed to check its options"):
        api.load_config({"scheduler": "mine"})


def test_a_run_whose_plugin_is_missing_says_what_to_install(mine, run_values, monkeypatch):
    mine("schedulers", lambda options: Scaled(1.0))
    mine("trackers", lambda options: lambda event: None)
    values = run_values(scheduler={"name": "mine"}, track=["mine"], train={"epochs": 1})
    run_dir = api.fit(values)["run_dir"]
    message = "'mine' came from distribution 'siamkit-mine', which is not installed here"
    monkeypatch.delitem(plugins.get().trackers.entries, "mine")
    with pytest.raises(PluginError, match=f"config.yaml: track.*tracker {message}"):
        api.resume(run_dir)
    api.load_embedder(
        run_dir, device="cpu", workers=0
    )  # a tracker is not needed to use the network
    monkeypatch.delitem(plugins.get().schedulers.entries, "mine")
    for use in (api.resume, api.load_model, api.load_embedder, api.evaluate, api.inspect):
        with pytest.raises(PluginError, match=f"scheduler {message}; pip install siamkit-mine"):
            use(run_dir)


def test_a_name_that_its_distribution_no_longer_has(mine, run_values, monkeypatch):
    entry = mine("schedulers", lambda options: Scaled(1.0))
    monkeypatch.setitem(
        plugins.get().schedulers.entries, "mine", Entry("mine", entry.build, distribution="torch")
    )
    run_dir = api.fit(run_values(scheduler={"name": "mine"}, train={"epochs": 1}))["run_dir"]
    monkeypatch.delitem(plugins.get().schedulers.entries, "mine")
    with pytest.raises(PluginError, match=r"the installed version .* does not register"):
        api.load_model(run_dir)


def test_a_loss_may_change_its_embeddings_in_place():
    class Doubles(Loss):
        def forward(self, embeddings, labels, tuples=None):
            return embeddings.mul_(2.0).sum()

    embeddings = torch.ones(3, 2, requires_grad=True)
    guard(Doubles(), WHOSE)(embeddings, None).backward()
    assert torch.equal(embeddings.grad, torch.full((3, 2), 2.0))
    assert torch.equal(embeddings, torch.ones(3, 2))


def test_a_node_depends_on_what_is_marked_whatever_else_it_takes():
    marked, other = (torch.ones(2, requires_grad=True) * 1 for _ in range(2))
    marked.grad_fn.metadata[_MARK] = True
    for value in (marked * torch.ones(2), torch.ones(2) * marked, (other * marked) + other):
        assert _reaches_mark(value.grad_fn)
    assert not _reaches_mark((other * torch.ones(2) + other).grad_fn)
