"""Freezing works on any module: classifiers, wrapped networks, tied weights, TorchScript."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import siamkit.freezing
from siamkit import plugins
from siamkit.engine import cut
from siamkit.errors import ConfigError
from siamkit.freezing import FreezeController, discover_stages, tied_parameters
from siamkit.freezing.hold import is_held
from siamkit.freezing.proof import fingerprints
from siamkit.interfaces import FreezePlan, Progress, Stage

IMAGE = torch.zeros(1, 3, 32, 32)


def conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU())


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(4, 8)
        self.fc = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.b(self.a(images)).mean((2, 3)))


def trainable(net: nn.Module) -> set[str]:
    return {name for name, p in net.named_parameters() if p.requires_grad}


# --- a plain loop --------------------------------------------------------------------------------


def test_a_loop_over_a_plain_classifier_trains_the_head_and_nothing_else() -> None:
    net = Classifier()
    stages = discover_stages(net, IMAGE, head="fc")
    controller = FreezeController(net, stages)
    controller.apply(FreezePlan.of(stages, []))
    assert trainable(net) == {"fc.weight", "fc.bias"}
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    for _ in range(3):
        net.train()
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(net(torch.randn(4, 3, 32, 32)), torch.arange(4) % 2).backward()
        optimizer.step()
    controller.verify("the end")
    moved = {n for n, value in net.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == {"fc.weight", "fc.bias"}


def test_freeze_all_trains_the_head_that_was_named() -> None:
    net = torchvision.models.resnet18()
    entry = plugins.get().freeze_policies.get("freeze-all")
    policy = entry.build(entry.validate({}, "freeze"))
    stages = discover_stages(net, IMAGE, head="fc")
    plan = policy.plan(stages, Progress(0, 1))
    assert plan.trainable == {"fc.weight", "fc.bias"}


# --- stages and plans that are not this network's ------------------------------------------------


def test_stages_of_another_network_are_refused() -> None:
    net = Classifier()
    stages = discover_stages(net, IMAGE, head="fc")
    with pytest.raises(ConfigError, match=r"leave out 2 of the network's.*got 'fc\.weight'"):
        FreezeController(net, stages[:-1])
    with pytest.raises(ConfigError, match=r"hold a parameter twice.*got 'a\.0\.weight'"):
        FreezeController(net, (*stages, stages[0]))
    wrong = Stage("head", ("fc.wieght", "fc.bias"))
    with pytest.raises(ConfigError, match=r"got 'fc\.wieght'.*did you mean 'fc\.weight'"):
        FreezeController(net, (*stages[:-1], wrong))


def test_a_plan_with_an_unknown_parameter_is_refused_before_anything_changes() -> None:
    net = Classifier()
    controller = FreezeController(net, discover_stages(net, IMAGE, head="fc"))
    with pytest.raises(ConfigError, match=r"got 'fc\.wieght'.*did you mean 'fc\.weight'"):
        controller.apply(FreezePlan(frozenset({"fc.wieght"})))
    assert trainable(net) == {name for name, _ in net.named_parameters()}


def test_a_parameter_without_values_cannot_be_proved() -> None:
    net = nn.Sequential(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ConfigError, match=r"no values yet.*meta"):
        FreezeController(net, [Stage("a", ("0.weight", "0.bias"))]).apply(FreezePlan(frozenset()))


# --- wrapped networks ----------------------------------------------------------------------------


def eager(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


WRAPPERS = {
    "torch.compile": eager,
    "DataParallel": nn.DataParallel,
    "both": lambda net: nn.DataParallel(eager(net)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("stages_of_the_wrapped", [True, False])
def test_a_wrapped_network_is_the_network(wrapper: str, stages_of_the_wrapped: bool) -> None:
    net = Classifier()
    wrapped = WRAPPERS[wrapper](net)
    stages = discover_stages(net, IMAGE, head="fc")
    assert discover_stages(wrapped, IMAGE, head="fc") == stages
    plain = FreezeController(net, stages)
    plain.apply(FreezePlan.of(stages, []))
    expected = dict(plain.fingerprints)
    source = wrapped if stages_of_the_wrapped else net
    controller = FreezeController(wrapped, discover_stages(source, IMAGE, head="fc"))
    controller.apply(FreezePlan.of(stages, []))
    assert trainable(net) == {"fc.weight", "fc.bias"}
    assert controller.fingerprints == expected
    assert fingerprints(wrapped, expected) == expected
    wrapped.train()
    assert all(is_held(m) and not m.training for m in net.a.modules())
    assert net.fc.training
    plain.verify("now")
    controller.verify("now")


@pytest.mark.parametrize("wrap", [eager, nn.DataParallel])
def test_a_part_that_is_wrapped_after_the_stages_were_discovered(wrap) -> None:
    net = Classifier()
    stages = discover_stages(net, IMAGE, head="fc")
    before = FreezeController(net, stages)
    before.apply(FreezePlan.of(stages, ["b"]))
    net.b = wrap(net.b)
    controller = FreezeController(net, stages)
    controller.apply(FreezePlan.of(stages, ["b"]))
    assert {id(p) for p in net.parameters() if p.requires_grad} == {
        id(p) for p in (*net.b.parameters(), *net.fc.parameters())
    }
    assert controller.fingerprints == before.fingerprints
    before.verify("now")


@pytest.mark.parametrize(
    "wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel], ids=["compile", "DP"]
)
@pytest.mark.parametrize("trains", [[], ["b"]], ids=["frozen", "trained"])
def test_a_network_with_a_wrapped_child_has_plain_names_and_is_cut_as_without(wrap, trains) -> None:
    net = Classifier()
    net.b = wrap(net.b)
    stages = discover_stages(net, IMAGE, head="fc")
    assert stages == discover_stages(Classifier(), IMAGE, head="fc")
    plan = FreezePlan.of(stages, ["head", *trains])
    FreezeController(net, stages).apply(plan)
    result = cut(net, stages, plan, torch.randn(3, 3, 32, 32))
    assert result.cut is not None
    assert result.cut.boundary.name == ("a" if trains else "b")


def test_names_as_the_wrapped_network_gives_them_are_understood() -> None:
    wrapped = eager(Classifier())
    stages = discover_stages(wrapped, IMAGE, head="_orig_mod.fc")
    controller = FreezeController(wrapped, stages)
    controller.apply(FreezePlan(frozenset({"_orig_mod.fc.weight"})))
    assert trainable(wrapped) == {"_orig_mod.fc.weight"}
    hand_made = [
        Stage("rest", tuple(n for n, _ in wrapped.named_parameters() if ".fc." not in n)),
        Stage("head", ("_orig_mod.fc.weight", "_orig_mod.fc.bias")),
    ]
    FreezeController(wrapped, hand_made).apply(FreezePlan.of(hand_made, []))
    assert trainable(wrapped) == {"_orig_mod.fc.weight", "_orig_mod.fc.bias"}


@pytest.fixture
def process_group(tmp_path: Path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel(process_group: None) -> None:
    net = Classifier()
    stages = discover_stages(net, IMAGE, head="fc")
    wrapped = nn.parallel.DistributedDataParallel(net)
    assert discover_stages(wrapped, IMAGE, head="module.fc") == stages
    controller = FreezeController(wrapped, stages)
    controller.apply(FreezePlan(frozenset({"module.fc.weight", "fc.bias"})))
    wrapped = nn.parallel.DistributedDataParallel(net).train()
    wrapped(torch.randn(4, 3, 32, 32)).sum().backward()
    assert {n for n, p in net.named_parameters() if p.grad is not None} == trainable(net)
    assert trainable(net) == {"fc.weight", "fc.bias"}
    controller.verify("now")
    assert FreezeController(wrapped, stages).sizes == controller.sizes


TWO_PROCESSES = """
import sys, torch
from torch import nn
from siamkit.errors import ConfigError
from siamkit.freezing import FreezeController, discover_stages
from siamkit.interfaces import FreezePlan

def main(rank, file):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    work(rank)

if __name__ == "__main__":
    torch.multiprocessing.spawn(main, args=(sys.argv[1],), nprocs=2)
"""

LIVE_WRAPPER = """
def work(rank):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    stages = discover_stages(net, torch.zeros(1, 3), head="1")
    FreezeController(net, stages).apply(FreezePlan.of(stages, []))
    wrapped = nn.parallel.DistributedDataParallel(net)
    controller = FreezeController(wrapped, stages)
    controller.apply(FreezePlan.of(stages, []))
    try:
        controller.apply(FreezePlan.of(stages, ["0"]))
    except ConfigError as error:
        assert "wrap that network again" in str(error), error
    else:
        raise AssertionError("unfrozen under a live wrapper")
"""


PHASES = """
def work(rank):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    stages = discover_stages(net, torch.zeros(1, 3), head="1")
    controller = FreezeController(net, stages)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    torch.manual_seed(1 + rank)  # each process has its own images
    for units in ([], ["0"], []):
        plan = FreezePlan.of(stages, units)
        controller.apply(plan)
        wrapped = nn.parallel.DistributedDataParallel(net)
        wrapped(torch.randn(4, 3)).square().sum().backward()
        trained = {name for name, p in net.named_parameters() if p.grad is not None}
        assert trained == plan.trainable, (trained, plan.trainable)
        for name in sorted(trained):
            own = dict(net.named_parameters())[name].grad
            every = [torch.empty_like(own) for _ in range(2)]
            torch.distributed.all_gather(every, own)
            assert own.any() and torch.equal(*every), name
        optimizer.step()
        controller.verify("the end of a phase")
"""


DIFFERENT_PLANS = """
def work(rank):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    stages = discover_stages(net, torch.zeros(1, 3), head="2")
    controller = FreezeController(net, stages)
    controller.apply(FreezePlan.of(stages, ["1"]))
    # The layers have the same shapes, so DistributedDataParallel would notice nothing.
    try:
        controller.apply(FreezePlan.of(stages, [str(rank)]))
    except ConfigError as error:
        assert "the processes 0 and 1 train different parameters" in str(error), error
        state = "frozen" if rank else "trained"
        assert f"0.bias, which is {state} in this process" in str(error), error
    else:
        raise AssertionError("different plans")
    assert controller.plan == FreezePlan.of(stages, ["1"])
    assert {n for n, p in net.named_parameters() if p.requires_grad} == controller.plan.trainable
"""


ALONE = """
def work(rank):
    if not rank:  # the other process has no such network
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
        stages = discover_stages(net, torch.zeros(1, 3), head="1")
        controller = FreezeController(net, stages, alone=True)
        controller.apply(FreezePlan.of(stages, []))
        assert not net[0].weight.requires_grad
    torch.distributed.barrier()
"""


NOT_A_NUMBER = """
def work(rank):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    stages = discover_stages(net, torch.zeros(1, 3), head="1")
    controller = FreezeController(net, stages)
    controller.apply(FreezePlan.of(stages, []))
    wrapped = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    images = torch.randn(4, 3)
    steps = 0
    for step in range(4):
        bad = float("nan") if (rank, step) == (1, 2) else 1.0
        (wrapped(images).square().sum() * bad).backward()
        try:
            nn.utils.clip_grad_norm_(net.parameters(), 1.0, error_if_nonfinite=True)
        except RuntimeError:
            break
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    assert steps == 2, steps
    assert all(p.isfinite().all() for p in net.parameters())
    controller.verify("the end")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(LIVE_WRAPPER, id="unfreezing under a live wrapper is refused"),
        pytest.param(PHASES, id="gradients are equal at the first step of each phase"),
        pytest.param(DIFFERENT_PLANS, id="different plans are refused in each process"),
        pytest.param(ALONE, id="a network that one process has alone"),
        pytest.param(NOT_A_NUMBER, id="NaN in one process stops all in the same step"),
    ],
)
def test_several_processes(code: str, tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(code + TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "group")],
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# --- tied weights --------------------------------------------------------------------------------


class Tied(nn.Module):
    """A network with a weight that has the deep layer's name, but is used in an early one first."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv2d(4, 4, 3, padding=1)
        self.stem = conv(3, 4)
        self.early = nn.Conv2d(4, 4, 3, padding=1)
        self.mid = conv(4, 4)
        self.early.weight = self.deep.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.deep(self.mid(self.early(self.stem(images)))).mean((2, 3))


def test_a_tied_weight_counts_once_in_the_stage_that_uses_it_first() -> None:
    net = Tied()
    stages = discover_stages(net, IMAGE)
    assert tied_parameters(net) == {"deep.weight": ("early.weight",)}
    assert [(s.name, s.modules) for s in stages] == [
        ("stem", ("stem",)), ("early", ("early",)), ("mid", ("mid",)), ("deep", ("deep",)),
    ]  # fmt: skip
    assert stages[1].parameters == ("deep.weight", "early.bias")
    assert stages[3].parameters == ("deep.bias",)
    controller = FreezeController(net, stages)
    assert sum(controller.sizes.values()) == sum(p.numel() for p in net.parameters())


def test_freezing_a_tied_weight_freezes_both_uses_and_either_name_trains_it() -> None:
    net = Tied()
    stages = discover_stages(net, IMAGE)
    controller = FreezeController(net, stages)
    controller.apply(FreezePlan.of(stages, ["deep"]))
    assert not net.deep.weight.requires_grad and net.deep.bias.requires_grad
    assert "deep.weight" in controller.fingerprints
    for name in ("deep.weight", "early.weight"):
        controller.apply(FreezePlan(frozenset({name})))
        assert net.early.weight.requires_grad and trainable(net) == {"deep.weight"}


def test_stages_by_hand_may_name_a_tied_weight_once_by_either_name() -> None:
    net = Tied()
    rest = tuple(n for n, _ in net.named_parameters() if n != "deep.weight")
    stages = [Stage("rest", rest), Stage("tied", ("early.weight",))]
    controller = FreezeController(net, stages)
    controller.apply(FreezePlan.of(stages, ["tied"]))
    assert trainable(net) == {"deep.weight"}
    with pytest.raises(ConfigError, match=r"twice; .*belongs only to the first stage"):
        FreezeController(net, [*stages, Stage("again", ("deep.weight",))])


# --- TorchScript ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_freezes_as_one_stage() -> None:
    net = torch.jit.script(Classifier())
    stages = discover_stages(net, IMAGE, head="fc")
    assert [(s.name, s.output) for s in stages] == [("stem", None), ("head", None)]
    assert stages[0].norms == {"a.1.weight", "a.1.bias", "b.1.weight", "b.1.bias"}
    controller = FreezeController(net, stages)
    controller.apply(FreezePlan.of(stages, []))
    net.train()
    net(torch.randn(4, 3, 32, 32)).sum().backward()
    controller.verify("now")
    assert {n for n, p in net.named_parameters() if p.grad is not None} == {"fc.weight", "fc.bias"}


# --- the public names ----------------------------------------------------------------------------


def test_the_public_names_resolve_and_load_on_first_use() -> None:
    for name in siamkit.freezing.__all__:
        assert getattr(siamkit.freezing, name).__doc__
    assert dir(siamkit.freezing) == siamkit.freezing.__all__
    with pytest.raises(AttributeError, match="no attribute 'discover'"):
        siamkit.freezing.discover  # noqa: B018
    code = "import siamkit.freezing, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
