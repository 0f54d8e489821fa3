"""Turns any exception that stops a command into an error of siamkit."""

import traceback
from pathlib import Path
from typing import Any

import typer

from siamkit.errors import (
    ConfigError,
    Interrupted,
    ResourceError,
    SiamkitError,
    did_you_mean,
    is_out_of_memory,
)
from siamkit.portable.signals import interrupted


def as_siamkit_error(error: BaseException) -> SiamkitError:
    """Return the error of siamkit that explains ``error`` to the user."""
    if isinstance(error, SiamkitError):
        return error
    if isinstance(error, typer.Abort):
        return Interrupted("interrupted", exit_code=130)
    if isinstance(error, KeyboardInterrupt):
        return interrupted(error)
    # Some versions of typer bundle click, others depend on it. Their exceptions share only this
    # method.
    if hasattr(error, "format_message"):
        return _usage_error(error)
    from siamkit.files import refused_by_system  # imports hashlib, which --help does not need

    if refused := refused_by_system(error):
        return refused
    if is_out_of_memory(error):
        return ResourceError(
            "out of memory",
            hint="use smaller images (--image-size), a smaller backbone, or smaller forward passes "
            "(--micro-batch N)",
        )
    return _bug(error)


def _usage_error(error: Any) -> ConfigError:
    """Return one of click's usage errors as an error of siamkit."""
    from siamkit.problems import reword

    context = getattr(error, "ctx", None)
    command = context.command_path if context else "siamkit"
    usage = f"'{command} --help' shows the usage"
    if context and hasattr(error, "possibilities"):
        options = [name for p in context.command.get_params(context) for name in p.opts]
        near = did_you_mean(error.option_name, options)
        return ConfigError(
            f"no such option {error.option_name!r}",
            where=command,
            hint=f"{near} {usage}" if near else usage,
        )
    parameter = getattr(error, "param", None)
    where = command
    message = error.format_message()
    if parameter is not None and error.message:
        where = name_of(parameter)
        message = reword(error.message)
    message = message.rstrip(".")
    return ConfigError(message[:1].lower() + message[1:], where=where, hint=usage)


def name_of(parameter: Any) -> str:
    """Return the name of an option or an argument as the help shows it: ``--output``, ``RUN``."""
    if parameter.param_type_name == "option":
        return str(parameter.opts[0])
    return str(parameter.metavar or parameter.name)


def _bug(error: BaseException) -> SiamkitError:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = str(error).strip() or "no message"
    return SiamkitError(
        f"unexpected {type(error).__name__}: {text}{place}",
        hint="this is a bug in siamkit or in a plugin; 'siamkit --debug ...' or SIAMKIT_DEBUG=1 "
        "shows where it happened",
    )
