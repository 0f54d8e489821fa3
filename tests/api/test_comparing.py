"""What a comparison is asked to do: its arms, its runs, its folder, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import siamkit
from siamkit import api
from siamkit.api import comparing
from siamkit.comparison.compare import _divided
from siamkit.comparison.plan import Plan
from siamkit.comparison.work import Work
from siamkit.errors import ConfigError


class Planned(Exception):
    """Ends a comparison before its first run."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Return what a call of ``compare`` asks the comparison for."""
    monkeypatch.chdir(tmp_path)

    def ask(config: Any = None, **arguments: Any) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def stop(plan: Any, base: Any, known: Any, place: Any, **others: Any) -> None:
            seen.update(plan=plan, base=base, place=place, **others)
            if others["settle"] is not None:
                seen["settled"] = others["settle"]()
            raise Planned

        monkeypatch.setattr(comparing, "_compare", stop)
        with pytest.raises(Planned):
            siamkit.compare(config, **{"data": "sample", **arguments})
        return seen

    return ask


def trained(seen: dict[str, Any]) -> list[str]:
    return [arm.name for arm in seen["plan"].arms if arm.trains]


POLICIES = ["freeze-all", "stages", "gradual-unfreeze", "full"]


def test_four_policies_are_compared_if_nothing_else_is_asked_for(asked: Any) -> None:
    assert trained(asked()) == POLICIES
    assert trained(asked(losses=["triplet"])) == POLICIES, "one value is not compared"
    assert trained(asked(losses=["triplet", "contrastive"])) == ["triplet", "contrastive"]
    assert trained(asked(policies=["full"])) == ["full"]
    assert trained(asked(freeze="stages")) == ["stages"], "the recipe's own policy"
    assert trained(asked({"freeze": {"name": "full"}})) == ["full"]


def test_each_argument_varies_its_key_and_all_are_combined(asked: Any) -> None:
    arms = asked(
        policies=["full", "stages"], losses=["triplet"], heads=["mlp"], augment=["none"],
        backbones=["timm:test_resnet"], vary={"optimizer.lr": [0.1, 0.2]},
    )["plan"].arms  # fmt: skip
    assert [arm.values for arm in arms if arm.trains] == [
        {"freeze.name": policy, "loss.name": "triplet", "head.name": "mlp",
         "data.augment.preset": "none", "backbone.name": "timm:test_resnet", "optimizer.lr": lr}
        for policy in ("full", "stages")
        for lr in (0.1, 0.2)
    ]  # fmt: skip


def test_the_runs_are_folds_times_seeds_from_the_configs_seed(asked: Any) -> None:
    plan = asked()["plan"]
    assert (plan.folds, plan.seeds, plan.metric, plan.equal, plan.budget) == (
        3, (0, 1, 2), "recall@1", "images", None,
    )  # fmt: skip
    plan = asked(
        folds=2, seeds=1, seed=5, metric="map@r", equal="time", budget=60,
        tune={"optimizer.lr": [0.1]},
    )["plan"]  # fmt: skip
    assert (plan.folds, plan.seeds, plan.metric, plan.equal, plan.budget) == (
        2, (5,), "map@r", "time", 60,
    )  # fmt: skip
    assert plan.tuned == {"optimizer.lr": (0.1,)}
    assert asked(seeds=2, seed=5)["plan"].seeds == (5, 6)


def test_the_best_epoch_is_chosen_by_the_metric_unless_the_config_says_otherwise(
    asked: Any,
) -> None:
    assert asked(metric="map@r")["base"].train.monitor == "map@r"
    own = asked(metric="map@r", train={"monitor": "recall@1"})["base"]
    assert own.train.monitor == "recall@1"


def test_a_comparison_has_a_folder_of_its_own(asked: Any, tmp_path: Path) -> None:
    place = asked(data={"path": "sample"})["place"].path
    assert place.parent == tmp_path / "comparisons" and place.name.endswith("-sample")
    begun: list[Path] = []
    assert asked(output="a/b", begun=begun.append)["place"].path == tmp_path / "a/b"
    assert begun == [tmp_path / "a/b"]


def test_steps_and_events_reach_their_listeners(asked: Any) -> None:
    steps: list[Any] = []
    seen = asked(watch=steps.append, listeners=[steps.append])
    seen["watch"]("step")
    assert steps == ["step"] and len(seen["listeners"]) == 1
    nothing = asked()
    assert nothing["watch"]("step") is None and not nothing["listeners"]
    assert nothing["settle"] is None


def test_images_in_memory_are_kept_in_the_comparisons_folder(asked: Any, tmp_path: Path) -> None:
    images = [(np.full((8, 8, 3), 9 * n, np.uint8), str(n % 3)) for n in range(12)]
    seen = asked(data=images, output=tmp_path / "c")
    assert not Path(seen["base"].data.path).is_relative_to(tmp_path / "c"), "a draft at first"
    assert Path(seen["settled"].data.path).is_relative_to(tmp_path / "c")
    assert Path(seen["settled"].data.path).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"watch": 3}, "watch: must be a function, got <class 'int'>"),
        ({"begun": "x"}, "begun: must be a function"),
        ({"policies": "full"}, "policies: must be a list of values, got 'full'"),
        ({"policies": []}, "policies: is empty, allowed: one value or more"),
        ({"policies": ["full", 3]}, "policies: must be a list of names, got <class 'int'>"),
        ({"policies": ["full", "stages", "full"]}, "policies: holds 'full' twice"),
        ({"vary": {"optimizer.lr": [1, object()]}},
         r"vary\['optimizer.lr'\]: holds a value of a wrong type, got <class 'object'>"),
        ({"vary": {"optimizer.lr": [0.1, 0.1]}}, r"vary\['optimizer.lr'\]: holds 0.1 twice"),
        ({"vary": [3]}, "vary: must be a mapping of keys of the config to lists of values, got"),
        ({"vary": {3: [1]}}, "vary: must be a mapping of keys"),
        ({"tune": {"optimizer.lr": []}}, r"tune\['optimizer.lr'\]: is empty"),
        ({"vary": {"data.path": ["a", "b"]}}, "data.path: cannot be varied, because the comp.*"
                                              "; folds and seeds decide the data of a run"),
        ({"tune": {"train.seed": [1, 2]}}, "train.seed: cannot be varied"),
        ({"vary": {"data.max_pixels": [2000, 9000]}},
         "data.max_pixels: cannot be varied, because it decides which images are used, and arms "
         "can be compared only on the same images; choose one value for all arms: .*max_pixels"),
        ({"vary": {"data.on_unreadable": ["error", "skip"]}}, "data.on_unreadable: cannot be"),
        ({"tune": {"data.max_skipped": [0.1, 0.2]}}, "data.max_skipped: cannot be varied"),
        ({"vary": {"data.strict": [True, False]}}, "data.strict: cannot be varied"),
        ({"vary": {"calibration.target": ["eer"]}}, "calibration.target: cannot be varied"),
        ({"vary": {"optimizer.lr": [1]}, "tune": {"optimizer.lr": [1]}},
         "optimizer.lr: is varied and tuned; choose one of the two"),
        ({"tune": {"train.epochs": [1, 2]}, "equal": "time"},
         "train.epochs: cannot be varied or tuned if all arms shall take equally long"),
        ({"vary": {"train.epochs": [1, 2]}, "equal": "time"},
         "train.epochs: cannot be varied or tuned if all arms shall take equally long"),
        ({"vary": {"data": ["sample", "other"]}}, "data.path: cannot be varied"),
        ({"vary": {"loss": ["triplet"], "loss.name": ["supcon"]}},
         r"vary\['loss.name'\]: is given twice"),
        ({"vary": {"loss": ["triplet"]}, "losses": ["supcon"]},
         "loss.name: is varied twice; give all of its values to vary"),
        ({"metric": "eer"}, "metric: is unknown, got 'eer', allowed: recall@1 or map@r"),
        ({"equal": "steps"}, "equal: is unknown, got 'steps', allowed: images or time"),
        ({"equal": 3}, "equal: is unknown, got 3"),
        ({"budget": 0}, "budget: must be above 0, in seconds, got 0"),
        ({"folds": 1}, "folds: must be a whole number, got 1, allowed: 2 or more"),
        ({"jobs": 0}, "jobs: must be a whole number, got 0, allowed: 1 or more"),
        ({"seeds": 0}, "seeds: must be a whole number, got 0, allowed: 1 or more"),
        ({"data": {"path": "sample", "folds": 3, "fold": 0}},
         "has no effect on a comparison, got 3; use folds"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(comparing, "_compare", lambda *_, **__: pytest.fail("it was begun"))
    with pytest.raises(ConfigError, match=message):
        siamkit.compare(**{"data": "sample", "output": tmp_path / "c", **arguments})
    assert not (tmp_path / "c").exists()


def test_what_the_user_sets_without_a_choice_applies_to_every_arm(asked: Any) -> None:
    given: dict[str, Any] = {"data": {"path": "sample", "augment": {"rotate": 10.0}}}
    arms = asked(augment=["objects", "marks"], **given)["plan"].arms
    strengths = [arm.values.get("data.augment.rotate") for arm in arms]
    assert strengths == [None, None, 10.0, 10.0]
    arms = asked(freeze={"warmup": 0}, policies=["stages", "freeze-all"])["plan"].arms
    assert [arm.values.get("freeze.warmup") for arm in arms if arm.trains] == [0, None]
    assert trained(asked(freeze={"warmup": 0})) == POLICIES, "an option is no choice of a policy"


def losses_of(seen: dict[str, Any]) -> list[tuple[str, float | None]]:
    """The loss and the margin of each variant of each arm."""
    from siamkit.comparison.facts import configs_of

    configs = configs_of(seen["plan"], seen["base"], api.registries())
    losses = [config.loss for arm, config in configs if arm.trains]
    return [(loss.name, loss.options.get("margin")) for loss in losses]


@pytest.mark.parametrize("how", ["losses", "vary", "tune"])
def test_options_apply_to_what_is_compared_however_it_is_given(asked: Any, how: str) -> None:
    def seen(names: list[str], own: dict[str, Any]) -> list[tuple[str, float | None]]:
        given = {how: names if how == "losses" else {"loss": names}}
        return losses_of(asked(policies=["full"], loss=own, **given))

    both = ["triplet", "proxy-anchor", "supcon"]
    kept = [("triplet", 0.37), ("proxy-anchor", 0.37), ("supcon", None)]
    # The default loss, which nobody asked for, has no margin.
    assert seen(both, {"margin": 0.37}) == kept
    # The options of a choice go with it.
    usual = [("triplet", 0.37), ("proxy-anchor", 0.1), ("supcon", None)]
    assert seen(both, {"name": "triplet", "margin": 0.37}) == usual
    for wrong in ({"margn": 0.37}, {"margin": 0.37, "name": "supcon"}):
        with pytest.raises(ConfigError, match=r"marg.*unknown key"):
            seen(both, wrong)


def test_a_head_of_any_name_may_be_compared_with_its_options(asked: Any) -> None:
    plan = asked(heads=["mlp", "linear", "identity"], head={"dim": 16})["plan"]
    dims = [arm.values.get("head.dim") for arm in plan.arms if arm.trains]
    assert dims == [16, 16, None]


def test_a_section_stands_for_its_main_key(asked: Any) -> None:
    seen = asked(
        vary={"freeze": ["stages", "freeze-all"], "backbone": ["timm:resnet18", "timm:resnet34"]},
        freeze={"warmup": 0}, tune={"loss": ["triplet", "supcon"]},
    )  # fmt: skip
    arms = seen["plan"].arms
    names = ["stages, timm:resnet18", "stages, timm:resnet34"]
    names += ["freeze-all, timm:resnet18", "freeze-all, timm:resnet34"]
    assert trained(seen) == names
    assert [arm.values.get("freeze.warmup") for arm in arms if arm.trains] == [0, 0, None, None]
    assert sum(not arm.trains for arm in arms) == 4, "each backbone has networks without training"
    assert seen["plan"].tuned == {"loss.name": ("triplet", "supcon")}


def test_processes_share_the_machine_unless_the_config_says_otherwise(
    asked: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = asked()
    assert alone["helpers"] is None
    together = asked(jobs=3)
    assert together["helpers"].count == 2
    assert together["base"].train.threads is None, "best.yaml has the threads of the user"
    own = asked(jobs=2, train={"threads": 5})["base"]
    for base, threads, processes, each in (
        (alone["base"], 8, 2, 4), (alone["base"], 8, 3, 2), (alone["base"], 2, 4, 1),
        (own, 8, 2, 5),
    ):  # fmt: skip
        monkeypatch.setattr("torch.get_num_threads", lambda count=threads: count)
        job = Work(Plan(()), base, tmp_path, {}, tmp_path, "again")
        divided = _divided(job, processes, 640)
        assert (divided.base.train.threads, divided.processes) == (each, processes)
    monkeypatch.setattr("siamkit.data.loader.affinity", lambda: set(range(8)))
    chosen = asked(data={"path": "sample", "workers": 5})["base"]
    for base, images, workers in ((alone["base"], 640, 3), (alone["base"], 64, 0), (chosen, 64, 5)):
        job = Work(Plan(()), base, tmp_path, {}, tmp_path, "again")
        assert _divided(job, 2, images).base.data.workers == workers
    with pytest.raises(ConfigError, match="jobs: must be 1, because other processes do not have"):
        siamkit.compare(data="sample", jobs=2, head=nn.Identity())


def test_equal_values_of_two_types_are_two_values_and_epochs_may_be_tuned(asked: Any) -> None:
    values = asked(vary={"data.image_size": [64, "64", 64.0, True, 1]}, policies=["full"])
    assert len(trained(values)) == 5
    assert asked(tune={"train.epochs": [1, 2]})["plan"].tuned == {"train.epochs": (1, 2)}


def test_the_best_arms_most_frequent_tuned_values_are_its_recipe() -> None:
    low, high = {"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}
    arms = [
        {"name": "other", "tuned": [low]},
        {"name": "best", "tuned": [low, high, high]},
        {"name": "even", "tuned": [high, low]},
    ]
    for best, expected in (("best", high), ("even", high), ("other", low)):
        assert comparing._usual({"best": best, "arms": arms}) == expected
