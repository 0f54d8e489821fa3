"""The plugin contract: the hooks that a plugin may implement.

A plugin is an importable module named by an entry point in the group ``siamkit``. It implements a
hook as a function of the same name, decorated with ``@siamkit.hookimpl``. The function may leave
out arguments that it does not need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    import typer
    from pydantic import BaseModel

    from siamkit.interfaces import Event

GROUP = "siamkit"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Register(Protocol):
    """The ``register`` argument of the registration hooks."""

    def __call__(
        self,
        name: str,
        build: Callable[..., Any],
        *,
        options: type[BaseModel] | None = None,
        summary: str = "",
        pretrained: bool = False,
    ) -> None:
        """Register ``name``.

        Args:
            name: The name that the user types: lower-case letters, digits, ``-``, ``_`` and
                ``.``. A name that ends in ``:`` also stands for every name that begins with it.
            build: ``build(options, context)`` for backbones and losses, ``build(options,
                in_features)`` for heads, ``build(options, groups)`` for optimizers,
                ``build(options)`` for freeze policies, schedulers and trackers.
            options: A pydantic model of the entry's options; None: the entry has no options.
            summary: One line for ``siamkit list``; empty: the first line of ``build``'s docstring.
            pretrained: For backbones: whether ``build`` can load pretrained weights. If it cannot,
                training starts from random weights and reports this, and a user who requires
                pretrained weights gets an error.
        """


@hookspec
def siamkit_register_backbones(register: Register) -> None:
    """Register backbones: ``build(options, context: BackboneContext) -> nn.Module | Backbone``."""


@hookspec
def siamkit_register_heads(register: Register) -> None:
    """Register heads: ``build(options, in_features: int) -> nn.Module``.

    The module maps features ``[N, in_features]`` to embeddings ``[N, E]``. If the options are
    :class:`siamkit.StageOptions`, the features are the pooled outputs of several stages. If the
    module has a method ``closed_form(features [N, D], labels [N])`` that returns its state, a run
    loads this state before the first step, and with ``head.trained: false`` after each epoch too.
    """


@hookspec
def siamkit_register_freeze_policies(register: Register) -> None:
    """Register freeze policies: ``build(options) -> FreezePolicy``."""


@hookspec
def siamkit_register_losses(register: Register) -> None:
    """Register losses: ``build(options, context: LossContext) -> Loss``."""


@hookspec
def siamkit_register_optimizers(register: Register) -> None:
    """Register optimizers: ``build(options, groups) -> torch.optim.Optimizer``.

    Each group is a dict with ``params``, ``lr``, ``weight_decay``, the ``names`` of the parameters
    and the ``stage`` that they belong to. The optimizer must keep the groups as they are, because
    siamkit sets the rates by stage. The groups hold every parameter from the start, frozen ones
    too.
    """


@hookspec
def siamkit_register_schedulers(register: Register) -> None:
    """Register schedulers: ``build(options) -> Scheduler``."""


@hookspec
def siamkit_register_trackers(register: Register) -> None:
    """Register trackers: ``build(options) -> Callable[[Event], None]``, called with every event.

    siamkit calls ``build`` before the run writes anything. ``build`` imports what it needs and
    raises if something is missing, but opens nothing. The event ``run_start`` holds the run's
    directory (``run_dir``), its config (``config``), and the number of optimizer steps that the run
    has completed (``finished_steps``; 0 for a new run).
    If the tracker has a method ``close()``, siamkit calls it once when the run ends, also after
    an error.
    """


@hookspec
def siamkit_register_commands(app: typer.Typer) -> None:
    """Add commands to the ``siamkit`` command line."""


@hookspec
def siamkit_event(event: Event) -> None:
    """Observe the events of every run, in the main process. The hook must not change the run."""
