from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from operator import methodcaller

import pytest
import torch
from torch import nn

from siamkit.freezing import FreezeController, discover_stages
from siamkit.freezing.hold import hold, is_held, release, unheld
from siamkit.interfaces import FreezePlan


@pytest.fixture
def nested() -> nn.Sequential:
    return nn.Sequential(nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)), nn.Linear(3, 3))


def test_a_held_module_stays_in_eval_whichever_ancestor_is_trained(nested: nn.Sequential) -> None:
    norm = nested[0][0]
    hold(norm)
    for ancestor in (nested, nested[0], norm, nn.Sequential(nested)):
        ancestor.train()
        assert not norm.training
    assert nested[0][1].training, "only what is held is kept in eval"


def test_a_released_module_follows_train_again(nested: nn.Sequential) -> None:
    norm = nested[0][0]
    hold(norm)
    release(norm, training=True)
    assert norm.training and not is_held(norm)
    nested.eval()
    assert not norm.training
    nested.train()
    assert norm.training


def test_a_copy_of_a_held_module_is_held_by_itself(nested: nn.Sequential) -> None:
    hold(nested[0][0])
    twin = copy.deepcopy(nested)
    twin.train()
    assert not twin[0][0].training
    release(twin[0][0], training=True)
    assert is_held(nested[0][0])


def test_a_held_batch_norm_keeps_its_statistics(nested: nn.Sequential) -> None:
    norm = nested[0][0]
    hold(norm)
    nested.train()(torch.randn(8, 3))
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert norm.num_batches_tracked == 0


def test_a_module_that_overrides_train_is_held_and_released_by_it() -> None:
    class Merges(nn.Linear):
        merged = False

        def train(self, mode: bool = True) -> Merges:
            self.merged = not mode
            return super().train(mode)

    layer = Merges(2, 2)
    hold(layer)
    assert layer.merged and not layer.training
    release(layer, training=True)
    assert not layer.merged and layer.training


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_module_whose_train_only_raises_can_be_held() -> None:
    exported = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)).module()
    hold(exported)
    assert not exported.training and is_held(exported)


# --- copies --------------------------------------------------------------------------------------


def saved(net: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "torch.save": saved,
    **{f"pickle {n}": lambda net, n=n: pickle.loads(pickle.dumps(net, n)) for n in range(2, 6)},
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_held_and_independent_of_the_original(nested: nn.Sequential, how: str) -> None:
    for module in nested[0].modules():
        hold(module)
    twin = COPIES[how](nested)
    twin.train()
    assert [m.training for m in twin.modules()] == [True, False, False, False, True]
    assert [is_held(m) for m in twin.modules()] == [is_held(m) for m in nested.modules()]
    norm = twin[0][0]
    assert norm.train() is norm and norm.eval() is norm, "train() is the copy's own"
    for module in twin.modules():
        release(module, training=True)
    twin.train()
    assert all(m.training for m in twin.modules())
    assert not any(m.training for m in nested.train()[0].modules())


def test_a_held_module_by_itself_is_copied_too() -> None:
    norm = nn.BatchNorm1d(3)
    hold(norm)
    assert is_held(pickle.loads(pickle.dumps(norm)))
    assert saved(norm).train().training is False


def test_a_new_controller_unfreezes_a_copy_and_leaves_the_original_frozen() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5)))
    stages = discover_stages(net, torch.zeros(1, 3, 8, 8))
    FreezeController(net, stages).apply(FreezePlan.of(stages, []))
    twin = copy.deepcopy(net)
    everything = FreezePlan.of(stages, [stage.name for stage in stages], norm="train")
    FreezeController(twin, stages).apply(everything)
    twin.train()(torch.randn(4, 3, 8, 8)).sum().backward()
    net.train()(torch.randn(4, 3, 8, 8))
    assert twin[1][0].num_batches_tracked == 1 and net[1][0].num_batches_tracked == 0
    assert all(p.grad is not None for p in twin.parameters())


def test_a_graph_module_pickles_and_its_layers_stay_held(nested: nn.Sequential) -> None:
    graph = torch.fx.symbolic_trace(nested)
    for module in graph.modules():
        hold(module)
    for twin in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        assert not any(m.training for m in twin.train().modules() if not list(m.children()))


@pytest.mark.slow
def test_a_held_network_goes_to_another_process(nested: nn.Sequential) -> None:
    for module in nested[0].modules():
        hold(module)
    # A pool of `multiprocessing` would wait for ever where its process cannot read the network.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        twin = pool.submit(methodcaller("train"), nested).result(timeout=120)
    assert [module.training for module in twin.modules()] == [True, False, False, False, True]


def test_a_held_network_is_exported_and_compiled(nested: nn.Sequential) -> None:
    for module in nested.modules():
        hold(module)
    x = torch.randn(4, 3)
    expected = nested(x)
    exported = torch.export.export(nested, (x,)).module()
    compiled = torch.compile(nested, backend="eager")
    torch.testing.assert_close(exported(x), expected)
    torch.testing.assert_close(compiled(x), expected)
    compiled.train()
    assert not any(module.training for module in nested.modules())


def test_the_modules_that_are_not_held_are_listed() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert unheld(net) == [net, net[0], net[1]]
    hold(net[1])
    assert unheld(net) == [net, net[0]]
