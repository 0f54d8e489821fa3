"""The pruning groups of a backbone that have been tried out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from siamkit.compress.graph import groups_of
from siamkit.compress.groups import Group, record_of, silence
from siamkit.errors import ConfigError, is_out_of_memory
from siamkit.model.pruning import Pruning
from siamkit.model.reading import stage_outputs
from siamkit.model.trace import evaluating

_TRIAL = 3  # of each group, every third channel is removed to try it


class Dependencies:
    """The pruning groups of a backbone.

    The graph of a forward does not tell all: a network may cut or reshape its channels by numbers
    that it knows. So each group is tried, and left out if the network without some of its channels
    does not compute what the full one computes when nobody reads them.

    Args:
        backbone: The backbone; it is copied.
        images: A few images ``[N, C, H, W]`` to trace the forward with.
        reads: The modules whose outputs the head reads besides the features.

    Attributes:
        backbone: The copy, in eval mode.
        groups: The groups that can be pruned. The width of what the head reads is none of them.

    Raises:
        ConfigError: torch-pruning is not installed or cannot trace the network, or no channels can
            be removed.
    """

    def __init__(self, backbone: nn.Module, images: Tensor, reads: Sequence[str] = ()) -> None:
        self._original, self._images, self._reads = backbone, images, tuple(reads)
        self._reasons: list[str] = []
        with _refusing():
            self.backbone = copy.deepcopy(backbone).eval().requires_grad_(True)
            found = groups_of(self.backbone, images, self._reads)
        self.groups = self._working(found)
        if not self.groups:
            tried = f"; without some, it fails ({self._reasons[0]})" if self._reasons else ""
            raise ConfigError(
                "no channels of the backbone can be removed: all of them decide the width of the "
                "features, or belong to attention, grouped convolutions, cut channels or layers "
                f"that siamkit does not know{tried}",
                where="backbone",
                got=type(getattr(backbone, "model", backbone)).__name__,
            )

    def without(self, removed: Mapping[str, Sequence[int]]) -> Pruning:
        """Return the record of the backbone without some channels, relative to the backbone.

        Args:
            removed: The channels to remove, by the name of their group.

        Raises:
            ConfigError: The pruned network does not work.
        """
        with _refusing():
            record = record_of(self._original, self.groups, removed)
            self._check(self.groups, removed, record)
        return record

    def _working(self, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        """Return the groups whose channels can be removed, found by halving."""
        removed = {group.name: range(0, group.size, _TRIAL) for group in groups}
        try:
            with _refusing():
                self._check(groups, removed, record_of(self._original, groups, removed))
        except ConfigError as error:
            if len(groups) > 1:
                half = len(groups) // 2
                return self._working(groups[:half]) + self._working(groups[half:])
            cause = error.__cause__ or error
            self._reasons.append(f"{type(cause).__name__}: {cause}")
            return ()
        return groups

    def _check(
        self, groups: Sequence[Group], removed: Mapping[str, Sequence[int]], record: Pruning
    ) -> None:
        """Compare the pruned backbone with the full one in which nobody reads the lost channels."""
        pruned, silent = copy.deepcopy(self._original), copy.deepcopy(self._original)
        record.apply(pruned, "the new record")
        silence(silent, groups, removed)
        with evaluating(pruned), evaluating(silent):
            found, wanted = (
                stage_outputs(net, self._reads, self._images) for net in (pruned, silent)
            )
        for one, other in zip(found, wanted, strict=True):
            if one.shape != other.shape:
                raise ValueError(f"its features have another shape: {list(one.shape)}")
            if not torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max())):
                raise ValueError("removing channels is not the same as ignoring them")


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn any error of torch-pruning or of the pruned network into a refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:
            if isinstance(error, ConfigError) or is_out_of_memory(error):
                raise
            raise ConfigError(
                f"cannot prune this network ({type(error).__name__}: {error})",
                where="backbone",
                hint="prune a network of convolutions or linear layers, such as resnet50",
            ) from error
