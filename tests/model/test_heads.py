"""Any module as a head: its width is probed, and what gives no embeddings is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from siamkit.errors import PluginError
from siamkit.model.heads import Head, as_head


def test_a_module_becomes_a_head_of_the_width_that_it_gives() -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    head = as_head(module, 6, "mine")
    assert isinstance(head, Head) and head.embedding_dim == 4
    assert as_head(head, 6, "mine") is head
    assert module.training and int(module[1].num_batches_tracked) == 0, "as it was"
    assert as_head(nn.Identity(), 6, "mine").embedding_dim == 6
    assert as_head(nn.Linear(6, 4).double(), 6, "mine").embedding_dim == 4


class Giving(nn.Module):
    """A module that gives a value whatever it gets."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, features: Tensor) -> Any:
        return self.value


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (max, "mine: build must return a torch.nn.Module, got 'builtin_function_or_method'"),
        (nn.Linear(5, 4), r"mine: the forward failed on features \[2, 6\]: RuntimeError"),
        (Giving((1, 2)), "mine: the forward must return embeddings"),
        (Giving(torch.zeros(2)), "mine: the forward must return embeddings"),
        (Giving(torch.zeros(3, 4)), "mine: the forward must return embeddings"),
        (Giving(torch.zeros(2, 4, 1)), "mine: the forward must return embeddings"),
    ],
)
def test_what_gives_no_embeddings_is_refused(module: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        as_head(module, 6, "mine")


class Solvable(nn.Linear):
    """A layer with a closed form: the mean features of the classes, and a bias of ``bias``."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__(2, 2)
        self.of = bias

    def closed_form(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        means = [features[labels == label].mean(0) for label in labels.unique()]
        return {"weight": torch.stack(means), "bias": torch.full((2,), self.of)}


def test_the_closed_form_of_a_head_is_that_of_its_one_module_that_has_one() -> None:
    head = Head(2, nn.ReLU(), Solvable(0.5), nn.Identity())
    assert head.closed_form is not None
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    state = head.closed_form(features, torch.tensor([0, 0, 1]))
    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        "1.weight": [[2.0, 0.0], [0.0, 5.0]], "1.bias": [0.5, 0.5],
    }  # fmt: skip
    head.load_state_dict(dict(state))


@pytest.mark.parametrize("layers", [(), (nn.Linear(2, 2),), (Solvable(), Solvable())])
def test_a_head_of_no_or_several_closed_forms_has_none(layers: tuple[nn.Module, ...]) -> None:
    assert Head(2, *layers).closed_form is None


def test_a_computed_head_has_no_parameters_and_the_same_state() -> None:
    head = Head(2, nn.ReLU(), Solvable(0.5))
    before, features = dict(head.state_dict()), torch.randn(3, 2)
    expected = head(features).detach()
    assert not head.computed
    head.hold_computed()
    assert head.computed and not list(head.parameters())
    assert head.state_dict().keys() == before.keys()
    torch.testing.assert_close(head(features), expected)
    head.load_state_dict({name: 2 * tensor for name, tensor in before.items()})
    torch.testing.assert_close(head(features), 2 * expected)
