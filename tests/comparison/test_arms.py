from __future__ import annotations

from typing import Any

import pytest

from siamkit.api.entries import registries
from siamkit.comparison.arms import CLOSED, UNTRAINED, Arm, arms_of, keeping


def test_arms_are_all_combinations_after_two_networks_without_training():
    arms = arms_of({"freeze.name": ["full", "stages"], "loss.name": ["triplet", "supcon"]})
    assert [arm.name for arm in arms] == [
        UNTRAINED, CLOSED,
        "full, triplet", "full, supcon", "stages, triplet", "stages, supcon",
    ]  # fmt: skip
    assert arms[3].values == {"freeze.name": "full", "loss.name": "supcon"}
    assert [arm.trains for arm in arms] == [False, False, True, True, True, True]


def test_only_what_varies_is_in_the_name():
    arms = arms_of({"freeze.name": ["full"], "optimizer.lr": [0.1, 0.2]})
    assert [arm.name for arm in arms if arm.trains] == ["optimizer.lr=0.1", "optimizer.lr=0.2"]
    assert all(arm.values["freeze.name"] == "full" for arm in arms if arm.trains)
    assert [arm.name for arm in arms_of({"freeze.name": ["full"]}) if arm.trains] == ["full"]


def test_each_backbone_has_its_own_networks_without_training():
    arms = arms_of({"backbone.name": ["a", "b"]})
    still = {arm.name: arm.values["backbone.name"] for arm in arms if not arm.trains}
    assert still == {
        "untrained a": "a", "closed form a": "a", "untrained b": "b", "closed form b": "b",
    }  # fmt: skip
    (only,) = {arm.values["backbone.name"] for arm in arms_of({"backbone.name": ["a"]})}
    assert only == "a"


@pytest.mark.parametrize(("head", "closed"), [("auto", "auto"), ("linear", "auto"),
                                              ("multistage", "multistage")])  # fmt: skip
def test_the_closed_form_is_the_users_own_or_one_that_fits_any_backbone(head: str, closed: str):
    (arm,) = (arm for arm in arms_of({"freeze.name": ["full"]}, head) if arm.name == CLOSED)
    assert arm.values["head.name"] == closed


def test_the_layer_of_an_arm_is_nested_by_section():
    arm = arms_of({"data.augment.preset": ["marks"], "loss.name": ["triplet"]})[-1]
    assert arm.layer == {"data": {"augment": {"preset": "marks"}}, "loss": {"name": "triplet"}}
    assert arm.name == "marks, triplet"


@pytest.mark.parametrize(
    ("chosen", "own", "kept"),
    [
        # An option without a choice of the user applies to what is chosen in the end.
        ({"data.augment.preset": "marks"}, {"data.augment.hue": 0.1}, {"data.augment.hue": 0.1}),
        ({"freeze.name": "stages"}, {"freeze.warmup": 0}, {"freeze.warmup": 0}),
        ({"loss.name": "triplet"}, {"loss.margin": 0.3}, {"loss.margin": 0.3}),
        # The options of a choice go with it.
        (
            {"data.augment.preset": "marks"},
            {"data.augment.preset": "faces", "data.augment.rotate": 10},
            {},
        ),
        ({"loss.name": "triplet"}, {"loss.name": "contrastive", "loss.margin": 0.3}, {}),
        # What the choice does not have is left out, and what the arm sets itself stays.
        ({"freeze.name": "freeze-all"}, {"freeze.warmup": 0}, {}),
        ({"freeze.name": "no such policy"}, {"freeze.warmup": 0}, {}),
        ({"freeze.name": "stages", "freeze.warmup": 3}, {"freeze.warmup": 0}, {}),
        # Keys that stay whatever is chosen are in the base config, as are other sections.
        ({"head.name": "mlp"}, {"head.normalize": False, "optimizer.lr": 0.1}, {}),
        ({"freeze.name": "stages"}, {"data.augment.rotate": 10, "data.path": "photos"}, {}),
    ],
)  # fmt: skip
def test_the_options_of_the_user_apply_to_what_an_arm_chooses(
    chosen: dict[str, Any], own: dict[str, Any], kept: dict[str, Any]
):
    arm = keeping(Arm("arm", chosen), own, registries())
    assert arm == Arm("arm", {**chosen, **kept})
