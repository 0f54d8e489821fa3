"""The plugin contract: what a plugin may implement.

A plugin is an importable module named by an entry point in the group ``siamkit``. It decorates
functions of these names with ``@siamkit.hookimpl``; each takes any subset of the arguments.
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
            name: What the user types: lower case, digits, ``-``, ``_`` and ``.``. A name that ends
                in ``:`` answers for every name it begins.
            build: ``build(options, context)`` for backbones and losses, ``build(options,
                in_features)`` for heads, ``build(options, groups)`` for optimizers,
                ``build(options)`` for freeze policies, schedulers and trackers.
            options: A pydantic model of the entry's options; none if left out.
            summary: One line for ``siamkit list``; the first line of ``build``'s docstring if
                left out.
            pretrained: For backbones: ``build`` can load pretrained weights. Where it can't,
                training starts from random weights and says so.
        """


@hookspec
def siamkit_register_backbones(register: Register) -> None:
    """Register backbones: ``build(options, context: BackboneContext) -> nn.Module | Backbone``."""


@hookspec
def siamkit_register_heads(register: Register) -> None:
    """Register heads: ``build(options, in_features: int) -> nn.Module``.

    The module maps features ``[N, in_features]`` to embeddings ``[N, E]``.
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
    and the ``stage`` they belong to. The optimizer keeps the groups as they are: rates are set by
    stage. It owns every parameter from the start, frozen ones too.
    """


@hookspec
def siamkit_register_schedulers(register: Register) -> None:
    """Register schedulers: ``build(options) -> Scheduler``."""


@hookspec
def siamkit_register_trackers(register: Register) -> None:
    """Register trackers: ``build(options) -> Callable[[Event], None]``, told all of a run.

    ``build`` is called before anything is written: it imports what it needs, and raises where that
    is missing, but opens nothing. ``run_start`` says where the run is (``run_dir``), what it is
    (``config``), and after which step it goes on (``start_step``). If what ``build`` returns has a
    method ``close()``, that is called once when the run ends, however it ends.
    """


@hookspec
def siamkit_register_commands(app: typer.Typer) -> None:
    """Add commands to the ``siamkit`` command line."""


@hookspec
def siamkit_event(event: Event) -> None:
    """Observe every run. Called in the main process, after the fact; must not change the run."""
