"""Builds networks and policies, and trains and inspects runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from torch import nn

from siamkit.api.configuring import Config, placed, resolved_call, values_of
from siamkit.api.entries import registries
from siamkit.api.listening import checked, log_of, observers
from siamkit.api.models import open_run
from siamkit.api.phase_table import Phases
from siamkit.api.recipes import Choice, choice_of, fit_with_recipe, is_begun
from siamkit.api.results import InspectionResult, TrainingResult
from siamkit.checks import whole_number
from siamkit.config import RunConfig
from siamkit.data.memory import items_of
from siamkit.errors import ConfigError
from siamkit.files import path_of
from siamkit.freezing.schedule import FreezeSchedule
from siamkit.interfaces import FreezePlan, FreezePolicy, Stage
from siamkit.model.create import create_net
from siamkit.model.settings import usual_settings
from siamkit.model.siamese import SiameseNet
from siamkit.objects.entries import TAKES, is_object
from siamkit.registry import Registry
from siamkit.runs.directory import RunDir
from siamkit.runs.events import Listener
from siamkit.spelling import argument
from siamkit.training import fit as _fit
from siamkit.training import inspection as _inspection
from siamkit.training.build import build_policy

_DATA = "data"
"""The folder of images that were in memory, in the directory of their run."""


def create_model(
    backbone: str | Mapping[str, Any] | nn.Module = "resnet50",
    *,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    head: str | Mapping[str, Any] | nn.Module = "residual",
    in_chans: int = 3,
    image_size: int | None = None,
    **options: Any,
) -> SiameseNet:
    """Build a Siamese network.

    Args:
        backbone: A name of :func:`list_backbones`, ``timm:<model>``, a mapping of name and options,
            or a module from images ``[N, C, H, W]`` to features, which is copied.
        pretrained: Whether to load pretrained weights; None: load them if there are any.
        weights: A file with weights of the backbone, to load instead of pretrained ones:
            ``.safetensors``, ``.pth``, ``.pt`` or ``.bin``.
        head: A head's name, its name and options (``{"name": "mlp", "dim": 64}``), or a module from
            features ``[N, D]`` to embeddings, which is copied. The default is not that of a run,
            which computes ``multistage`` from its images.
        in_chans: Channels per image.
        image_size: Height and width in pixels; None: the backbone's own size.
        **options: Options of the backbone.

    Raises:
        ConfigError: A name or an option is wrong.
        CheckpointError: Weights are unavailable or do not fit.
    """
    for name, value in {"backbone": backbone, "head": head}.items():
        if value is None:
            raise ConfigError("is missing", where=name, allowed=f"a name, or {TAKES[name]}")
    data = {"in_chans": in_chans, "image_size": image_size}
    own = {"pretrained": pretrained, "weights": weights, **options}
    given = {"backbone": backbone, "head": head, "data": data}
    config, known, _ = resolved_call(
        {"backbone": {k: v for k, v in own.items() if v is not None}}, given
    )
    return create_net(config, known).net


def create_policy(
    policy: str | Mapping[str, Any] | FreezePolicy | Callable[..., FreezePlan], **options: Any
) -> FreezePolicy:
    """Build a freeze policy.

    Args:
        policy: A name of :func:`list_freeze_policies`, a mapping of name and options, a function
            ``(stages, progress) -> FreezePlan``, or a policy, which is returned unchanged.
        **options: Options of a named policy.

    Raises:
        ConfigError: The name or an option is wrong, or there are options for an object.
    """
    if isinstance(policy, FreezePolicy):
        _require_no(options, "policy", "a policy has its options already")
        return policy
    if policy is None:
        raise ConfigError("is missing", where="policy", allowed=f"a name, or {TAKES['freeze']}")
    if is_object(policy):
        _require_no(options, "policy", "a function takes no options")
    config, known, _ = resolved_call({"freeze": options}, {"freeze": policy})
    return build_policy(config, known)


def phases(
    net: SiameseNet | Iterable[Stage],
    policy: str | Mapping[str, Any] | FreezePolicy | Callable[..., FreezePlan] = "stages",
    epochs: int = 10,
    **options: Any,
) -> Phases:
    """Return the phases of a run under a policy.

    Args:
        net: The network, or the stages of any network
            (:func:`siamkit.freezing.discover_stages`).
        policy: As for :func:`create_policy`.
        epochs: The number of epochs.
        **options: Options of a named policy.

    Raises:
        ConfigError: An argument is wrong.
        PluginError: The policy failed, or its plan is invalid.
    """
    stages = tuple(net.stages()) if isinstance(net, SiameseNet) else _stages(net)
    number = whole_number(epochs, "epochs", least=1)
    schedule = FreezeSchedule(create_policy(policy, **options), stages, number)
    return Phases(schedule.phases(), schedule.stages)


def _stages(given: Any) -> tuple[Stage, ...]:
    module = isinstance(given, nn.Module)
    stages = tuple(given) if isinstance(given, Iterable) and not module else ()
    if not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise ConfigError(
            "is of a wrong type",
            where="net",
            got=type(given),
            allowed="a siamkit.SiameseNet, or the stages of a network",
            hint="pass siamkit.create_model(MODULE), or the stages of the module: "
            "siamkit.freezing.discover_stages(MODULE, IMAGES)"
            if module
            else None,
        )
    return stages


def _require_no(options: Mapping[str, Any], where: str, why: str) -> None:
    if options:
        hint = "leave them out, or pass the policy's name"
        raise ConfigError(why, where=where, got=", ".join(options), hint=hint)


@usual_settings()
def fit(
    config: Config | None = None,
    *,
    data: Any = None,
    backbone: str | Mapping[str, Any] | nn.Module | None = None,
    head: str | Mapping[str, Any] | nn.Module | None = None,
    freeze: Any = None,
    loss: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | Literal["auto"] | None = None,
    image_size: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    run_dir: str | Path | None = None,
    recipe: Literal["auto", "augment"] | None = None,
    budget: float | None = None,
    listeners: Iterable[Listener] = (),
    progress: bool | None = None,
    **sections: Any,
) -> TrainingResult:
    """Train an embedding model.

    Each component is a name (``"resnet50"``), a mapping of its name and options
    (``{"name": "triplet", "margin": 0.3}``), or an object.

    Args:
        config: A config, values nested by section, or a YAML file; None: the defaults. The
            arguments below override it.
        data: One of: a folder or a table, as on the command line; a sequence or a torch ``Dataset``
            of pairs (image, label); a mapping with the keys ``train``, ``val`` and ``test``, whose
            values are such pairs, a folder of class folders, or a table of images. An image is a
            path, a Pillow image, a numpy array ``[H, W, C]`` or a torch tensor ``[C, H, W]``. Files
            stay where they are. Images in memory are saved in the run as PNG files; floats in [0,
            1] are converted to 8 bits. A label is a name or a number; 1 and 1.0 are one class, and
            so are names that differ only in surrounding spaces.
        backbone: As an object: a ``torch.nn.Module`` from images ``[N, C, H, W]`` to features. The
            module is copied.
        head: As an object: a ``torch.nn.Module`` from features ``[N, D]`` to embeddings. The module
            is copied.
        freeze: As an object: a :class:`siamkit.FreezePolicy`, or a function ``(stages, progress) ->
            FreezePlan``.
        loss: As an object: a :class:`siamkit.Loss`, a loss of pytorch-metric-learning, or a tuple
            of such a loss and a miner.
        optimizer: As an object: a function from named groups to a ``torch.optim.Optimizer``, such
            as ``torch.optim.RMSprop``.
        scheduler: As an object: a :class:`siamkit.Scheduler`, or a function ``progress ->
            multiplier``.
        epochs: Passes over the training images.
        batch_size: Images per optimizer step.
        lr: Learning rate of the head. Freeze policies may scale the rate for the other stages.
            ``"auto"``: find one first, as :func:`find_lr` does.
        image_size: Height and width in pixels.
        seed: Seed of all random draws: held-out classes, batches, views, initial weights, dropout.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        run_dir: The directory of the run.
        recipe: ``"auto"``: compare a few recipes on the training classes first, and train with the
            best one. ``"augment"``: the same, but only the augmentation is chosen. Settings that
            are given stay as they are. None: the given settings.
        budget: With ``recipe``: seconds for the comparison and the training together.
        listeners: Called with every :class:`siamkit.Event`.
        progress: Whether to show the log of the run and a progress bar; None: only in a terminal or
            a notebook.
        **sections: Other keys of the config. ``train``, ``engine`` and ``calibration`` are
            mappings, such as ``train={"patience": 3}``; ``track`` is a list of trackers; ``report``
            is True or False.

    Returns:
        The output of ``siamkit train --json``, by attribute or by key.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    given = {
        "data": data, "backbone": backbone, "head": head, "freeze": freeze, "loss": loss,
        "optimizer": optimizer, "scheduler": scheduler, "epochs": epochs, "batch_size": batch_size,
        "lr": lr, "image_size": image_size, "seed": seed, "device": device, "run_dir": run_dir,
        **sections,
    }  # fmt: skip
    own = checked(listeners)
    resolved, known, memory = resolved_call(config, given)
    choice = choice_of(recipe, budget, values_of(config, given))
    with log_of(progress) as log:
        listeners = (*own, *log)
        if memory is not None:
            return _fit_on(memory, resolved, known, listeners, choice)
        if choice is not None:
            return fit_with_recipe(resolved, known, choice, listeners)
        return TrainingResult(_fit.fit(resolved, known, listeners, observers()))


def _fit_on(
    data: Any,
    config: RunConfig,
    known: Mapping[str, Registry],
    listeners: Sequence[Listener],
    choice: Choice | None,
) -> TrainingResult:
    """Train on data that is given in Python. Images in memory are saved in the run's directory."""
    notices: list[str] = []
    items = items_of(data, notices)
    goes_on = choice is not None and config.run_dir is not None and is_begun(RunDir(config.run_dir))
    kept = (_DATA,) if goes_on else ()
    run = RunDir(RunDir.reserve(config, restart=goes_on, kept=kept).path.absolute())
    try:
        config = placed(items, config, run.path / _DATA).model_copy(update={"run_dir": run.path})
        if choice is not None:
            return fit_with_recipe(config, known, choice, listeners, notices=notices, reserved=run)
        return TrainingResult(
            _fit.fit(config, known, listeners, observers(), notices=notices, reserved=run)
        )
    finally:
        # The run was refused before it started. A choice of its recipe that was stopped goes on.
        if not run.config.exists() and not is_begun(run):
            shutil.rmtree(run.path, ignore_errors=True)


@usual_settings()
def inspect(
    config: Config | None = None,
    *,
    parameters: bool = False,
    measure: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    **sections: Any,
) -> InspectionResult:
    """Return the phases of a run without training: the stages that train, and their cost.

    Args:
        config: As for :func:`fit`; or the directory of a run, to show the phases of that run.
            ``**sections`` cannot be combined with a run.
        parameters: Also list every parameter.
        measure: Also load the weights and data, time each phase, and report how siamkit would
            compute its frozen part: once from a cache or for every batch, with which kernel, and
            why. Not allowed for a run directory.
        progress: Called with the name of a step, the number of finished phases, and the number of
            all phases.
        **sections: Arguments as for :func:`fit`: names, mappings or objects.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    if isinstance(config, str | os.PathLike) and (path := path_of(config, "config")).is_dir():
        if given := [name for name, value in sections.items() if value is not None]:
            raise ConfigError(
                f"is the directory of a run, so it cannot be combined with {', '.join(given)}",
                where=str(config),
                hint=f"siamkit.inspect({str(path / 'config.yaml')!r}, ...) takes them",
            )
        if measure:
            raise ConfigError(
                f"{argument('measure', True)} works only before a run; this run's phases were "
                "measured in training",
                where=str(config),
                hint="its events.jsonl holds the numbers in the events named 'engine'",
            )
        run = open_run(config)
        is_int8 = run.config.backbone.int8 is not None
        return InspectionResult(
            _inspection.inspect(
                run.config,
                registries(),
                history=run.history,
                weights="none",
                tensors=run.some_checkpoint().model if is_int8 else None,
                parameters=parameters,
                progress=progress,
            )
        )
    resolved, known, memory = resolved_call(config, sections)
    notices: list[str] = []
    with TemporaryDirectory() as folder:
        if memory is not None:
            resolved = placed(items_of(memory, notices), resolved, Path(folder).resolve())
        found = _inspection.inspect(
            resolved, known, parameters=parameters, measure=measure, progress=progress
        )
    return InspectionResult({**found, "notices": [*notices, *found["notices"]]})
