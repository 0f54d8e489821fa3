"""Registers names that a script or a notebook defines, in this process only.

A plugin registers its names for everyone who installs it. These functions register a name only in
the process that calls them. There, the name works in configs, in every function and in lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pydantic import BaseModel

from siamkit import plugins
from siamkit.registry import KINDS


def register_backbone(
    name: str,
    build: Callable[..., Any],
    *,
    options: type[BaseModel] | None = None,
    summary: str = "",
    pretrained: bool = False,
    replace: bool = False,
) -> None:
    """Register a backbone in this process: ``build(options, context) -> nn.Module``.

    Args:
        name: The name in a config: lower-case letters, digits, ``-``, ``_`` and ``.``.
        build: The function that builds the backbone.
        options: A pydantic model of the options; None: there are no options.
        summary: One line for lists; empty: the first line of ``build``'s docstring.
        pretrained: Whether ``build`` can load pretrained weights.
        replace: Replace an entry that this process registered under the name.

    Raises:
        PluginError: An argument is wrong, or the name is registered already.
    """
    plugins.register(
        "backbones", name, build, options=options, summary=summary, pretrained=pretrained,
        replace=replace,
    )  # fmt: skip


class _Register(Protocol):
    def __call__(
        self,
        name: str,
        build: Callable[..., Any],
        *,
        options: type[BaseModel] | None = None,
        summary: str = "",
        replace: bool = False,
    ) -> None: ...


def _registering(kind: str, what: str, builds: str) -> _Register:
    """Return a function that registers an entry of one kind.

    Args:
        kind: One of :data:`siamkit.registry.KINDS`.
        what: The kind's name with its article.
        builds: The signature of ``build``.
    """

    def register(
        name: str,
        build: Callable[..., Any],
        *,
        options: type[BaseModel] | None = None,
        summary: str = "",
        replace: bool = False,
    ) -> None:
        plugins.register(kind, name, build, options=options, summary=summary, replace=replace)

    register.__name__ = register.__qualname__ = "register_" + KINDS[kind].singular.replace(" ", "_")
    register.__doc__ = f"""Register {what} in this process: ``{builds}``.

    Args:
        name: The name in a config: lower-case letters, digits, ``-``, ``_`` and ``.``.
        build: The function that builds {what}.
        options: A pydantic model of the options; None: there are no options.
        summary: One line for lists; empty: the first line of ``build``'s docstring.
        replace: Replace an entry that this process registered under the name.

    Raises:
        PluginError: An argument is wrong, or the name is registered already.
    """
    return register


register_head = _registering("heads", "a head", "build(options, in_features: int) -> nn.Module")
register_freeze_policy = _registering(
    "freeze_policies", "a freeze policy", "build(options) -> FreezePolicy"
)
register_loss = _registering("losses", "a loss", "build(options, context: LossContext) -> Loss")
register_optimizer = _registering(
    "optimizers", "an optimizer", "build(options, groups) -> torch.optim.Optimizer"
)
register_scheduler = _registering("schedulers", "a scheduler", "build(options) -> Scheduler")
register_tracker = _registering(
    "trackers", "a tracker", "build(options) -> Callable[[Event], None]"
)
