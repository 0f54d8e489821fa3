"""siamkit in Python: the functions behind the command line.

Each function loads on first use. Most functions import torch. The functions that run an exported
model do not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from siamkit.lazy import lazily

if TYPE_CHECKING:
    from siamkit.api.calibrating import calibrate
    from siamkit.api.checking import check_data
    from siamkit.api.comparing import compare
    from siamkit.api.configuring import Config
    from siamkit.api.continuing import resume
    from siamkit.api.entries import (
        list_backbones,
        list_freeze_policies,
        list_heads,
        list_losses,
        list_optimizers,
        list_schedulers,
        list_trackers,
        load_config,
        registries,
    )
    from siamkit.api.evaluating import evaluate
    from siamkit.api.exporting import export
    from siamkit.api.galleries import (
        any_embedder,
        build_index,
        embed,
        load_index,
        search,
        verify_pairs,
    )
    from siamkit.api.models import load_embedder, load_model, open_run
    from siamkit.api.pretrained import from_pretrained, save_pretrained
    from siamkit.api.pruning import prune
    from siamkit.api.rates import find_lr
    from siamkit.api.registering import (
        register_backbone,
        register_freeze_policy,
        register_head,
        register_loss,
        register_optimizer,
        register_scheduler,
        register_tracker,
    )
    from siamkit.api.reports import write_report
    from siamkit.api.runs import create_model, create_policy, fit, inspect, phases
    from siamkit.api.showing import show_data
    from siamkit.model.pretrained.push import push_to_hub

_HOME = {
    "siamkit.api.calibrating": ("calibrate",),
    "siamkit.api.checking": ("check_data",),
    "siamkit.api.comparing": ("compare",),
    "siamkit.api.configuring": ("Config",),
    "siamkit.api.continuing": ("resume",),
    "siamkit.api.entries": (
        "list_backbones", "list_freeze_policies", "list_heads", "list_losses",
        "list_optimizers", "list_schedulers", "list_trackers", "load_config", "registries",
    ),
    "siamkit.api.evaluating": ("evaluate",),
    "siamkit.api.exporting": ("export",),
    "siamkit.api.galleries": (
        "any_embedder", "build_index", "embed", "load_index", "search", "verify_pairs",
    ),
    "siamkit.api.models": ("load_embedder", "load_model", "open_run"),
    "siamkit.api.pretrained": ("from_pretrained", "save_pretrained"),
    "siamkit.api.pruning": ("prune",),
    "siamkit.api.rates": ("find_lr",),
    "siamkit.api.registering": (
        "register_backbone", "register_freeze_policy", "register_head", "register_loss",
        "register_optimizer", "register_scheduler", "register_tracker",
    ),
    "siamkit.api.reports": ("write_report",),
    "siamkit.api.runs": ("create_model", "create_policy", "fit", "inspect", "phases"),
    "siamkit.api.showing": ("show_data",),
    "siamkit.model.pretrained.push": ("push_to_hub",),
}  # fmt: skip

__all__ = [
    "Config",
    "any_embedder",
    "build_index",
    "calibrate",
    "check_data",
    "compare",
    "create_model",
    "create_policy",
    "embed",
    "evaluate",
    "export",
    "find_lr",
    "fit",
    "from_pretrained",
    "inspect",
    "list_backbones",
    "list_freeze_policies",
    "list_heads",
    "list_losses",
    "list_optimizers",
    "list_schedulers",
    "list_trackers",
    "load_config",
    "load_embedder",
    "load_index",
    "load_model",
    "open_run",
    "phases",
    "prune",
    "push_to_hub",
    "register_backbone",
    "register_freeze_policy",
    "register_head",
    "register_loss",
    "register_optimizer",
    "register_scheduler",
    "register_tracker",
    "registries",
    "resume",
    "save_pretrained",
    "search",
    "show_data",
    "verify_pairs",
    "write_report",
]

__getattr__, __dir__ = lazily(__name__, _HOME)


def load_all() -> None:
    """Load all names now, so that the first use of a name imports nothing."""
    for module in _HOME:
        importlib.import_module(module)
