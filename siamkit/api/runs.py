"""Networks, plans and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from siamkit import plugins
from siamkit.api.entries import load_config, registries
from siamkit.api.models import open_run
from siamkit.config import RunConfig, is_resolved, read_file
from siamkit.errors import ConfigError
from siamkit.interfaces import Event, FreezePolicy, Phase
from siamkit.model.create import create_net
from siamkit.model.siamese import SiameseNet
from siamkit.runs.events import Listener
from siamkit.training import fit as _fit
from siamkit.training import inspection as _inspection
from siamkit.training.build import build_policy

Config = RunConfig | Mapping[str, Any] | str | Path
"""A resolved config, nested values, or the path of a YAML file."""


def create_model(
    backbone: str = "resnet50",
    *,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    head: str | Mapping[str, Any] = "residual",
    in_chans: int = 3,
    image_size: int | None = None,
    **options: Any,
) -> SiameseNet:
    """Build a Siamese network.

    Args:
        backbone: A name of :func:`list_backbones`, or ``timm:<model>``.
        pretrained: Load pretrained weights: True, False, or None for "where there are any".
        weights: A ``.safetensors`` or ``.pth`` file for the backbone instead.
        head: A head's name, or its name and options: ``{"name": "mlp", "dim": 64}``.
        in_chans: Image channels.
        image_size: Pixels a side; None for the backbone's own.
        **options: Options of the backbone.

    Raises:
        ConfigError: A name or an option is wrong.
        CheckpointError: Weights can't be had or don't fit.
    """
    layer = {
        "backbone": {"name": backbone, "pretrained": pretrained, "weights": weights, **options},
        "head": head,
        "data": {"in_chans": in_chans, "image_size": image_size},
    }
    return create_net(load_config(layer), registries()).net


def create_policy(name: str, **options: Any) -> FreezePolicy:
    """Build a freeze policy by name.

    Raises:
        ConfigError: The name or an option is wrong.
    """
    return build_policy(load_config({"freeze": {"name": name, **options}}), registries())


def plan(
    net: SiameseNet, policy: str | FreezePolicy = "stages", epochs: int = 10, **options: Any
) -> tuple[Phase, ...]:
    """Return the phases that a policy makes of a run.

    Args:
        net: The network.
        policy: A name of :func:`list_freeze_policies`, or a policy.
        epochs: Epochs in the run.
        **options: Options of a named policy.
    """
    from siamkit.freezing.schedule import phases

    chosen = create_policy(policy, **options) if isinstance(policy, str) else policy
    return phases(chosen, net.stages(), epochs)


def fit(config: Config | None = None, *, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Train, and return what ``siamkit train --json`` prints.

    Args:
        config: A config, nested values, or a YAML file; None for the defaults.
        listeners: Called with every :class:`siamkit.Event`.

    Returns:
        ``run_dir``, ``epochs``, ``phases``, ``metrics`` (``untrained``, ``best``, ``last``, and
        ``test`` where the data has one), ``history``, ``calibration`` (None where the held-out
        images don't allow it).

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    return _fit.fit(_config(config), registries(), listeners, _observers())


def resume(run_dir: str | Path, *, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Go on with an interrupted run; otherwise as :func:`fit`.

    Raises:
        CheckpointError: There is no run, no intact checkpoint, or the data changed.
    """
    return _fit.resume(Path(run_dir), registries(), listeners, _observers())


def inspect(
    config: Config | None = None, *, parameters: bool = False, measure: bool = False
) -> dict[str, Any]:
    """Return what ``siamkit inspect --json`` prints.

    Args:
        config: As for :func:`fit`; or a run directory, whose phases are then those it went through.
        parameters: Also list every parameter.
        measure: Also load the weights and data, time each phase, and say how the engine would run
            it: cached or live, with which kernel, and why. Not for a run directory.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    if isinstance(config, str | Path) and Path(config).is_dir():
        if measure:
            raise ConfigError(
                "the phases of a run were measured when they began",
                where=str(config),
                hint="its events.jsonl holds the numbers in the events named 'engine'",
            )
        run = open_run(config)
        return _inspection.inspect(
            run.config, registries(), history=run.history, weights="none", parameters=parameters
        )
    return _inspection.inspect(
        _config(config), registries(), parameters=parameters, measure=measure
    )


def _config(config: Config | None) -> RunConfig:
    if isinstance(config, RunConfig):
        return config if is_resolved(config) else load_config(config.to_values())
    if isinstance(config, str | Path):
        return load_config(read_file(Path(config)), where=str(config))
    return load_config(config or {})


def _observers() -> list[Listener]:
    """Return one observer for each plugin that watches runs, so that each can fail alone."""
    manager = plugins.get().manager
    found: list[Listener] = []
    for caller in manager.hook.siamkit_event.get_hookimpls():
        others = [p for p in manager.get_plugins() if p is not caller.plugin]
        found.append(partial(_notify, manager.subset_hook_caller("siamkit_event", others)))
    return found


def _notify(hook: Any, event: Event) -> None:
    hook(event=event)
