"""siamkit in Python: the functions behind the command line."""

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
from siamkit.api.exporting import export
from siamkit.api.galleries import build_index, embed, load_index, search
from siamkit.api.models import load_embedder, load_model, open_run
from siamkit.api.pretrained import from_pretrained, save_pretrained
from siamkit.api.pruning import prune
from siamkit.api.quality import calibrate, check_data, evaluate, verify_pairs
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
from siamkit.model.pretrained.push import push_to_hub

__all__ = [
    "Config",
    "build_index",
    "calibrate",
    "check_data",
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
    "verify_pairs",
    "write_report",
]
