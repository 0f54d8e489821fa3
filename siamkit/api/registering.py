"""Registration in this process, for entries that a script or a notebook defines.

A plugin registers its entries for everyone who installs it. These functions register entries only
in the process that calls them. The names then work in configs, in every function and in lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from siamkit import plugins


def register_backbone(
    name: str,
    build: Callable[..., Any],
    *,
    options: type[BaseModel] | None = None,
    summary: str = "",
    pretrained: bool = False,
) -> None:
    """Register a backbone in this process: ``build(options, context) -> nn.Module``.

    Args:
        name: The name in a config: lower-case letters, digits, ``-``, ``_`` and ``.``.
        build: The function that builds it.
        options: A pydantic model of its options; None: it has no options.
        summary: One line for lists; empty: the first line of ``build``'s docstring.
        pretrained: ``build`` can load pretrained weights.

    Raises:
        PluginError: An argument is wrong, or a plugin has registered the name.
    """
    plugins.register(
        "backbones", name, build, options=options, summary=summary, pretrained=pretrained
    )


def register_head(
    name: str,
    build: Callable[..., Any],
    *,
    options: type[BaseModel] | None = None,
    summary: str = "",
) -> None:
    """Register a head in this process: ``build(options, in_features: int) -> nn.Module``.

    Args:
        name: The name in a config: lower-case letters, digits, ``-``, ``_`` and ``.``.
        build: The function that builds it.
        options: A pydantic model of its options; None: it has no options.
        summary: One line for lists; empty: the first line of ``build``'s docstring.

    Raises:
        PluginError: An argument is wrong, or a plugin has registered the name.
    """
    plugins.register("heads", name, build, options=options, summary=summary)


def register_freeze_policy(
    name: str,
    build: Callable[..., Any],
    *,
    options: type[BaseModel] | None = None,
    summary: str = "",
) -> None:
    """Register a freeze policy in this process: ``build(options) -> FreezePolicy``.

    Args:
        name: The name in a config: lower-case letters, digits, ``-``, ``_`` and ``.``.
        build: The function that builds it.
        options: A pydantic model of its options; None: it has no options.
        summary: One line for lists; empty: the first line of ``build``'s docstring.

    Raises:
        PluginError: An argument is wrong, or a plugin has registered the name.
    """
    plugins.register("freeze_policies", name, build, options=options, summary=summary)


def register_loss(
    name: str,
    build: Callable[..., Any],
    *,
    options: type[BaseModel] | None = None,
    summary: str = "",
) -> None:
    """Register a loss in this process: ``build(options, context: LossContext) -> Loss``.

    Args:
        name: The name in a config: lower-case letters, digits, ``-``, ``_`` and ``.``.
        build: The function that builds it.
        options: A pydantic model of its options; None: it has no options.
        summary: One line for lists; empty: the first line of ``build``'s docstring.

    Raises:
        PluginError: An argument is wrong, or a plugin has registered the name.
    """
    plugins.register("losses", name, build, options=options, summary=summary)


def register_optimizer(
    name: str,
    build: Callable[..., Any],
    *,
    options: type[BaseModel] | None = None,
    summary: str = "",
) -> None:
    """Register an optimizer in this process: ``build(options, groups) -> torch.optim.Optimizer``.

    Args:
        name: The name in a config: lower-case letters, digits, ``-``, ``_`` and ``.``.
        build: The function that builds it.
        options: A pydantic model of its options; None: it has no options.
        summary: One line for lists; empty: the first line of ``build``'s docstring.

    Raises:
        PluginError: An argument is wrong, or a plugin has registered the name.
    """
    plugins.register("optimizers", name, build, options=options, summary=summary)


def register_scheduler(
    name: str,
    build: Callable[..., Any],
    *,
    options: type[BaseModel] | None = None,
    summary: str = "",
) -> None:
    """Register a scheduler in this process: ``build(options) -> Scheduler``.

    Args:
        name: The name in a config: lower-case letters, digits, ``-``, ``_`` and ``.``.
        build: The function that builds it.
        options: A pydantic model of its options; None: it has no options.
        summary: One line for lists; empty: the first line of ``build``'s docstring.

    Raises:
        PluginError: An argument is wrong, or a plugin has registered the name.
    """
    plugins.register("schedulers", name, build, options=options, summary=summary)


def register_tracker(
    name: str,
    build: Callable[..., Any],
    *,
    options: type[BaseModel] | None = None,
    summary: str = "",
) -> None:
    """Register a tracker in this process: ``build(options) -> Callable[[Event], None]``.

    Args:
        name: The name in a config: lower-case letters, digits, ``-``, ``_`` and ``.``.
        build: The function that builds it.
        options: A pydantic model of its options; None: it has no options.
        summary: One line for lists; empty: the first line of ``build``'s docstring.

    Raises:
        PluginError: An argument is wrong, or a plugin has registered the name.
    """
    plugins.register("trackers", name, build, options=options, summary=summary)
