"""The built-in heads: trainable projectors from features to the embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from siamkit.hookspecs import Register, hookimpl
from siamkit.interfaces import Options, StageOptions
from siamkit.model.closed_form import Affine, lda, wccn
from siamkit.model.heads import Head


class LinearOptions(Options):
    """Options of ``linear``."""

    dim: int = Field(128, ge=1, description="Dimensions of the embedding.")


class MlpOptions(LinearOptions):
    """Options of ``mlp``."""

    hidden: int = Field(512, ge=1, description="Width of the hidden layer.")


class BNNeckOptions(Options):
    """Options of ``bnneck``."""

    dim: int | None = Field(
        None,
        ge=1,
        description="Reduce the features to this many dimensions by a linear layer; null: do not.",
    )


class IdentityOptions(Options):
    """No options."""


class ResidualOptions(Options):
    """Options of ``residual``."""

    hidden: int = Field(512, ge=1, description="Width of the hidden layer.")


class MultistageOptions(StageOptions):
    """Options of ``multistage``."""

    dim: int = Field(256, ge=1, description="Dimensions of the embedding.")
    method: Literal["wccn", "lda"] = Field(
        "wccn",
        description="Closed form. wccn: whiten by the covariance within classes, then PCA. lda: "
        "linear discriminant analysis; at most as many dimensions as classes less one are used.",
    )


class Multistage(nn.Linear):
    """A linear layer whose weights are computed from features and labels in closed form.

    Args:
        in_features: The width of the features.
        dim: The width of the embeddings.
        method: Computes the weights.
    """

    def __init__(self, in_features: int, dim: int, method: Callable[..., Affine]) -> None:
        super().__init__(in_features, dim)
        nn.init.orthogonal_(self.weight)
        nn.init.zeros_(self.bias)
        self._method = method

    def closed_form(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the weights that ``features [N, D]`` and ``labels [N]`` determine."""
        solved = self._method(features.double().numpy(), labels.numpy(), self.out_features)
        named = {"weight": solved.weight, "bias": solved.bias}
        return {name: torch.from_numpy(value).float() for name, value in named.items()}


class Gated(nn.Module):
    """A gated residual, ``x + gate * inner(x)``; the gate starts at 0 (Bachlechner et al. 2021)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """Return the sum ``[N, D]`` of ``features [N, D]`` and their gated change."""
        change: Tensor = self.inner(features)
        return features + self.gate * change


@hookimpl
def siamkit_register_heads(register: Register) -> None:
    """Register the built-in heads."""
    register("mlp", build_mlp, options=MlpOptions)
    register("linear", build_linear, options=LinearOptions)
    register("bnneck", build_bnneck, options=BNNeckOptions)
    register("identity", build_identity, options=IdentityOptions)
    register("residual", build_residual, options=ResidualOptions)
    register("multistage", build_multistage, options=MultistageOptions)


def build_mlp(options: MlpOptions, in_features: int) -> Head:
    """Two linear layers with a ReLU between them."""
    return Head(options.dim, *_mlp(in_features, options.hidden, options.dim))


def build_linear(options: LinearOptions, in_features: int) -> Head:
    """One linear layer that starts as a random orthogonal projection."""
    return Head(options.dim, _projection(in_features, options.dim))


def build_bnneck(options: BNNeckOptions, in_features: int) -> Head:
    """Batch norm without a shift, after a linear layer if ``dim`` is given (Luo et al. 2019).

    The norm layer uses the batch's statistics in training, and the running statistics in
    evaluation.
    """
    dim = options.dim or in_features
    norm = nn.BatchNorm1d(dim)
    # The shift is removed, not frozen: unfreezing the head would unfreeze it too.
    norm.register_parameter("bias", None)
    reduce = [] if options.dim is None else [_projection(in_features, dim, bias=False)]
    return Head(dim, *reduce, norm)


def build_identity(options: IdentityOptions, in_features: int) -> Head:
    """No head: the features are the embedding."""
    return Head(in_features)


def build_residual(options: ResidualOptions, in_features: int) -> Head:
    """The features plus a gated MLP; the gate starts at 0, so training starts at the features."""
    return Head(in_features, Gated(nn.Sequential(*_mlp(in_features, options.hidden, in_features))))


def build_multistage(options: MultistageOptions, in_features: int) -> Head:
    """One linear layer over several stages, computed in closed form before it is trained."""
    method = {"wccn": wccn, "lda": lda}[options.method]
    return Head(options.dim, Multistage(in_features, options.dim, method))


def _mlp(in_features: int, hidden: int, out_features: int) -> list[nn.Module]:
    first = nn.Linear(in_features, hidden)
    nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
    nn.init.zeros_(first.bias)
    return [first, nn.ReLU(), _projection(hidden, out_features)]


def _projection(in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
    """Return a layer that starts as an orthogonal projection, which nearly preserves angles."""
    layer = nn.Linear(in_features, out_features, bias=bias)
    nn.init.orthogonal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
