"""What a comparison must share with its beginning."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from siamkit import api
from siamkit.comparison.arms import Arm
from siamkit.comparison.facts import configs_of, facts
from siamkit.comparison.plan import Plan
from siamkit.errors import CheckpointError

FREE = Arm("free", {"freeze.name": "full"})


def facts_of(plan: Plan, **backbone: Any) -> dict[str, Any]:
    known = api.registries()
    base = api.load_config({"backbone": {"name": "timm:test_resnet", **backbone}})
    return facts(plan, base, known, "data")


@pytest.mark.parametrize("where", ["base", "arm", "tuned", "folder"])
def test_the_content_of_every_weights_file_counts(tmp_path: Path, where: str) -> None:
    file = tmp_path / "model.safetensors"
    plans = {
        "base": Plan((FREE,)),
        "arm": Plan((FREE, Arm("own", {"backbone.weights": str(file)}))),
        "tuned": Plan((FREE,), tuned={"backbone.weights": (str(file),)}),
        "folder": Plan((FREE, Arm("own", {"backbone.name": f"timm:local-dir:{tmp_path}"}))),
    }
    own = {"weights": str(file)} if where == "base" else {}

    def seen(content: str) -> dict[str, Any]:
        file.write_text(content)
        return facts_of(plans[where], **own)

    first = seen("one")
    assert seen("one") == first
    other = seen("other")
    assert [key for key in first if first[key] != other[key]] == ["weights"]


@pytest.mark.parametrize("where", ["base", "arm"])
def test_a_missing_weights_file_is_named(tmp_path: Path, where: str) -> None:
    missing = str(tmp_path / "model.safetensors")
    arm = Arm("own", {"backbone.weights": missing} if where == "arm" else {"freeze.name": "full"})
    with pytest.raises(CheckpointError, match=re.escape(missing)):
        facts_of(Plan((arm,)), **({"weights": missing} if where == "base" else {}))


def test_both_files_of_a_checkpoint_count(tmp_path: Path) -> None:
    for name in ("model.safetensors", "frozen.safetensors"):
        (tmp_path / name).write_text("one")
    plan, own = Plan((FREE,)), {"weights": str(tmp_path / "model.safetensors")}
    first = facts_of(plan, **own)
    (tmp_path / "frozen.safetensors").write_text("other")
    assert facts_of(plan, **own)["weights"] != first["weights"]


def test_the_files_of_two_arms_cannot_be_exchanged(tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    arms = tuple(Arm(file.name, {"backbone.weights": str(file)}) for file in files)

    def seen(*contents: str) -> Any:
        for file, content in zip(files, contents, strict=True):
            file.write_text(content)
        return facts_of(Plan(arms))["weights"]

    assert seen("one", "other") != seen("other", "one")


def test_a_file_may_be_moved(tmp_path: Path) -> None:
    """Its content counts, as that of the images does."""
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_text("one")
    first, second = (
        facts_of(Plan((FREE,)), weights=str(tmp_path / f"{name}.safetensors")) for name in "ab"
    )
    assert first == second


def test_the_plugins_of_tuned_components_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from siamkit.comparison import facts as module

    seen: list[str] = []
    monkeypatch.setattr(module, "providers", lambda one, _: seen.append(one.loss.name) or {})
    facts_of(Plan((FREE,), tuned={"loss.name": ("triplet", "supcon")}))
    assert seen == ["triplet", "supcon"]


def test_each_arm_has_a_config_for_each_variant_with_the_users_options() -> None:
    known = api.registries()
    own = {"loss.margin": 0.3}
    still = Arm("still", {"head.name": "identity", "train.epochs": 0}, trains=False)
    plan = Plan((still, FREE), tuned={"loss.name": ("triplet", "supcon")}, own=own)
    found = list(configs_of(plan, api.load_config({}), known))
    assert [(arm.name, one.loss.name, one.loss.options.get("margin")) for arm, one in found] == [
        ("still", "multi-similarity", None), ("free", "triplet", 0.3), ("free", "supcon", None),
    ]  # fmt: skip
