"""The built-in plugins, registered by the entry point ``builtins`` like any other plugin."""

from siamkit.builtins.backbones import siamkit_register_backbones
from siamkit.builtins.freeze_policies import siamkit_register_freeze_policies
from siamkit.builtins.heads import siamkit_register_heads
from siamkit.builtins.losses import siamkit_register_losses
from siamkit.builtins.optimizers import siamkit_register_optimizers
from siamkit.builtins.schedulers import siamkit_register_schedulers
from siamkit.builtins.trackers import siamkit_register_trackers

__all__ = [
    "siamkit_register_backbones",
    "siamkit_register_freeze_policies",
    "siamkit_register_heads",
    "siamkit_register_losses",
    "siamkit_register_optimizers",
    "siamkit_register_schedulers",
    "siamkit_register_trackers",
]
