"""siamkit in Python: the functions behind the command line."""

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
from siamkit.api.galleries import build_index, embed, load_index, search
from siamkit.api.models import load, load_model
from siamkit.api.pretrained import from_pretrained, save_pretrained
from siamkit.api.quality import calibrate, check_data, evaluate
from siamkit.api.runs import Config, create_model, create_policy, fit, inspect, phases, resume
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
    "load",
    "load_config",
    "load_index",
    "load_model",
    "phases",
    "push_to_hub",
    "registries",
    "resume",
    "save_pretrained",
    "search",
]
