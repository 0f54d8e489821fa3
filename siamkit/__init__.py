"""siamkit: fine-tune pretrained vision backbones into embedding models.

``__all__`` lists the public names. All but ``hookimpl`` and ``__version__`` load on first use, so
importing siamkit does not import torch. This keeps ``siamkit --help`` fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from siamkit.hookspecs import hookimpl
from siamkit.lazy import lazily
from siamkit.version import VERSION as __version__

if TYPE_CHECKING:
    from siamkit.api import (
        build_index,
        calibrate,
        check_data,
        compare,
        create_model,
        create_policy,
        evaluate,
        export,
        find_lr,
        fit,
        from_pretrained,
        inspect,
        list_backbones,
        list_freeze_policies,
        list_heads,
        list_losses,
        list_optimizers,
        list_schedulers,
        list_trackers,
        load_embedder,
        load_index,
        load_model,
        phases,
        prune,
        push_to_hub,
        register_backbone,
        register_freeze_policy,
        register_head,
        register_loss,
        register_optimizer,
        register_scheduler,
        register_tracker,
        resume,
        save_pretrained,
        show_data,
        verify_pairs,
        write_report,
    )
    from siamkit.config import RunConfig
    from siamkit.errors import SiamkitError
    from siamkit.inference.embedder import Embedded, Embedder
    from siamkit.inference.gallery.index import Index
    from siamkit.interfaces import (
        Backbone,
        BackboneContext,
        Event,
        FreezePlan,
        FreezePolicy,
        Loss,
        LossContext,
        Options,
        Pairs,
        Phase,
        Preprocessing,
        Progress,
        Scheduler,
        Stage,
        StageOptions,
        Triplets,
    )
    from siamkit.model.siamese import SiameseNet
    from siamkit.portable.calibration import Calibration, Verdict
    from siamkit.portable.gallery import Neighbours
    from siamkit.portable.model import ExportedModel

_HOME = {
    "siamkit.api": (
        "build_index", "calibrate", "check_data", "compare", "create_model", "create_policy",
        "evaluate", "export", "find_lr", "fit", "from_pretrained", "inspect",
        "list_backbones", "list_freeze_policies", "list_heads", "list_losses", "list_optimizers",
        "list_schedulers", "list_trackers",
        "load_embedder", "load_index", "load_model", "phases", "prune",
        "push_to_hub",
        "register_backbone", "register_freeze_policy", "register_head", "register_loss",
        "register_optimizer", "register_scheduler", "register_tracker",
        "resume", "save_pretrained", "show_data",
        "verify_pairs", "write_report",
    ),
    "siamkit.config": ("RunConfig",),
    "siamkit.inference.gallery.index": ("Index",),
    "siamkit.portable.gallery": ("Neighbours",),
    "siamkit.portable.model": ("ExportedModel",),
    "siamkit.inference.embedder": ("Embedded", "Embedder"),
    "siamkit.errors": ("SiamkitError",),
    "siamkit.portable.calibration": ("Calibration", "Verdict"),
    "siamkit.interfaces": (
        "Backbone", "BackboneContext", "Event", "FreezePlan", "FreezePolicy", "Loss",
        "LossContext", "Pairs", "Phase", "Preprocessing", "Progress", "Scheduler",
        "Stage", "StageOptions", "Triplets",
    ),
    "siamkit.model.siamese": ("SiameseNet",),
    "siamkit.options": ("Options",),
}  # fmt: skip

__all__ = [
    "Backbone",
    "BackboneContext",
    "Calibration",
    "Embedded",
    "Embedder",
    "Event",
    "ExportedModel",
    "FreezePlan",
    "FreezePolicy",
    "Index",
    "Loss",
    "LossContext",
    "Neighbours",
    "Options",
    "Pairs",
    "Phase",
    "Preprocessing",
    "Progress",
    "RunConfig",
    "Scheduler",
    "SiameseNet",
    "SiamkitError",
    "Stage",
    "StageOptions",
    "Triplets",
    "Verdict",
    "__version__",
    "build_index",
    "calibrate",
    "check_data",
    "compare",
    "create_model",
    "create_policy",
    "evaluate",
    "export",
    "find_lr",
    "fit",
    "from_pretrained",
    "hookimpl",
    "inspect",
    "list_backbones",
    "list_freeze_policies",
    "list_heads",
    "list_losses",
    "list_optimizers",
    "list_schedulers",
    "list_trackers",
    "load_embedder",
    "load_index",
    "load_model",
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
    "resume",
    "save_pretrained",
    "show_data",
    "verify_pairs",
    "write_report",
]

__getattr__, __dir__ = lazily(__name__, _HOME)
