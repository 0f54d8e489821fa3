"""One round of pruning: removes channels from a trained network, and repairs what is left."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from siamkit.batches import Batch, zipped
from siamkit.compress.choose import choose
from siamkit.compress.costs import Costs, costs_of
from siamkit.compress.dependencies import Dependencies
from siamkit.compress.groups import Group
from siamkit.compress.importance import Kind, Scores, activation, readers, taylor
from siamkit.compress.reconstruct import absorb, moments
from siamkit.engine.flops import count_flops
from siamkit.engine.sources import TRAIN
from siamkit.errors import ConfigError
from siamkit.freezing.memory import probe_images
from siamkit.freezing.schedule import FreezeSchedule
from siamkit.interfaces import Backbone, Stage
from siamkit.model.grouping import is_norm
from siamkit.model.pruning import Pruning
from siamkit.model.reading import StageReader
from siamkit.model.siamese import SiameseNet
from siamkit.model.undisturbed import undisturbed
from siamkit.spelling import argument
from siamkit.training.batching import LossBatch, epoch_steps
from siamkit.training.build import Setup
from siamkit.training.loading import PROBE, SECOND, LoadedSet
from siamkit.training.step import moved, promoted

Part = Literal["all", "trainable", "frozen"]
"""The part of the network to prune: by whether its layers train in the fine-tuning."""

PARTS: tuple[Part, ...] = ("all", "trainable", "frozen")

IMAGES = 1024
"""The importance is measured on about this many training images."""

_PREFIX = "backbone."


@dataclass(frozen=True)
class Shrunk:
    """A pruned network, before any fine-tuning.

    Attributes:
        net: The network.
        record: The record of this round, relative to the network before it.
        importance: How the importance of the channels was measured.
        kept: The number of channels that each group had, and of those that are left.
        frozen: The number of layers that lost channels and do not train in the fine-tuning.
    """

    net: SiameseNet
    record: Pruning
    importance: Kind
    kept: Mapping[str, tuple[int, int]]
    frozen: int


def operations(net: SiameseNet, device: torch.device) -> int:
    """Return the operations of a forward per image."""
    preprocessing = net.preprocessing
    images = probe_images(preprocessing.channels, preprocessing.size, device)
    return count_flops(net, None, images[:2]).forward


def shrink(
    setup: Setup,
    sets: Mapping[str, LoadedSet],
    schedule: FreezeSchedule,
    target: float,
    part: Part,
) -> Shrunk:
    """Remove channels from the network of a run, until a number of operations is reached.

    Args:
        setup: The parts of the run, with its trained tensors; unchanged afterwards.
        sets: The image sets of the run.
        schedule: The freeze policy of the fine-tuning.
        target: The operations per image that may be left.
        part: The part of the network that may lose channels.

    Raises:
        ConfigError: The network cannot be pruned, or not that far.
    """
    net = setup.net
    preprocessing = net.preprocessing
    images = probe_images(preprocessing.channels, preprocessing.size, setup.device)[:2]
    dependencies = Dependencies(net.backbone, images, net.head.reads or ())
    trains = training_layers(net, schedule)
    groups = [g for g in dependencies.groups if _is_in(part, g, trains)]
    costs = costs_of(net.backbone, images, operations(net, setup.device))
    require_reach(groups, costs, target, part)
    found = moments(net.backbone, readers(dependencies.groups), _plain(setup, sets[PROBE]))
    kind, scores = importance_of(setup, sets, dependencies, found)
    removed = choose(groups, scores, costs, target)
    record = dependencies.without(removed)
    pruned = copy.deepcopy(net)
    record.apply(pruned.backbone, "the new record")
    absorb(pruned.backbone, net.backbone, record, found)
    kept = {g.name: (g.size, g.size - len(removed.get(g.name, ()))) for g in groups}
    return Shrunk(pruned, record, kind, kept, sum(name not in trains for name in record.layers))


def require_reach(groups: list[Group], costs: Costs, target: float, part: Part) -> None:
    """Check that removing channels can reach a number of operations.

    Raises:
        ConfigError: It cannot; the message says how far it goes.
    """
    nothing = {group.name: [0.0] * group.size for group in groups}
    least = costs.after(groups, choose(groups, nothing, costs, 0.0))
    if least <= target:
        return
    where = "" if part == "all" else f" of the part {part!r}"
    raise ConfigError(
        f"the channels{where} that can be removed do not make up that many operations",
        where=argument("ratio"),
        got=f"{1 - target / costs.total:.2f} of the operations of this round",
        allowed=f"at most {int(100 * (1 - least / costs.total)) / 100:.2f}",
        hint=None if part == "all" else f"{argument('part', 'all')} prunes the whole network",
    )


def training_layers(net: SiameseNet, schedule: FreezeSchedule) -> frozenset[str]:
    """Return the backbone's layers with tensors that train in some epoch, by name.

    A norm layer trains if its stage does, since its scale and shift may be frozen by themselves.
    """
    trainable = {name for phase in schedule.phases() for name in phase.plan.trainable}
    stages: list[Stage] = [s for s in schedule.stages if not trainable.isdisjoint(s.parameters)]
    of_stages = {name for stage in stages for name in stage.parameters}
    layers = set()
    for name, module in net.backbone.named_modules():
        names = of_stages if is_norm(module) else trainable
        own = {f"{_PREFIX}{name}.{tensor}" for tensor, _ in module.named_parameters(recurse=False)}
        if not names.isdisjoint(own):
            layers.add(name)
    return frozenset(layers)


def _is_in(part: Part, group: Group, trains: frozenset[str]) -> bool:
    if part == "all":
        return True
    return all((member.layer in trains) == (part == "trainable") for member in group.members)


def importance_of(
    setup: Setup,
    sets: Mapping[str, LoadedSet],
    dependencies: Dependencies,
    found: Mapping[str, Tensor],
) -> tuple[Kind, Scores]:
    """Return the kind of importance, and the importance of each channel of each group.

    Args:
        setup: The parts of the run.
        sets: The image sets of the run.
        dependencies: The pruning groups.
        found: The second moments of the channels that each layer reads.
    """
    reads, backbone = setup.net.head.reads, cast(Backbone, dependencies.backbone)
    extractor = backbone if reads is None else StageReader(backbone, reads)
    with undisturbed(setup.loss):  # a cross-batch memory keeps no embedding of this pass
        scores = taylor(dependencies, _losses(setup, sets, extractor))
    if any(value > 0 for values in scores.values() for value in values):
        return "taylor", scores
    return "activation", activation(dependencies, found)


def _losses(setup: Setup, sets: Mapping[str, LoadedSet], extractor: nn.Module) -> Iterator[Tensor]:
    """Yield the loss of each of the first batches of an epoch.

    Args:
        setup: The parts of the run.
        sets: The image sets of the run.
        extractor: Maps images to what the head reads, with the backbone that gets gradients.
    """
    train = setup.config.train
    # One forward pass per loss, so not more images than in a forward pass of the training.
    size = min(max(train.pass_size, 2 * train.images_per_class), train.batch_size)
    train = train.model_copy(update={"batch_size": size, "micro_batch": None})
    steps = epoch_steps(train, sets[TRAIN].images, epoch=0)
    parts: list[LossBatch] = []
    for micro in (part for step in steps for part in step):
        if sum(len(part.images) for part in parts) >= IMAGES:
            break
        parts.append(micro)
    names = (TRAIN, SECOND) if setup.loss.second_view else (TRAIN,)
    batches = zipped([sets[n].source.batches([p.images for p in parts]) for n in names])
    for batch, part in zip(batches, parts, strict=True):
        yield _loss(setup, batch.to(setup.device), part, extractor)
    for name in names:
        sets[name].source.close()


def _loss(setup: Setup, batch: Batch, part: LossBatch, extractor: nn.Module) -> Tensor:
    with setup.net.comparing():
        embeddings = promoted(setup.net.project(extractor(batch.inputs)))
    loss: Tensor
    if part.tuples is None:
        loss = setup.loss(embeddings, batch.labels)
    else:
        loss = setup.loss(embeddings, None, moved(part.tuples, setup.device))
    return loss


def _plain(setup: Setup, images: LoadedSet) -> Iterator[Tensor]:
    """Yield batches of the images of a set."""
    order = list(range(len(images)))
    size = min(setup.config.train.batch_size, 64)
    cut = [order[i : i + size] for i in range(0, len(order), size)]
    for batch in images.source.batches(cut):
        yield batch.inputs.to(setup.device)
    images.source.close()
