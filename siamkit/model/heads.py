"""Heads: the trainable projectors from features to embeddings.

A head maps features ``[N, D]`` to embeddings ``[N, E]``, which
:class:`~siamkit.model.siamese.SiameseNet` can L2-normalise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.errors import PluginError, SiamkitError
from siamkit.model.repeatable import require_repeatable
from siamkit.model.trace import evaluating

ClosedForm = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Returns a head's state, given features ``[N, D]`` and labels ``[N]``."""

Reads = tuple[str, ...] | None
"""Names of modules of a backbone; None for the backbone's own features alone."""


class Head(nn.Sequential):
    """Layers from features ``[N, D]`` to embeddings ``[N, embedding_dim]``.

    Attributes:
        embedding_dim: The width of the embeddings.
        reads: Names of the backbone's modules whose pooled outputs the head gets beside the
            features, see :mod:`siamkit.model.reading`; None if it gets the features alone.
        computed: Whether the head is computed in closed form and never trained; see
            :meth:`hold_computed`.
    """

    def __init__(self, embedding_dim: int, *layers: nn.Module, reads: Reads = None) -> None:
        super().__init__(*layers)
        self.embedding_dim = embedding_dim
        self.reads = reads
        self.computed = False

    def hold_computed(self) -> None:
        """Make the head one that is computed, not trained: its parameters become buffers.

        While the network trains, its embeddings are then the backbone's own features.
        """
        for module in self.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
        self.computed = True

    @property
    def closed_form(self) -> ClosedForm | None:
        """Returns the head's state that features and labels determine; None if nothing does.

        A module states it as a method ``closed_form``, with the names of its own tensors.
        """
        methods = [(n, getattr(m, "closed_form", None)) for n, m in self.named_children()]
        found = [(name, method) for name, method in methods if callable(method)]
        if len(found) != 1:
            return None
        ((place, solve),) = found

        def solved(features: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
            state = solve(features, labels)
            return {f"{place}.{name}": tensor for name, tensor in state.items()}

        return solved


def as_head(module: Any, in_features: int, whose: str, reads: Reads = None) -> Head:
    """Return the result of a plugin's ``build`` as a head; a :class:`Head` unchanged.

    Args:
        module: A module that maps features ``[N, in_features]`` to embeddings ``[N, E]``.
        in_features: The width of the backbone's features.
        whose: The head's name in messages, such as ``head 'mlp' of siamkit``.
        reads: What the head reads; see :class:`Head`.

    Raises:
        PluginError: The result is not a module, or the module's forward does not return embeddings,
            or the embeddings depend on chance.
    """
    if isinstance(module, Head):
        if reads is not None:
            module.reads = reads
        return module
    if not isinstance(module, nn.Module):
        raise PluginError(
            f"{whose}: build must return a torch.nn.Module", got=type(module).__name__
        )
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    features = torch.zeros(2, in_features, dtype=like.dtype, device=like.device)
    try:
        with evaluating(module):
            embeddings = require_repeatable(module, features, "embeddings", whose=whose)
    except SiamkitError:
        raise
    except Exception as error:
        raise PluginError(
            f"{whose}: the forward failed on features [2, {in_features}]: "
            f"{type(error).__name__}: {error}",
            hint=f"the backbone has {in_features} features: build the head for this width",
        ) from error
    if not isinstance(embeddings, Tensor) or embeddings.ndim != 2 or len(embeddings) != 2:
        shape = list(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings)
        raise PluginError(
            f"{whose}: the forward must return embeddings", got=shape, allowed="[N, E] for N images"
        )
    return Head(embeddings.shape[1], module, reads=reads)
