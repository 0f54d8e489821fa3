"""What ``import siamkit`` gives is a promise."""

import subprocess
import sys

import pytest

import siamkit

NAMES = [
    "Backbone", "BackboneContext", "Calibration", "Embedded", "Embedder", "Event", "ExportedModel",
    "FreezePlan",
    "FreezePolicy", "Index", "Loss", "LossContext", "Neighbours", "Options", "Pairs", "Phase",
    "Preprocessing", "Progress", "RunConfig", "Scheduler", "SiameseNet", "SiamkitError",
    "Stage", "StageOptions", "Triplets", "Verdict", "__version__", "build_index", "calibrate",
    "check_data",
    "compare",
    "create_model", "create_policy", "evaluate", "export", "find_lr", "fit", "from_pretrained",
    "hookimpl",
    "inspect", "list_backbones", "list_freeze_policies", "list_heads", "list_losses",
    "list_optimizers", "list_schedulers", "list_trackers", "load_embedder", "load_index",
    "load_model", "phases", "prune", "push_to_hub", "register_backbone", "register_freeze_policy",
    "register_head", "register_loss", "register_optimizer", "register_scheduler",
    "register_tracker", "resume", "save_pretrained", "show_data", "verify_pairs", "write_report",
]  # fmt: skip


def test_the_public_names_are_these():
    assert siamkit.__all__ == NAMES
    assert dir(siamkit) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_resolves_and_is_documented(name):
    value = getattr(siamkit, name)
    if not name.startswith("__") and name != "hookimpl":
        assert value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'siamkit' has no attribute 'fti'"):
        siamkit.fti  # noqa: B018


def test_the_version_is_the_distributions():
    from importlib.metadata import version

    assert siamkit.__version__ == version("siamkit")


def test_importing_siamkit_imports_no_torch():
    code = "import siamkit, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
