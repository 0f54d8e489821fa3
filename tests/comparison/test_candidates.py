"""The candidates of a recipe, and what the user leaves open of them."""

from __future__ import annotations

from siamkit.comparison.candidates import CANDIDATES, candidates, keys
from siamkit.config.augment import PRESETS


def test_what_the_user_sets_is_not_tried() -> None:
    every = candidates(())
    assert [dict(arm.values) for arm in every] == [dict(values) for values in CANDIDATES]
    for key in ("loss.name", "freeze.name", "head.name", "data.augment.preset"):
        left = candidates({key})
        assert left
        assert not any(key in arm.values for arm in left)
        assert len({arm.name for arm in left}) == len(left)
    assert not any("freeze.warmup" in arm.values for arm in candidates({"freeze.name"}))
    assert candidates({key for values in CANDIDATES for key in values}) == ()


def test_the_augmentation_alone_can_be_open() -> None:
    every = candidates((), "augment")
    presets = {preset for arm in every for preset in arm.values.values()}
    assert all(set(arm.values) == {"data.augment.preset"} for arm in every)
    assert presets <= set(PRESETS) and {"objects", "none"} <= presets
    assert candidates({"data.augment.preset"}, "augment") == ()
    assert candidates({"loss.name", "freeze.name"}, "augment") == every


def test_the_keys_are_those_that_some_candidate_sets() -> None:
    assert keys("augment") == {"data.augment.preset"}
    assert keys("auto") == {key for arm in candidates(()) for key in arm.values}
