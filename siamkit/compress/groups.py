"""Pruning groups: the channels that must be removed together, found by torch-pruning.

A channel that one layer writes is read by others, passes norm layers and depthwise convolutions,
and is added to the channels of other layers. torch-pruning follows these dependencies in the
autograd graph of one forward (Fang et al. 2023, https://arxiv.org/abs/2301.12900).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from siamkit.errors import ConfigError, SiamkitError
from siamkit.model.pruning import Cut, PrunedLayer, Pruning
from siamkit.model.trace import evaluating

_DENSE = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class Member:
    """The part that a layer has in a group.

    Attributes:
        layer: The layer's name in the backbone.
        side: ``writes`` the group's channels, ``reads`` them, or passes them ``through``.
        places: The layer's channels, on the side above.
        channels: For each of ``places``, the group's channel that it belongs to.
    """

    layer: str
    side: Literal["writes", "reads", "through"]
    places: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Channels that are removed together.

    Attributes:
        name: The name of the first layer that writes them.
        size: The number of channels.
        members: The layers that have these channels.
    """

    name: str
    size: int
    members: tuple[Member, ...]


class Dependencies:
    """The pruning groups of a backbone.

    Args:
        backbone: The backbone; it is copied.
        images: A few images ``[N, C, H, W]`` to trace the forward with.

    Attributes:
        backbone: The copy, in eval mode.
        groups: The groups that can be pruned. The width of the features is none of them.

    Raises:
        ConfigError: torch-pruning is not installed, or cannot trace the network.
    """

    def __init__(self, backbone: nn.Module, images: Tensor) -> None:
        self._pruning = torch_pruning()
        self._original, self._images = backbone, images
        with _refusing(), torch.enable_grad():
            self.backbone = copy.deepcopy(backbone).eval().requires_grad_(True)
            self._graph: Any = self._pruning.DependencyGraph().build_dependency(
                self.backbone,
                example_inputs=images,
                forward_fn=lambda net, inputs: net(inputs),
                verbose=False,
            )
            self._names = {module: name for name, module in self.backbone.named_modules()}
            found = list(self._graph.get_all_groups(root_module_types=list(_DENSE)))
            self.groups = tuple(g for each in found if (g := self._group(each)) is not None)
        if not self.groups:
            raise ConfigError(
                "no channels of the backbone can be removed: all of them decide the width of the "
                "features, or belong to attention, grouped convolutions or layers that "
                "torch-pruning does not know",
                where="backbone",
                got=type(getattr(backbone, "model", backbone)).__name__,
            )

    def _group(self, found: Any) -> Group | None:
        """Return a group of torch-pruning; None if it cannot be pruned safely."""
        members, tp = [], self._pruning
        for item in found:
            kind, layer = item.dep.target.type, item.dep.target.module
            if kind in (tp.ops.OPTYPE.OUTPUT, tp.ops.OPTYPE.PARAMETER, tp.ops.OPTYPE.CUSTOMIZED):
                return None  # the features' width, or a bare tensor whose axis is a guess
            if layer not in self._names:
                continue  # an operation without tensors, such as an addition
            if any(root is None for root in item.root_idxs) or not _is_safe(layer):
                return None
            if self._attends(self._names[layer]):
                return None
            side = self._side(layer, item.dep.handler)
            places, roots = tuple(map(int, item.idxs)), tuple(map(int, item.root_idxs))
            members.append(Member(self._names[layer], side, places, roots))
        root = found[0].dep.target.module
        size = len(found[0].idxs)
        reads = any(member.side == "reads" for member in members)
        return Group(self._names[root], size, tuple(members)) if reads and size > 1 else None

    def _side(self, layer: nn.Module, handler: Any) -> Literal["writes", "reads", "through"]:
        if not isinstance(layer, _DENSE) or getattr(layer, "groups", 1) > 1:
            return "through"
        return "writes" if self._graph.is_out_channel_pruning_fn(handler) else "reads"

    def _attends(self, name: str) -> bool:
        """Return whether a layer lies in an attention module, whose heads fix its shapes."""
        parts = name.split(".")
        outer = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
        modules = (self.backbone.get_submodule(o) for o in outer)
        return any(hasattr(m, "num_heads") or isinstance(m, nn.MultiheadAttention) for m in modules)

    def without(self, removed: Mapping[str, Sequence[int]]) -> Pruning:
        """Return the record of the backbone without some channels, relative to the backbone.

        This uses up the copy: its tensors are replaced.

        Args:
            removed: The channels to remove, by the name of their group.

        Raises:
            ConfigError: The pruned network does not work.
        """
        full = {f"{m}.{t}": v.shape for m, t, v in _tensors(self.backbone)}
        self.backbone.cpu()  # some devices have no float64
        for _, _, tensor in _tensors(self.backbone):
            # Each value is its own place, so that the pruned tensors tell which places are left.
            places = torch.arange(tensor.numel(), dtype=torch.float64)
            tensor.data = places.reshape(tensor.shape)
            tensor.grad = None
        sizes = {name: _sizes(module) for name, module in self.backbone.named_modules()}
        roots = {name: module for module, name in self._names.items()}
        with _refusing():
            for name, channels in removed.items():
                layer = roots[name]
                pruner = self._graph.get_pruner_of_module(layer)
                group = self._graph.get_pruning_group(
                    layer, pruner.prune_out_channels, list(channels)
                )
                group.prune()
        layers: dict[str, PrunedLayer] = {}
        for name, module in self.backbone.named_modules():
            tensors = {
                tensor: cuts
                for tensor, value in _own(module)
                if any(cuts := _cuts(value, full[f"{name}.{tensor}"]))
            }
            now, before = _sizes(module), sizes[name]
            changed = {key: now[key] for key in now if now[key] != before.get(key)}
            if tensors or changed:
                layers[name] = PrunedLayer(changed, tensors)
        record = Pruning(layers)
        with _refusing():
            self._check(record, removed)
        return record

    def _check(self, record: Pruning, removed: Mapping[str, Sequence[int]]) -> None:
        """Compare the pruned backbone with the full one in which nobody reads the lost channels."""
        pruned, silent = copy.deepcopy(self._original), copy.deepcopy(self._original)
        record.apply(pruned, "the new record")
        with torch.no_grad():
            for group in self.groups:
                lost = frozenset(removed.get(group.name, ()))
                for member in group.members:
                    if member.side == "reads":
                        weight = by_input(silent.get_submodule(member.layer))
                        weight[[p for p, c in zip(member.places, member.channels, strict=True)
                                if c in lost]] = 0  # fmt: skip
            with evaluating(pruned), evaluating(silent):
                features, wanted = pruned(self._images), silent(self._images)
        if features.shape != wanted.shape:
            raise ValueError(f"its features have another shape: {list(features.shape)}")
        if not torch.allclose(features, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())):
            raise ValueError("removing channels is not the same as ignoring them")


def torch_pruning() -> Any:
    """Return the library.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import torch_pruning as library
    except ImportError:
        raise ConfigError(
            "pruning needs torch-pruning",
            where="prune",
            hint="pip install 'siamkit[prune]'",
        ) from None
    return library


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn any error of torch-pruning or of the pruned network into a refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except SiamkitError:
            raise
        except Exception as error:
            raise ConfigError(
                f"torch-pruning cannot prune this network ({type(error).__name__}: {error})",
                where="backbone",
                hint="prune a network of convolutions or linear layers, such as resnet50",
            ) from error


def by_input(layer: nn.Module) -> Tensor:
    """Return a view ``[C, ...]`` of the weights of a dense layer, by the C channels it reads."""
    weight = weight_of(layer)
    return weight if getattr(layer, "transposed", False) else weight.transpose(0, 1)


def weight_of(layer: nn.Module) -> Tensor:
    """Return the weights of a dense layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _is_safe(layer: nn.Module) -> bool:
    """Return whether removing any channels of a layer leaves a layer that works."""
    if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups > 1:
        return layer.in_channels == layer.out_channels == layer.groups
    # These compute statistics over channels, which would change for the channels that are left.
    return not isinstance(layer, nn.GroupNorm | nn.LayerNorm | nn.LocalResponseNorm)


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _tensors(module: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    for name, inner in module.named_modules():
        for tensor, value in _own(inner):
            yield name, tensor, value


def _sizes(module: nn.Module) -> dict[str, int | tuple[int, ...]]:
    """Return the public whole numbers of a module, and its tuples of them."""
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and _is_size(value)
    }


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(item, int) for item in value)
    return isinstance(value, int) and not isinstance(value, bool)


def _cuts(places: Tensor, full: Sequence[int]) -> tuple[Cut | None, ...]:
    """Return what is left of each axis of a tensor whose values were their own places."""
    where = torch.unravel_index(places.long(), tuple(full)) if full else ()
    cuts: list[Cut | None] = []
    for axis, (coordinates, size) in enumerate(zip(where, full, strict=True)):
        kept = coordinates.movedim(axis, 0).reshape(coordinates.shape[axis], -1)[:, 0]
        whole = kept.numel() == size
        cuts.append(None if whole else Cut(size, tuple(kept.tolist())))
    return tuple(cuts)
