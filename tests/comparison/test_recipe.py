"""Recipes that are chosen on the training classes within a budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import siamkit
from siamkit import api
from siamkit.comparison import candidates as trying
from siamkit.comparison import pace
from siamkit.comparison import pilot as pilots
from siamkit.comparison import recipe as recipes
from siamkit.comparison import work as working
from siamkit.comparison.arms import Arm
from siamkit.comparison.candidates import CANDIDATES, candidates
from siamkit.comparison.outlook import Outlook
from siamkit.comparison.pace import Lengths, Pace
from siamkit.comparison.results import ArmResult
from siamkit.errors import CheckpointError, ConfigError, DataError, Interrupted, NonFiniteError
from siamkit.json_files import write_sealed
from siamkit.report.comparison import recipe_line
from siamkit.runs.open import OpenRun

Common = Callable[..., dict[str, Any]]


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_only_the_augmentation_is_chosen(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trying, "AUGMENTATIONS", trying.AUGMENTATIONS[:2])
    given = {**values, "head": "linear", "loss": {"name": "triplet", "margin": 0.3}}
    events: list[siamkit.Event] = []
    siamkit.fit(
        given, recipe="augment", budget=600, run_dir=tmp_path / "run", listeners=[events.append]
    )
    config = OpenRun(tmp_path / "run", api.registries).config
    (recipe,) = (event.data["recipe"] for event in events if event.name == "run_start")
    tried = {row["name"]: row["value"] for row in recipe["arms"]}
    assert set(tried) == {"objects", "marks", "untrained", "closed form"}
    assert config.data.augment.preset == recipe["best"]
    assert config.train.epochs > 0, "the networks without training are there to compare only"
    chosen = tried[config.data.augment.preset]
    assert chosen == max(tried["objects"], tried["marks"])
    assert (config.head.name, config.loss.name, config.loss.options) == (
        "linear", "triplet", {**config.loss.options, "margin": 0.3}
    )  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short trials of two candidates."""
    monkeypatch.setattr(trying, "CANDIDATES", CANDIDATES[2:])
    monkeypatch.setattr(pace, "_TRIED", 4)
    monkeypatch.setattr(pace, "FEWEST", 2)
    monkeypatch.setattr(pace, "_FINAL", 6)


@pytest.fixture
def values(common: Common) -> dict[str, Any]:
    """What the user says: everything but the head, the loss, the policy and the augmentation."""
    given = common()
    del given["head"], given["loss"]
    given["train"] = {"batch_size": 8, "images_per_class": 2}
    return given


@pytest.mark.usefixtures("quick")
def test_a_run_is_trained_with_the_best_recipe(values: dict[str, Any], tmp_path: Path) -> None:
    events: list[siamkit.Event] = []
    result = siamkit.fit(
        values, recipe="auto", budget=600, run_dir=tmp_path / "run", listeners=[events.append]
    )
    run = OpenRun(tmp_path / "run", api.registries)
    (start,) = (event.data for event in events if event.name == "run_start")
    tried = start["recipe"]
    assert {row["name"] for row in tried["arms"]} >= {"untrained", "closed form"}
    best = next((c for c in candidates(()) if c.name == tried["best"]), None)
    if best is None:
        assert run.config.train.epochs == 0
    else:
        assert run.config.freeze.name == best.values["freeze.name"]
        assert run.config.head.name == best.values["head.name"]
        assert run.config.train.epochs == tried["epochs"]
    assert (tmp_path / "run" / "recipe" / "comparison.html").is_file()
    assert result.metrics["best"]["recall@1"] >= 0
    trains = json.loads((tmp_path / "run" / "recipe" / "comparison.json").read_text())
    assert len(trains["arms"]) == 4


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_validation_classes_of_the_run_choose_no_recipe(
    values: dict[str, Any], tmp_path: Path
) -> None:
    events: list[siamkit.Event] = []
    siamkit.fit(values, recipe="auto", run_dir=tmp_path / "run", listeners=[events.append])
    run = OpenRun(tmp_path / "run", api.registries)
    held = run.held_out("val")
    assert held is not None
    tables = list((tmp_path / "run" / "recipe" / "tables").rglob("images.csv"))
    assert len(tables) == 2
    for table in tables:
        text = table.read_text()
        assert not any(f"{name}/" in text for name in held.images.classes)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_choice_that_was_stopped_goes_on(values: dict[str, Any], tmp_path: Path) -> None:
    from siamkit.api.recipes import Choice, fit_with_recipe
    from siamkit.comparison.work import Step

    class Stopped(Exception):
        pass

    steps: list[str] = []

    def watch(step: Step) -> None:
        if step.result is not None:
            steps.append(step.arm)
            if len(steps) == 3:
                raise Stopped

    config = api.load_config({**values, "run_dir": str(tmp_path / "run")})
    known = api.registries()
    with pytest.raises(Stopped):
        fit_with_recipe(config, known, Choice("auto", budget=600, watch=watch), [])
    before = json.loads((tmp_path / "run" / "recipe" / "comparison.json").read_text())
    fit_with_recipe(config, known, Choice("auto", budget=600, watch=watch), [])
    assert json.loads((tmp_path / "run" / "recipe" / "comparison.json").read_text()) == before
    assert len(steps) == 2 * 4, "each arm was tried once in each round"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_choice_on_images_in_memory_goes_on(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    images = [(rng.integers(0, 255, (32, 32, 3), np.uint8), f"c{n % 12}") for n in range(48)]
    steps: list[str] = []
    plain = working.run_arm

    def run_arm(*given: Any) -> ArmResult:
        if len(steps) == 3:
            steps.append("stopped")
            raise KeyboardInterrupt
        steps.append("run")
        return plain(*given)

    monkeypatch.setattr(working, "run_arm", run_arm)
    del values["data"]["path"]
    run = tmp_path / "run"
    asked: dict[str, Any] = {"data": images, "recipe": "auto", "budget": 600, "run_dir": run}
    with pytest.raises(Interrupted, match="repeat the command with run_dir"):
        siamkit.fit(values, **asked)
    assert siamkit.fit(values, **asked).run_dir == run
    results = list((run / "recipe" / "results").iterdir())
    assert steps.count("run") == len(results) > 3, "each arm was tried once in each round"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_run_killed_before_its_first_checkpoint_keeps_the_choice(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamkit.api.recipes import Choice, fit_with_recipe
    from siamkit.training.loop import Trainer

    config = api.load_config({**values, "run_dir": str(tmp_path / "run")})
    known = api.registries()
    plain = Trainer.run

    def killed(trainer: Trainer) -> None:
        if trainer.run_dir.path == tmp_path / "run":
            raise RuntimeError("killed")
        plain(trainer)

    monkeypatch.setattr(Trainer, "run", killed)
    with pytest.raises(RuntimeError, match="killed"):
        fit_with_recipe(config, known, Choice("auto"), [])
    monkeypatch.undo()
    monkeypatch.setattr(trying, "CANDIDATES", CANDIDATES[2:])
    result = fit_with_recipe(config, known, Choice("auto"), [])
    assert result.run_dir == tmp_path / "run"


def test_wrong_choices_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    for wrong, message in (
        ({"recipe": "best"}, "is no recipe"),
        ({"budget": 60}, "works only with a recipe"),
        ({"recipe": "auto", "budget": 0}, "must be above 0"),
        ({"recipe": "auto", "epochs": 3}, "cannot be combined with a recipe"),
    ):
        with pytest.raises(ConfigError, match=message):
            siamkit.fit(values, run_dir=tmp_path / "run", **wrong)
    with pytest.raises(ConfigError, match="nothing to choose"):
        siamkit.fit(
            values, recipe="auto", run_dir=tmp_path / "run", loss="triplet", freeze="full",
            head="linear", data={"augment": "none"},
        )  # fmt: skip


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_a_network_without_training_is_not_chosen_against_the_users_will(
    values: dict[str, Any], tmp_path: Path
) -> None:
    events: list[siamkit.Event] = []
    siamkit.fit(
        values, recipe="auto", head="linear", lr=1e-12, run_dir=tmp_path / "run",
        listeners=[events.append],
    )  # fmt: skip
    run = OpenRun(tmp_path / "run", api.registries)
    assert run.config.head.name == "linear"
    assert run.config.train.epochs > 0


@pytest.mark.slow
def test_the_budget_is_divided_between_the_trials_and_the_training(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes a second and all else nothing: the lengths follow from the budget alone."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(pilots, "pilot", lambda *_: Pace(0.0, 1.0, 0.0))
    plain, steps_of = recipes.compare, recipes._steps

    def steps(*given: Any) -> int:
        found = steps_of(*given)
        seen.setdefault("steps", found)  # of a trial
        return found

    monkeypatch.setattr(recipes, "_steps", steps)

    def compare(plan: Any, base: Any, *others: Any, **options: Any) -> Any:
        seen["trials"], seen["epochs"], seen["arms"] = plan.budget, base.train.epochs, plan.arms
        short = base.model_copy(
            update={"train": base.train.model_copy(update={"epochs": 1, "epoch_steps": 1})}
        )
        done = plain(plan, short, *others, **options)
        return replace(
            done,
            results={
                (arm, turn): replace(
                    result, filling=0.0, evaluating=0.0, steps=10, epochs=1,
                    seconds=10.0 if plan.arms[arm].trains else 0.0,
                )
                for (arm, turn), result in done.results.items()
            },
        )  # fmt: skip

    monkeypatch.setattr(recipes, "compare", compare)
    config = api.load_config({**values, "run_dir": str(tmp_path / "run")})
    place = recipes.ComparisonDir(tmp_path / "recipe")
    found = recipes.choose_recipe(config, {"head.name"}, api.registries(), place, budget=100.0)
    assert seen["trials"] == pytest.approx(60)
    tried = [arm for arm in seen["arms"] if arm.trains]
    # 90 % of 60 s for the trials, at a second per step.
    trial = seen["steps"]
    assert 50 - len(tried) * trial < seen["epochs"] * trial * len(tried) <= 54
    # 90 % of what is left for the training. The test itself takes some seconds.
    total = found.config.train.epochs * found.record["steps"]
    assert 40 < total <= 85
    # The report takes 5 s.
    assert found.record["expected"] == pytest.approx(total + 5)
    assert found.record["epochs"] == found.config.train.epochs
    # If the choice was stopped after the trials, their time is not there again.
    again = recipes.choose_recipe(config, {"head.name"}, api.registries(), place, budget=100.0)
    steps_left = 0.9 * (100 - again.table["seconds"]) - 5
    assert 0 < again.config.train.epochs * again.record["steps"] <= steps_left < total


class Asked(Exception):
    """Ends a choice before its trials."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plan and the config of the trials, which are not trained. No time passes."""
    found: list[Any] = []

    def compare(plan: Any, base: Any, *others: Any, **options: Any) -> Any:
        found.extend([plan, base])
        raise Asked

    monkeypatch.setattr(recipes, "compare", compare)
    monkeypatch.setattr(recipes, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    monkeypatch.setattr(pilots, "pilot", lambda *_: Pace(2.0, 1.0, 3.0))
    monkeypatch.setattr(recipes, "_steps", lambda *_: 5)
    monkeypatch.setattr(recipes, "_ratio", lambda *_: 1.0)
    return found


def told(
    values: dict[str, Any], budget: float, tmp_path: Path, fixed: tuple[str, ...] = ()
) -> list[Outlook]:
    """Return the outlooks of a choice."""
    found: list[Outlook] = []
    place = recipes.ComparisonDir(tmp_path / "recipe")
    with suppress(Asked):
        recipes.choose_recipe(
            api.load_config(values), fixed, api.registries(), place, budget=budget,
            tell=found.append,
        )  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("budget", "arms", "epochs", "expected"),
    [
        # 22 s for the networks without training, and two trials of 2 s + 5 epochs of 8 s, in
        # 0.9 * 0.6 * 200 s; then 7 s + 5 epochs of 8 s for the training.
        (200.0, 2, 5, 200.0),
        (1000.0, 4, 15, 1000.0),
        # No more than 30 epochs in each trial, two rounds, and 80 epochs for the training.
        (9000.0, 4, 30, 2 * (22 + 4 * 242) + 7 + 80 * 8),
    ],
)
def test_the_time_is_told_before_the_trials(
    values: dict[str, Any], asked: list[Any], tmp_path: Path,
    budget: float, arms: int, epochs: int, expected: float,
) -> None:  # fmt: skip
    first, second = told(values, budget, tmp_path)
    assert (first.budget, first.expected, first.arms) == (budget, 0.0, None)
    assert (second.budget, second.expected, second.arms) == (budget, expected, arms)
    assert second.of == 4
    plan, base = asked
    assert [arm.trains for arm in plan.arms] == [False, False] + [True] * arms
    assert (base.train.epochs, base.train.epoch_steps) == (epochs, 25)
    assert plan.budget == pytest.approx(0.6 * budget)


@pytest.mark.parametrize(
    ("budget", "fixed", "expected", "trained"),
    [
        # A training of the fewest steps takes 2 s, the report 5 s, and 5 epochs 8 s each.
        (39.0, (), 7.0, False),
        (39.2, (), 47.0, True),
        (195.0, (), 195.0, True),
        # With a loss of the user's own, something is trained.
        (1.0, ("loss.name",), 47.0, True),
    ],
)
def test_a_budget_that_is_too_short_for_two_trials_goes_to_one_training(
    values: dict[str, Any], asked: list[Any], tmp_path: Path,
    budget: float, fixed: tuple[str, ...], expected: float, trained: bool,
) -> None:  # fmt: skip
    _, outlook = told(values, budget, tmp_path, fixed)
    first, *others = candidates(fixed)
    assert (outlook.budget, outlook.expected, outlook.arms) == (budget, expected, 0)
    assert (outlook.of, outlook.trained) == (1 + len(others), first.name if trained else None)
    assert not asked, "nothing is compared"


@pytest.mark.parametrize(("monitor", "metric"), [(None, "recall@1"), ("map@r", "map@r")])
def test_recipes_are_compared_by_what_chooses_the_best_epoch(
    values: dict[str, Any], asked: list[Any], tmp_path: Path, monitor: str | None, metric: str
) -> None:
    values["train"]["monitor"] = monitor
    told(values, 200.0, tmp_path)
    assert asked[0].metric == metric


def test_there_are_no_trials_if_they_leave_no_time_for_the_training(
    values: dict[str, Any], asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 22 s, two trials of 42 s, and for the training 12 times the start and the evaluations.
    monkeypatch.setattr(recipes, "_ratio", lambda *_: 12.0)
    (_, outlook) = told(values, 200.0, tmp_path)
    assert (outlook.arms, outlook.trained) == (0, candidates(())[0].name)
    assert outlook.expected == 12 * 2 + 5 + 5 * (5 + 12 * 3)
    monkeypatch.setattr(recipes, "_ratio", lambda *_: 5.0)
    (_, outlook) = told(values, 200.0, tmp_path)
    assert (outlook.arms, outlook.expected) == (2, 22 + 2 * 42 + 5 * 2 + 5 + 5 * (5 + 5 * 3))


def test_an_epoch_of_many_steps_is_the_shortest_trial(
    values: dict[str, Any], asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "_steps", lambda *_: 25)
    # 22 s for the networks without training, and twice 2 + 28 s for an epoch of a trial.
    (_, outlook) = told(values, (22 + 60) / 0.54 + 0.01, tmp_path)
    assert outlook.arms == 2 and asked[1].train.epochs == 1
    assert [arm.trains for arm in asked[0].arms] == [False, False, True, True]
    (_, outlook) = told(values, (22 + 60) / 0.54 - 0.01, tmp_path)
    assert outlook.arms == 0


def test_the_images_of_all_sets_count() -> None:
    sets: Any = [range(6), range(4)], [range(3), range(2)]
    assert recipes._ratio(*sets) == 2.0


def test_the_pace_is_measured_by_a_few_steps(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 36 s, 20 s come before the start, 8 s are 8 steps, 2 s the evaluation."""

    def compare(*_: Any, **__: Any) -> Any:
        raise Asked

    def run_arm(configs: Any, variants: Any, registries: Any, metric: str, listeners: Any) -> Any:
        (config,) = configs
        assert (config.train.epochs, config.train.epoch_steps) == (1, 8)
        clock.append(20.0)
        for listen in listeners:
            listen(siamkit.Event("run_start", {}))
            listen(siamkit.Event("phase_start", {"seconds": 99.0}))
            listen(siamkit.Event("epoch_end", {"train_seconds": 8.0, "seconds": 10.0}))
        return ArmResult(seconds=35.0, filling=1.0, steps=8)

    clock = [0.0]
    monkeypatch.setattr(recipes, "compare", compare)
    monkeypatch.setattr(recipes, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    monkeypatch.setattr(pilots, "time", SimpleNamespace(perf_counter=lambda: clock[-1]))
    monkeypatch.setattr(recipes, "_steps", lambda *_: 5)
    monkeypatch.setattr(pilots, "run_arm", run_arm)
    monkeypatch.setattr(recipes, "_ratio", lambda *_: 1.0)
    # 6 s for the start, 5 * 7 s for the training, and 5 s for the report.
    assert told(values, 40.0, tmp_path)[1].expected == 6 + 35 + 5


@pytest.mark.parametrize(("classes", "folds"), [(8, 2), (12, 3)])
def test_few_classes_make_fewer_folds(
    values: dict[str, Any], asked: list[Any], make_images: Callable[..., Path], tmp_path: Path,
    classes: int, folds: int,
) -> None:  # fmt: skip
    folder = make_images({f"c{kind}": 6 for kind in range(classes)}, size=32)
    told({**values, "data": {**values["data"], "path": str(folder)}}, 300.0, tmp_path)
    assert asked[0].folds == folds


def test_a_signal_while_the_pace_is_measured_names_no_folder_that_is_gone(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> Pace:
        hint = "continue it with siamkit.resume('gone/run')"
        raise Interrupted("stopped by SIGINT", exit_code=130, hint=hint)

    monkeypatch.setattr(pilots, "pilot", stopped)
    with pytest.raises(Interrupted) as caught:
        siamkit.fit(values, recipe="auto", run_dir=tmp_path / "run")
    assert caught.value.exit_code == 130
    assert str(caught.value) == (
        "stopped while the time of a step was measured; repeat the command with "
        f"run_dir={str(tmp_path / 'run')!r}"
    )


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function after which candidates with some losses diverge wherever they are trained."""
    plain = pilots.run_arm

    def fail(*losses: str) -> None:
        def run_arm(configs: Any, *others: Any) -> Any:
            if configs[0].loss.name in losses and configs[0].train.epochs:
                raise NonFiniteError(f"the loss {configs[0].loss.name} is NaN")
            return plain(configs, *others)

        monkeypatch.setattr(pilots, "run_arm", run_arm)
        monkeypatch.setattr(working, "run_arm", run_arm)

    return fail


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
def test_a_recipe_that_cannot_be_trained_leaves_the_choice_to_the_others(
    values: dict[str, Any], tmp_path: Path, failing: Callable[..., None]
) -> None:
    first, second = (arm.name for arm in candidates(()))
    failing("supcon")
    config = api.load_config({**values, "run_dir": str(tmp_path / "run")})
    place = recipes.ComparisonDir(tmp_path / "recipe")
    for _ in range(2):  # the second time, the choice goes on
        found = recipes.choose_recipe(config, (), api.registries(), place, budget=600.0)
        assert {row["name"] for row in found.record["arms"]} == {"untrained", "closed form", second}
        assert found.notices == (
            f"the recipe {first!r} failed, so it was left out: the loss supcon is NaN",
        )


@pytest.mark.usefixtures("quick")
def test_a_short_budget_is_spent_on_a_recipe_that_can_be_trained(
    values: dict[str, Any], tmp_path: Path, failing: Callable[..., None]
) -> None:
    fixed = {"data.augment.preset"}
    first, second = candidates(fixed)
    failing("supcon")
    config = api.load_config({**values, "run_dir": str(tmp_path / "run")})
    place = recipes.ComparisonDir(tmp_path / "recipe")
    for _ in range(2):  # the second time, nothing goes on
        found = recipes.choose_recipe(config, fixed, api.registries(), place, budget=0.01)
        assert not place.path.exists()
        assert found.config.freeze.name == second.values["freeze.name"]
        assert found.config.train.epochs == found.record["epochs"] == 1
        assert found.record["best"] == second.name
        assert found.table is None and found.record["arms"] == []
        assert found.notices == (
            f"the recipe {first.name!r} failed, so it was left out: the loss supcon is NaN",
            "the budget is too short to compare recipes: one is trained without trials",
        )
        assert recipe_line(found.record) == f"{second.name}: trained without trials"


@pytest.mark.usefixtures("quick")
def test_a_budget_that_is_too_short_for_a_training_is_kept(
    values: dict[str, Any], tmp_path: Path
) -> None:
    said: list[Outlook] = []
    config = api.load_config({**values, "run_dir": str(tmp_path / "run")})
    place = recipes.ComparisonDir(tmp_path / "recipe")
    found = recipes.choose_recipe(
        config, (), api.registries(), place, budget=0.01, tell=said.append
    )
    assert (said[-1].arms, said[-1].trained) == (0, None)
    assert found.config.train.epochs == 0
    assert found.record["best"] == "closed form" and found.table is None
    assert recipe_line(found.record) == "closed form: not trained"
    assert found.notices == (
        "the budget is too short for a training: the head in closed form is kept",
    )


@pytest.mark.usefixtures("quick")
def test_the_first_error_is_told_if_no_recipe_can_be_trained(
    values: dict[str, Any], tmp_path: Path, failing: Callable[..., None]
) -> None:
    failing("supcon", "multi-similarity")
    with pytest.raises(NonFiniteError, match="the loss supcon is NaN"):
        siamkit.fit(values, recipe="auto", budget=600, run_dir=tmp_path / "run")


def test_too_few_training_classes_are_named(
    values: dict[str, Any], make_images: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_images({"a": 3, "b": 3, "c": 3, "d": 3}, size=32)
    values = {**values, "data": {**values["data"], "path": str(folder)}}
    with pytest.raises(DataError, match="too small to compare recipes"):
        siamkit.fit(values, recipe="auto", run_dir=tmp_path / "run")


def test_a_network_without_training_that_failed_tells_no_start() -> None:
    arms = (Arm("still", trains=False), Arm("a"))
    run = ArmResult(seconds=6.0, steps=10, epochs=1)
    for failed, step in ((None, 0.4), ("no", 0.6)):
        still = ArmResult(seconds=2.0, failed=failed)
        seen = SimpleNamespace(
            plan=SimpleNamespace(arms=arms), results={(0, 0): still, (1, 0): run}
        )
        assert recipes._pace_of(seen, 1, 1.0).step == pytest.approx(step)  # type: ignore[arg-type]


def test_the_training_is_evaluated_on_more_images_than_a_trial() -> None:
    run = ArmResult(seconds=14.0, evaluating=4.0, steps=10, epochs=2)
    seen: Any = SimpleNamespace(
        plan=SimpleNamespace(arms=(Arm("still", trains=False), Arm("a"))),
        results={(0, 0): ArmResult(seconds=2.0), (1, 0): run},
    )
    pace = recipes._pace_of(seen, 1, 3.0)
    assert (pace.step, pace.evaluation) == (pytest.approx(0.8), pytest.approx(6.0))


def test_a_choice_goes_on_only_with_a_plan_that_it_can_read(tmp_path: Path) -> None:
    place: Any = SimpleNamespace(plan=tmp_path / "comparison.json", path=tmp_path)
    arms = [{"name": "still", "trains": False}, {"name": "b", "trains": True}]
    write_sealed(place.plan, {"arms": arms, "config": {"train.epochs": 4}})
    assert recipes._begun(place) == (Lengths(4, 1), ["b"])
    assert sorted("abc", key=lambda name: recipes._place(name, ["c", "b"])) == ["c", "b", "a"]
    for facts in ({"arms": arms}, {"arms": 3, "config": {}}, {"arms": arms, "config": {
        "train.epochs": None}}):  # fmt: skip
        write_sealed(place.plan, facts)
        with pytest.raises(CheckpointError, match="of another version of siamkit") as caught:
            recipes._begun(place)
        assert caught.value.where == str(place.plan)


def test_the_best_recipe_is_one_that_is_open_and_was_not_stopped() -> None:
    arms = {name: Arm(name) for name in "abc"}
    rows = [{"name": "a", "stopped": {"why": "failed"}}, {"name": "b", "stopped": None},
            {"name": "c", "stopped": None}]  # fmt: skip
    table = {"arms": rows, "failed": [{"name": "x", "why": "?"}, {"name": "a", "why": "NaN"}]}
    assert recipes._chosen(table, arms) == (arms["b"], None)
    assert recipes._chosen(table, {"a": arms["a"], "c": arms["c"]}) == (arms["c"], None)
    with pytest.raises(ConfigError, match="recipe: every recipe failed: NaN"):
        recipes._chosen(table, {"a": arms["a"]})


def test_the_best_recipe_that_begins_with_the_winning_closed_form_is_trained() -> None:
    closed = Arm("closed form", {"head.name": "multistage"}, trains=False)
    residual, begins = (Arm(name, {"head.name": name}) for name in ("residual", "multistage"))
    rows = [{"name": arm.name, "stopped": None} for arm in (closed, residual, begins)]
    every = {arm.name: arm for arm in (closed, residual, begins)}

    def chosen(*rows: Any) -> Any:
        return recipes._chosen({"arms": rows, "failed": []}, every)

    assert chosen(*rows) == (begins, "closed form")
    assert chosen(*rows[:2]) == (closed, None), "nothing begins with it"
    assert chosen(*rows[:2], {"name": "multistage", "stopped": {"why": "failed"}}) == (closed, None)
    assert chosen(*rows[1:]) == (residual, None)
    every["untrained"] = still = Arm("untrained", {"head.name": "identity"}, trains=False)
    assert chosen({"name": "untrained", "stopped": None}, *rows) == (still, None)


@pytest.mark.parametrize(
    ("kind", "fixed", "free"),
    [
        ("auto", (), True), ("auto", ("train.epochs",), True), ("auto", ("head.name",), False),
        ("augment", (), False),
    ],
)  # fmt: skip
def test_a_network_without_training_is_open_only_if_the_whole_recipe_is(
    kind: str, fixed: tuple[str, ...], free: bool
) -> None:
    assert recipes._is_free(fixed, kind) == free
