"""Pruning groups: the channels that must be removed together, and what is left without some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from siamkit.compress.layers import Side, by_input, shrunk
from siamkit.model.pruning import Pruning


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
    side: Side
    places: tuple[int, ...]
    channels: tuple[int, ...]

    def lost(self, removed: Iterable[int]) -> list[int]:
        """Return the places that go with some of the group's channels."""
        gone = frozenset(removed)
        both = zip(self.places, self.channels, strict=True)
        return [place for place, channel in both if channel in gone]


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

    @property
    def is_even(self) -> bool:
        """True if, in each layer, every channel of the group occurs equally often, at least once.

        A layer may hold only some of the channels of a group. Then the network splits them at a
        fixed number of channels, or the layer could lose all of its channels.
        """
        return all(
            len(counts) == self.size and len(set(counts.values())) == 1
            for counts in (Counter(member.channels) for member in self.members)
        )


def apart(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Return the groups that have no place of a layer in common with another group."""

    def places(group: Group) -> set[tuple[str, Side, int]]:
        return {(m.layer, m.side, place) for m in group.members for place in m.places}

    claims = Counter(place for group in groups for place in places(group))
    return tuple(group for group in groups if all(claims[p] == 1 for p in places(group)))


def record_of(
    backbone: nn.Module, groups: Iterable[Group], removed: Mapping[str, Iterable[int]]
) -> Pruning:
    """Return the record of a backbone without some channels.

    Args:
        backbone: The full backbone.
        groups: The pruning groups.
        removed: The channels to remove, by the name of their group.
    """
    lost: dict[str, dict[Side, set[int]]] = {}
    for group in groups:
        for member in group.members if group.name in removed else ():
            sides = lost.setdefault(member.layer, {})
            sides.setdefault(member.side, set()).update(member.lost(removed[group.name]))
    layers = {name: shrunk(backbone.get_submodule(name), sides) for name, sides in lost.items()}
    return Pruning({name: left for name, left in layers.items() if left.sizes})


def silence(
    backbone: nn.Module, groups: Iterable[Group], removed: Mapping[str, Iterable[int]]
) -> None:
    """Make a backbone ignore some channels, in place: no layer reads them any more.

    Args:
        backbone: The full backbone.
        groups: The pruning groups.
        removed: The channels, by the name of their group.
    """
    with torch.no_grad():
        for group in groups:
            for member in group.members if group.name in removed else ():
                if member.side == "reads":
                    weight = by_input(backbone.get_submodule(member.layer))
                    weight[member.lost(removed[group.name])] = 0
