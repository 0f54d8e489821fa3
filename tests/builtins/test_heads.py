from __future__ import annotations

import pytest
import torch
from torch import nn

from siamkit import plugins
from siamkit.errors import ConfigError

NAMES = ["bnneck", "identity", "linear", "mlp", "multistage", "residual"]


def make(name, in_features=32, **options):
    torch.manual_seed(0)
    entry = plugins.get().heads.get(name)
    return entry.build(entry.validate(options, "head"), in_features)


def count(head):
    return sum(p.numel() for p in head.parameters())


def features(n=8, dim=32):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(1))


def test_registered_names_and_summaries():
    assert plugins.get().heads.names() == NAMES
    assert all(entry.summary for entry in plugins.get().heads)
    for entry in plugins.get().heads:
        for name, field in entry.options.model_fields.items():
            assert field.description, f"{entry.name}.{name}"


def test_unknown_head_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown head 'mpl'; did you mean 'mlp'\?"):
        plugins.get().heads.get("mpl")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", [True, False])
def test_embedding_dim_is_the_output_width(name, mode):
    head = make(name).train(mode)
    assert head(features()).shape == (8, head.embedding_dim)


@pytest.mark.parametrize("name", ["linear", "mlp", "bnneck", "multistage"])
@pytest.mark.parametrize("dim", [1, 5])
def test_dim_sets_the_output_width(name, dim):
    head = make(name, dim=dim)
    assert head.embedding_dim == dim
    assert head(features()).shape == (8, dim)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter_and_the_features(name):
    head = make(name)
    if name == "residual":  # the closed gate keeps the gradient from what lies behind it
        nn.init.constant_(head[0].gate, 0.5)
    x = features().requires_grad_()
    head(x).square().mean().backward()
    assert x.grad.abs().sum() > 0 or name == "bnneck"  # whose output has a fixed power
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_mlp_is_the_classic_recipe():
    head = make("mlp", 2048)
    assert count(head) == 1_114_752
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert {n for n, _ in head.named_parameters()} == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert head.embedding_dim == 128


def test_mlp_keeps_the_scale_of_its_input():
    out = make("mlp", 512, hidden=512, dim=512)(features(256, 512))
    assert 0.5 < out.std().item() < 1.5


def test_linear_starts_as_an_orthogonal_projection():
    head = make("linear", 32, dim=32)
    x = features()
    torch.testing.assert_close(head(x) @ head(x).T, x @ x.T, rtol=1e-4, atol=1e-4)
    weight = make("linear", 32, dim=8)[0].weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), rtol=1e-4, atol=1e-5)


def test_bnneck_has_a_scale_and_no_shift_that_could_be_unfrozen():
    head = make("bnneck")
    assert [n for n, _ in head.named_parameters()] == ["0.weight"]
    assert head.embedding_dim == 32
    assert [n for n, _ in make("bnneck", dim=4).named_parameters()] == ["0.weight", "1.weight"]


def test_bnneck_uses_the_batch_in_training_and_running_statistics_in_evaluation():
    head = make("bnneck")
    x = features(64) * 3 + 5
    out = head(x)
    torch.testing.assert_close(out.mean(0), torch.zeros(32), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(32), rtol=0, atol=1e-3)
    head[0].momentum = None  # average over all batches
    head[0].reset_running_stats()
    head(x)
    head.eval()
    torch.testing.assert_close(head(x), out, rtol=0, atol=0.05)
    torch.testing.assert_close(head(x[:1]), head(x)[:1])


def test_identity_returns_the_features_and_owns_nothing():
    head = make("identity")
    x = features()
    assert head(x) is x
    assert head.embedding_dim == 32
    assert not list(head.parameters())
    assert not list(head.buffers())


def test_residual_begins_exactly_at_the_features_and_can_leave_them():
    head = make("residual")
    x = features()
    assert torch.equal(head(x), x)
    assert head.embedding_dim == 32
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    target = features(8).flip(0)
    losses = []
    for _ in range(3):
        loss = (head(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    assert head[0].inner[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_weights(name):
    for a, b in zip(make(name).parameters(), make(name).parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp", {"dim": 0}, r"head\.dim: must be greater than or equal to 1, got 0"),
        ("mlp", {"hiden": 4}, "did you mean 'hidden'"),
        ("identity", {"dim": 4}, r"head\.dim: unknown key.*allowed: none"),
    ],
)
def test_bad_options_say_what_is_allowed(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make(name, **options)
