"""How a recipe is chosen, from the arguments of a call."""

from __future__ import annotations

from typing import Any

import pytest

from siamkit.api.recipes import choice_of, require_seconds
from siamkit.comparison.recipe import BUDGET
from siamkit.errors import ConfigError


def test_without_a_recipe_nothing_is_chosen():
    assert choice_of(None, None, {"loss": "triplet"}) is None
    with pytest.raises(ConfigError) as caught:
        choice_of(None, 60, {})
    assert str(caught.value) == (
        "budget: works only with a recipe that is chosen; add recipe='auto'"
    )


def test_what_the_user_sets_stays_fixed_and_what_is_open_does_not():
    given: dict[str, Any] = {
        "loss": "triplet", "head": {"name": "mlp", "dim": 64}, "data": {"path": "a", "root": None,
        "augment": "marks"}, "train": {"seed": 3}, "track": ["tensorboard"],
    }  # fmt: skip
    found = choice_of("auto", None, given)
    assert found is not None and found.budget == BUDGET
    assert set(found.fixed) == {
        "loss.name", "head.name", "head.dim", "data.path", "data.augment.preset", "train.seed",
        "track",
    }  # fmt: skip
    path = choice_of("auto", 90, {"data": "photos", "engine": {"cache": "off"}})
    assert path is not None and set(path.fixed) == {"data.path", "engine.cache"}
    assert path.budget == 90.0 and isinstance(path.budget, float)


def test_an_option_fixes_the_component_that_it_belongs_to():
    found = choice_of("auto", None, {"loss": {"alpha": 3.0}, "freeze": {"warmup": 0}})
    assert found is not None
    assert set(found.fixed) == {"loss.alpha", "loss.name", "freeze.warmup", "freeze.name"}
    assert found.own == {"loss.alpha": 3.0, "freeze.warmup": 0}
    free = choice_of("auto", None, {"head": {"normalize": False}, "data": {"augment": {"hue": 0}}})
    assert free is not None
    assert set(free.fixed) == {"head.normalize", "data.augment.hue"}


def test_nothing_to_choose_is_told_by_the_keys_that_matter():
    given = {"data": {"augment": "marks", "path": "photos"}, "train": {"seed": 3}}
    with pytest.raises(ConfigError) as caught:
        choice_of("augment", None, given)
    assert caught.value.got == "data.augment.preset"
    assert str(caught.value).startswith("recipe: there is nothing to choose")


def test_strengths_of_the_augmentation_are_fixed_one_by_one():
    found = choice_of("auto", 1, {"data": {"augment": {"preset": "marks", "blur": 0.1}}})
    assert found is not None
    assert set(found.fixed) == {"data.augment.preset", "data.augment.blur"}


@pytest.mark.parametrize("recipe", ["best", 3, True, ["auto"], ""])
def test_only_auto_is_a_recipe(recipe: Any):
    with pytest.raises(
        ConfigError, match=r"recipe: is no recipe, got .*, allowed: 'auto' or 'augment'"
    ):
        choice_of(recipe, None, {})


def test_the_budget_decides_the_epochs():
    with pytest.raises(ConfigError, match=r"epochs: cannot be combined with a recipe"):
        choice_of("auto", None, {"train": {"epochs": 3}})
    assert choice_of("auto", None, {"train": {"epochs": None}}) is not None


@pytest.mark.parametrize("budget", [1, 0.001, 1e9])
def test_a_budget_is_a_number_of_seconds(budget: Any):
    require_seconds(budget)
    found = choice_of("auto", budget, {})
    assert found is not None and found.budget == budget


@pytest.mark.parametrize("budget", [0, -1.0, float("inf"), float("nan"), True, "60", None])
def test_what_is_no_budget_is_refused(budget: Any):
    with pytest.raises(ConfigError, match="budget: must be above 0, in seconds"):
        require_seconds(budget)
    if budget is not None:
        with pytest.raises(ConfigError, match="budget: must be above 0, in seconds"):
            choice_of("auto", budget, {})
