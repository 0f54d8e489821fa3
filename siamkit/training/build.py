"""Setup: the parts of a run, built from its config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from siamkit.config import (
    AUTO,
    COMPONENTS,
    Component,
    OptimizerConfig,
    RunConfig,
    decisive,
    options_of,
)
from siamkit.data.digest import digest
from siamkit.data.preparation import preparation
from siamkit.data.splits import Splits
from siamkit.errors import ConfigError, PluginError, calling
from siamkit.freezing.controller import FreezeController
from siamkit.freezing.schedule import FreezeSchedule
from siamkit.guard import guard, name_of
from siamkit.interfaces import FreezePolicy, Loss, LossContext, Scheduler, Stage
from siamkit.model.create import Weights, create_net, prepared
from siamkit.model.device import place, resolve_device
from siamkit.model.generators import seeded
from siamkit.model.pruning import Pruning
from siamkit.model.quantized import BUFFER, Quantized
from siamkit.model.reading import UnreadStageError
from siamkit.model.siamese import SiameseNet, plugins_of
from siamkit.model.trace import blank, evaluating
from siamkit.registry import GIVEN, HERE, Provider, Registry, whose
from siamkit.spelling import setting
from siamkit.training.computed_head import is_computed
from siamkit.training.exactness import require_exact
from siamkit.training.optimizer import named_groups, require_groups
from siamkit.training.seeding import derive


@dataclass
class Setup:
    """The parts of a run that its config determines.

    Attributes:
        config: The resolved config, with a named head.
        device: The device that the run computes on.
        net: The network.
        weights: The origin of the backbone's weights, as text.
        schedule: The freeze policy over the network's stages and the run's epochs.
        scheduler: The rate schedule.
        loss: The loss.
        num_classes: Training classes.
        optimizer: The one optimizer.
        controller: Freezes and unfreezes the network's parameters.
        tensors: Names of the tensors in the run's checkpoints; None until they are first read.
        notices: Notices about the network for the user.
    """

    config: RunConfig
    device: torch.device
    net: SiameseNet
    weights: str
    schedule: FreezeSchedule
    scheduler: Scheduler
    loss: Loss
    num_classes: int
    optimizer: torch.optim.Optimizer
    controller: FreezeController
    tensors: frozenset[str] | None = None
    notices: tuple[str, ...] = ()

    @property
    def plugins(self) -> dict[str, nn.Module]:
        """The backbone, the head and the loss by their entries, for errors."""
        return {**plugins_of(self.net), name_of(self.loss, "the loss"): self.loss}


def build_for(
    splits: Splits,
    config: RunConfig,
    registries: Mapping[str, Registry],
    *,
    weights: Weights = "all",
) -> Setup:
    """Build the parts of a run for its training images; see :func:`build`."""
    labelled, count = splits.train.tuples is None, len(splits.train.classes)
    return build(config, registries, count, labelled=labelled, weights=weights)


def build(
    config: RunConfig,
    registries: Mapping[str, Registry],
    num_classes: int,
    *,
    labelled: bool = True,
    weights: Weights = "all",
) -> Setup:
    """Build the parts of a run.

    Args:
        config: A resolved config.
        registries: The registry of each component section.
        num_classes: Training classes; for pairs or triplets, their identities.
        labelled: Whether the training images have labels; those of pairs and triplets have none.
        weights: Which of the configured backbone weights to load.

    Raises:
        SiamkitError: A name, option, weights file or plugin is at fault, or nothing would train.
    """
    device = resolve_device(config.train.device)
    with seeded(derive(config.train.seed, "init")):
        created = create_net(config, registries, weights=weights)
        config = config.model_copy(update={"head": created.head})
        policy = build_policy(config, registries)
        if is_computed(config, created.net, policy, has_classes=labelled and num_classes > 0):
            created.net.head.hold_computed()
        context = LossContext(created.net.training_dim, num_classes)
        loss: Loss = built(config.loss, registries["loss"], Loss, context)
    graphs = [name for name, _ in created.net.named_buffers() if name.endswith(f".{BUFFER}")]
    if graphs and created.net.quantized is None:
        raise ConfigError(
            "a part of this backbone is computed in int8 and cannot be trained, so a new run "
            "cannot start from it",
            where="backbone", got=graphs[0].removesuffix(f".{BUFFER}"),
            hint="start from the float32 backbone",
        )  # fmt: skip
    if not isinstance(loss.second_view, bool):
        raise PluginError(
            "second_view must be True or False",
            where=name_of(loss, f"loss {type(loss).__name__}"),
            got=loss.second_view,
        )
    net = place(created.net, device)
    loss.to(device)
    schedule = FreezeSchedule(
        policy,
        net.stages(config.backbone.granularity),
        config.train.epochs,
        config.train.monitored,
        config.freeze.name,
    )
    phases = schedule.phases()
    schedule.require_trainable(phases)
    controller = FreezeController(net, schedule.stages, alone=True)
    require_exact(config.train, controller, phases)
    if config.train.grad_checkpointing and config.train.epochs:
        checkpoint_activations(net)
        _require_readable(net)
    return Setup(
        config=config,
        device=device,
        net=net,
        weights=created.weights,
        schedule=schedule,
        scheduler=built(config.scheduler, registries["scheduler"], Scheduler),
        loss=loss,
        num_classes=num_classes,
        optimizer=build_optimizer(
            config.optimizer, registries["optimizer"], net, loss, schedule.stages
        ),
        controller=controller,
        notices=created.notices,
    )


def prepare_images(setup: Setup, splits: Splits) -> tuple[str, ...]:
    """Choose how a new run prepares its images, where the config leaves that open.

    The choice is stored in ``setup``.

    Returns:
        Notices for the user.
    """
    own = setup.net.backbone.preprocessing
    found = preparation(setup.config.data, splits.sets, splits.facts, own)
    data = setup.config.data.model_copy(update={"fit": found.fit, "range": found.range})
    setup.config = setup.config.model_copy(update={"data": data})
    setup.net.preprocessing = prepared(own, data)
    return found.notices


def build_optimizer(
    config: OptimizerConfig,
    registry: Registry,
    net: nn.Module,
    loss: nn.Module,
    stages: Sequence[Stage],
) -> torch.optim.Optimizer:
    """Build the one optimizer of a run over named groups; see :func:`named_groups`.

    Raises:
        PluginError: The optimizer fails to build, or does not keep the groups.
    """
    groups = named_groups(config, net, loss, stages)
    # torch's optimizers change the groups that they get.
    copies = [dict(group) for group in groups]
    optimizer: torch.optim.Optimizer = built(config, registry, torch.optim.Optimizer, copies)
    distribution = registry.get(config.name).distribution
    require_groups(optimizer, groups, whose("optimizer", config.name, distribution))
    return optimizer


def build_policy(config: RunConfig, registries: Mapping[str, Registry]) -> FreezePolicy:
    """Build the freeze policy of a config."""
    policy: FreezePolicy = built(config.freeze, registries["freeze"], FreezePolicy)
    return policy


def built(component: Component, registry: Registry, kind: type, *context: Any) -> Any:
    """Build a component, so that any error of its plugin, now or in the run, names the plugin."""
    entry, options = options_of(component, registry)
    owner = whose(registry.kind, component.name, entry.distribution)
    with calling(owner, "failed to build"):
        made = entry.build(options, *context)
    if not isinstance(made, kind):
        raise PluginError(
            f"{owner}: build must return a {_public_name(kind)}", got=type(made).__name__
        )
    return guard(made, owner)


def _public_name(kind: type) -> str:
    library = kind.__module__.partition(".")[0]
    return f"torch.optim.{kind.__name__}" if library == "torch" else f"siamkit.{kind.__name__}"


def checkpoint_activations(net: nn.Module) -> None:
    """Recompute the backbone's activations in backward, by timm's ``set_grad_checkpointing``.

    torch's checkpointing is used in its non-reentrant form. The reentrant form needs a gradient at
    the *input* of a block, so after a frozen block it silently gives no gradient at all.

    Raises:
        ConfigError: The backbone has no such method.
    """
    from timm.layers import set_reentrant_ckpt

    switch = next((m for m in net.modules() if hasattr(m, "set_grad_checkpointing")), None)
    if switch is None:
        raise ConfigError(
            "this backbone cannot recompute its activations",
            where="train.grad_checkpointing",
            hint="set it to false",
        )
    set_reentrant_ckpt(False)
    switch.set_grad_checkpointing(True)  # type: ignore[operator]


def _require_readable(net: SiameseNet) -> None:
    """Check that the head still gets the stages that it reads.

    timm recomputes the blocks of a stage one by one, so the stage itself may not run.

    Raises:
        ConfigError: It does not.
    """
    if net.reader is None:
        return
    images = net.preprocessing
    try:
        with evaluating(net):
            net.reader(blank(net, images.channels, images.size))
    except UnreadStageError as error:
        raise ConfigError(
            f"the head reads stage {error.stage!r}, which does not run as a whole if its "
            "activations are recomputed",
            where="train.grad_checkpointing",
            got=True,
            hint=f"use another head, such as {setting('head.name', 'residual')}, or set it to "
            "false",
        ) from None


def identity(
    config: RunConfig, splits: Splits, registries: Mapping[str, Registry]
) -> dict[str, Any]:
    """Return the facts that a resumed run must share with the run that it continues.

    They are the settings that affect results, the name, label and content of each image file, each
    plugin's version, the channels that the backbone was pruned to, and its part in int8.
    """
    result = {f"config {key}": value for key, value in decisive(config).items()}
    if config.backbone.pruning is not None:
        result["pruning"] = Pruning.load(config.backbone.pruning).digest
    if config.backbone.int8 is not None:
        result["int8"] = Quantized.load(config.backbone.int8).digest
    sets = {"train": splits.train, "val": splits.val, "test": splits.test}
    for name, images in sets.items():
        result[f"data {name}"] = digest(images)
    for section in COMPONENTS:
        name = getattr(config, section).name
        provider = registries[section].get(name).provider(name)
        if provider.distribution not in (GIVEN, HERE):  # these have no version
            result[f"plugin {provider.distribution}"] = provider.version
    return result


def providers(config: RunConfig, registries: Mapping[str, Registry]) -> dict[str, Provider]:
    """Return the provider of each component of a run, by its section of the config.

    A head that is left open is none: siamkit provides the one that the run will choose.
    """
    components = {section: getattr(config, section) for section in COMPONENTS}
    if config.head.name == AUTO:
        del components["head"]
    trackers = {f"track.{place}": tracker for place, tracker in enumerate(config.track)}
    return {
        section: registries[section.partition(".")[0]].get(component.name).provider(component.name)
        for section, component in {**components, **trackers}.items()
    }
