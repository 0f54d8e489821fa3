"""The decisions of the epoch loop, on made-up runs. ``test_fit.py`` has whole runs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn

import siamkit
from siamkit.errors import Interrupted
from siamkit.freezing.hold import hold
from siamkit.interfaces import FreezePlan
from siamkit.model.undisturbed import Snapshot
from siamkit.training import loop
from siamkit.training.loop import Trainer
from siamkit.training.state import RunState


@pytest.mark.parametrize(("second_view", "visits"), [(False, 7), (True, 14)])
def test_the_visits_of_an_epoch_count_each_view(
    monkeypatch: pytest.MonkeyPatch, second_view: bool, visits: int
) -> None:
    class Epoch:
        steps_per_epoch = 2

        def __init__(self, *_: Any) -> None:
            pass

        def steps(self) -> Any:
            return [[SimpleNamespace(images=range(4))], [SimpleNamespace(images=range(3))]]

    asked: list[int] = []
    for name in ("load_sets", "Scorer", "Heads", "forecast", "batch_notices"):
        monkeypatch.setattr(loop, name, lambda *_, **options: ())
    monkeypatch.setattr(loop, "modules_by_name", lambda net, loss: {})
    monkeypatch.setattr(loop, "EpochTrainer", Epoch)
    monkeypatch.setattr(loop, "decider_of", lambda setup, sets, count, reports: asked.append(count))
    monkeypatch.setattr(loop, "Engine", lambda decider: None)
    setup: Any = SimpleNamespace(
        config=SimpleNamespace(train=SimpleNamespace(checkpoint_interval=None)),
        net=None,
        loss=SimpleNamespace(second_view=second_view),
    )
    splits: Any = SimpleNamespace(train=None)
    none: Any = None
    Trainer(setup, splits, RunState(), none, none, none)
    assert asked == [visits]


class Starting:
    """An engine and an epoch trainer that note what a phase does at its start."""

    def __init__(self, checked: Any = None) -> None:
        self.entered: list[tuple[range, Any]] = []
        self.begun: list[Any] = []
        self.kept: list[Any] = []
        self.compared: list[Any] = []
        self._checked = checked

    def enter(self, epochs: range, before: Any) -> Any:
        self.entered.append((epochs, before))
        return SimpleNamespace(epochs=epochs, decision="entered")

    def prepare(self, execution: Any, epoch: int) -> Any:
        return execution

    def checked(self, execution: Any, epoch: int, sample: Any) -> Any:
        self.compared.append((epoch, sample))
        return self._checked or execution

    def begin_phase(self, execution: Any) -> None:
        self.begun.append(execution)

    def steps(self) -> Any:
        return [[SimpleNamespace(sample="the first batch")], [SimpleNamespace(sample="another")]]


def starting(parts: Starting, **state: Any) -> Any:
    """A trainer in the phase of the epochs 1 to 3, whose plan is applied."""
    plan = FreezePlan(frozenset({"h"}))
    made: Any = object.__new__(Trainer)
    schedule = SimpleNamespace(span_at=lambda epoch, history: range(1, 4))
    made.setup = SimpleNamespace(schedule=schedule, controller=SimpleNamespace(plan=plan))
    made.state = RunState(**{"epoch": 1, "phase_start": 0, **state})
    made.engine = made.epoch = parts
    made.execution, made._keep = None, parts.kept.append
    return made, plan


@pytest.mark.parametrize(
    ("state", "before", "begins"),
    [
        ({}, None, True),
        ({"decision": "of another phase"}, None, True),
        ({"phase_start": 1, "decision": "before", "epoch_step": 2}, "before", False),
        ({"phase_start": 1, "decision": "before", "epoch": 2}, "before", False),
        ({"phase_start": 1, "decision": "before"}, "before", True),
    ],
)
def test_a_phase_that_is_resumed_goes_on_as_it_was_decided(
    state: dict[str, Any], before: str | None, begins: bool
) -> None:
    parts = Starting()
    made, plan = starting(parts, **state)
    found = made._start_phase(plan)
    epoch = state.get("epoch", 1)
    assert parts.entered == [(range(epoch, 4), before)]
    assert parts.begun == ([found] if begins else [])
    assert parts.kept == [found] and made.execution is found and made.state.phase_start == 1
    assert parts.compared == [(epoch, "the first batch")]
    assert made._start_phase(plan) is found and len(parts.entered) == 1, "the phase goes on"
    assert parts.kept == [found], "it is told once"


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        ({"lr_mult": {"head": 0.5}}, True),
        ({"norm": "train"}, False),
        ({"trainable": frozenset({"h", "w"})}, False),
    ],
)
def test_other_rates_change_nothing_in_how_the_network_is_computed(
    change: dict[str, Any], goes_on: bool
) -> None:
    parts = Starting()
    made, plan = starting(parts)
    applied: list[Any] = []
    made._apply = applied.append
    first = made._start_phase(plan)
    other = replace(plan, **change)
    assert (made._start_phase(other) is first) is goes_on
    assert applied == [other] and len(parts.entered) == (1 if goes_on else 2)


def test_an_execution_that_is_replaced_is_told_again() -> None:
    other = SimpleNamespace(epochs=range(1, 4), decision="whole")
    parts = Starting(checked=other)
    made, plan = starting(parts)
    assert made._start_phase(plan) is made.execution is other
    assert [execution.decision for execution in parts.kept] == ["entered", "whole"]


def test_a_phase_that_lasts_longer_than_was_forecast_is_entered_again() -> None:
    parts = Starting()
    made, plan = starting(parts)
    made.execution = SimpleNamespace(epochs=range(1))
    made._start_phase(plan)
    assert [epochs for epochs, _ in parts.entered] == [range(1, 4)]


def stubbed(**parts: Any) -> Any:
    """A trainer with a state and parts that are written by hand, and the events that it emits."""
    made: Any = object.__new__(Trainer)
    made.events, made.saves = [], []
    made.emit = lambda name, data: made.events.append((name, dict(data)))
    made.save = lambda **how: made.saves.append(how)
    made.train = SimpleNamespace(epochs=4, patience=None)
    made.state = RunState(**parts.pop("state", {}))
    made._remarked = set()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


@pytest.mark.parametrize(
    ("epochs", "epoch", "asked"), [(4, 3, (2, ["a", "b"])), (4, 0, (0, [])), (0, 0, None)]
)
def test_a_run_that_is_over_is_entered_again_as_in_its_last_epoch(
    epochs: int, epoch: int, asked: tuple[int, list[str]] | None
) -> None:
    planned: list[Any] = []
    applied: list[Any] = []
    schedule = SimpleNamespace(
        stages=(), plan_at=lambda at, history: planned.append((at, history)) or "its plan"
    )
    setup = SimpleNamespace(schedule=schedule, controller=SimpleNamespace(apply=applied.append))
    engine = SimpleNamespace(
        enter=lambda span, decision: (span, decision), prepare=lambda entered, at: (*entered, at)
    )
    decision: Any = SimpleNamespace(keeps_exact_rows=True)
    made = stubbed(setup=setup, engine=engine, state={"epoch": epoch, "history": ["a", "b", "c"]})
    made.train.epochs, made.execution = epochs, None
    last = max(epoch - 1, 0)
    made._reenter(SimpleNamespace(keeps_exact_rows=False))
    assert made.execution is None and not applied, "its rows are rounded"
    made._reenter(decision)
    assert made.execution == (range(last, last + 1), decision, last)
    assert planned == ([] if asked is None else [asked])
    assert applied == (["its plan"] if asked else [FreezePlan(frozenset())])


@pytest.mark.parametrize(
    ("over", "largest", "saves"),
    [(None, None, 0), (False, None, 0), (True, None, 1), (False, 8, 1), (None, 8, 1)],
)
def test_a_checkpoint_is_due_after_the_interval_or_with_another_bound(
    monkeypatch: pytest.MonkeyPatch, over: bool | None, largest: int | None, saves: int
) -> None:
    asked: list[tuple[float, int]] = []

    def has_passed(seconds: float, steps: int) -> bool | None:
        asked.append((seconds, steps))
        return over

    monkeypatch.setattr(loop.time, "monotonic", lambda: 25.0)
    interval = None if over is None else SimpleNamespace(has_passed=has_passed)
    made = stubbed(state={"step": 9, "largest_pass": largest}, _interval=interval)
    made._saved = 10.0, 4, None
    made._save_if_due()
    assert made.saves == [{"best": False}] * saves
    assert asked == ([] if over is None else [(15.0, 5)])


@pytest.mark.parametrize(
    ("in_step", "epoch", "saved", "told"),
    [
        (False, 2, 1, "the run was saved"), (False, 4, 0, "the run was saved"),
        (True, 2, 0, "the next step lacked images, so nothing was saved since the last checkpoint"),
    ],
)  # fmt: skip
def test_a_signal_saves_unless_the_state_is_between_steps_or_saved_already(
    in_step: bool, epoch: int, saved: int, told: str
) -> None:
    made = stubbed(
        stop=SimpleNamespace(exit_code=None, name="SIGTERM"), run_dir=SimpleNamespace(path="r"),
        epoch=SimpleNamespace(in_step=in_step), state={"epoch": epoch, "step": 7},
    )  # fmt: skip
    made._stop_if_asked()
    made.stop.exit_code = 143
    with pytest.raises(Interrupted) as caught:
        made._stop_if_asked()
    assert (caught.value.what, caught.value.exit_code) == (
        f"stopped by SIGTERM after step 7; {told}", 143,
    )  # fmt: skip
    assert made.saves == [{"best": False}] * saved


def test_each_problem_of_the_embeddings_or_the_loss_is_told_once() -> None:
    remarks: dict[str, str | None] = {"val": None, "probe": "all are alike"}
    made = stubbed(scorer=SimpleNamespace(remarks=remarks))
    made._remark()
    remarks["val"] = "most are alike"
    made._remark()
    remarks["val"] = "all are alike"
    made.state.history = [{"train_loss": 0.0}] * 9
    made._remark()
    texts = [data["text"] for _, data in made.events]
    assert texts[:2] == ["training images: all are alike", "held-out images: most are alike"]
    assert len(texts) == 3 and texts[2].startswith("the loss was 0 in")


def ending(monkeypatch: pytest.MonkeyPatch, metrics: list[float], **state: Any) -> Any:
    """A trainer at the end of its epochs, each with such a metric."""
    values = iter(metrics)
    monkeypatch.setattr(loop, "stopped_before", lambda *_: "some stages never trained")
    setup = SimpleNamespace(
        net=SimpleNamespace(head=SimpleNamespace(computed=False)),
        schedule=SimpleNamespace(monitor="m", epochs=9, unfrozen_at=lambda epoch, history: {}),
    )
    scorer = SimpleNamespace(
        remarks={}, trained=lambda execution, name: {"m": next(values) if name == "val" else 0.25}
    )
    return stubbed(setup=setup, scorer=scorer, state=state)


def test_an_epoch_ends_with_its_metrics_and_the_next_one_starts_from_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = ending(monkeypatch, [0.5, 0.5, 0.75])
    seen = []
    for _ in range(3):
        made.state.epoch_step, made.state.loss_sum, made.state.images = 3, 6.0, 4
        made._end_epoch(None, 0.0)
        state = made.state
        assert (state.epoch_step, state.loss_sum, state.images) == (0, 0.0, 0)
        name, data = made.events[-1]
        seen.append((name, data["epoch"], data["best"], made.saves[-1]["best"]))
    assert seen == [
        ("epoch_end", 1, True, True), ("epoch_end", 2, False, False), ("epoch_end", 3, True, True)
    ]  # fmt: skip
    assert made.state.history[0] == {"m": 0.5, "train_loss": 1.5, "train_m": 0.25}
    assert (made.state.epoch, made.state.best_epoch) == (3, 2)


@pytest.mark.parametrize(("epochs", "stops"), [(4, True), (3, False)])
def test_training_stops_early_before_the_last_epoch_and_says_what_was_the_best(
    monkeypatch: pytest.MonkeyPatch, epochs: int, stops: bool
) -> None:
    made = ending(monkeypatch, [0.5, 0.25, 0.25])
    made.train = SimpleNamespace(epochs=epochs, patience=2)
    for number in range(3):
        made.state.images = made.state.loss_sum = 1
        made._end_epoch(None, 0.0)
        assert made.state.stopped_early is (stops and number == 2)
    told = [(name, data) for name, data in made.events if name != "epoch_end"]
    assert told == (
        [("early_stop", {"epoch": 3, "best_epoch": 1}),
         ("notice", {"text": "some stages never trained"})] if stops else []
    )  # fmt: skip


@pytest.mark.parametrize(
    ("epoch", "refit", "kept"), [(1, 0.8, True), (1, 0.75, False), (0, 0.8, True)]
)
def test_a_head_that_is_computed_again_must_be_better_than_the_best(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, epoch: int, refit: float, kept: bool
) -> None:
    """Of two epochs, the second one is the best. Its network is read again, others are there."""
    read: list[Any] = []
    monkeypatch.setattr(
        loop.checkpoint, "load_network", lambda folder: SimpleNamespace(model=folder.name)
    )
    monkeypatch.setattr(loop, "load_model_tensors", lambda setup, tensors: read.append(tensors))
    plans: list[Any] = []
    setup = SimpleNamespace(
        schedule=SimpleNamespace(monitor="m", stages=()),
        controller=SimpleNamespace(apply=plans.append),
    )
    heads = SimpleNamespace(load=lambda execution: None, scored=lambda execution: {"m": refit})
    made = stubbed(
        setup=setup, heads=heads, run_dir=SimpleNamespace(checkpoints=tmp_path), execution="old",
        state={"history": [{"m": 0.5}, {"m": 0.75}], "trained_checkpoint": "the best",
               "best_epoch": 1},
    )  # fmt: skip
    made._refit(epoch)
    assert read == (["the best"] if epoch == 1 else [])
    assert made.execution is None and plans == [FreezePlan(frozenset())]
    assert (made.state.refitted, made.state.best_epoch) == (kept, epoch if kept else 1)
    assert made.saves == ([{"best": True, "suffix": loop.REFIT}] if kept else [])
    ((name, data),) = made.events
    assert name == "notice" and data["routine"] is True


@pytest.mark.parametrize(
    ("epochs", "state", "done"),
    [
        (0, {}, ["alone", "train", "refit?"]), (0, {"solved": True}, ["train", "refit?"]),
        (4, {}, ["train", "refit?"]), (4, {"decision": "d"}, ["train", "again d", "refit?"]),
        (4, {"decision": "d", "refitted": True}, ["train", "refit?"]),
    ],
)  # fmt: skip
def test_a_run_solves_alone_without_epochs_and_goes_back_into_its_last_phase(
    epochs: int, state: dict[str, Any], done: list[str]
) -> None:
    steps: list[str] = []
    made = stubbed(
        state=state, execution=None, _opened=nullcontext,
        heads=SimpleNamespace(refit_epoch=lambda: steps.append("refit?")),
        _solve_alone=lambda: steps.append("alone"), _refit=lambda epoch: steps.append("refit"),
        _train_until=lambda end: steps.append("train") if end() == epochs else None,
        _reenter=lambda decision: steps.append(f"again {decision}"),
    )  # fmt: skip
    made.train.epochs = epochs
    made.run()
    assert steps == done


def test_attributes_of_modules_that_train_or_have_trained_are_kept() -> None:
    modules = {name: nn.Module() for name in ("net.first", "net.second", "loss")}
    for module in modules.values():
        module.steps = 0
    made: Any = object.__new__(Trainer)
    made.setup = SimpleNamespace(controller=SimpleNamespace(plan=None))
    made._modules, made._built, made._owners = modules, Snapshot(modules.values()), set()
    for module in modules.values():
        module.steps = 1
    assert made._attributes().values == {}, "nothing has trained"
    made.setup.controller.plan = "a plan"
    hold(modules["net.first"])
    assert made._attributes().values == {"net.second.steps": 1, "loss.steps": 1}
    hold(modules["net.second"])
    assert made._attributes().values == {"net.second.steps": 1, "loss.steps": 1}


def test_parts_without_a_gradient_and_shared_dropouts_are_told(
    image_folder: Path, tmp_path: Path
) -> None:
    class Detaches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            drop = nn.Dropout()
            self.first = nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.ReLU(), drop)
            self.second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), drop)
            self.third = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())

        def forward(self, images: Tensor) -> Tensor:
            return self.third(self.second(self.first(images)).detach()).mean((2, 3))

    def told(**values: Any) -> list[str]:
        events: list[siamkit.Event] = []
        siamkit.fit(
            data=image_folder, backbone=Detaches(), image_size=32, head="mlp", epochs=1,
            listeners=[events.append], engine={"cache": "off"}, **values,
        )  # fmt: skip
        return [e.data["text"] for e in events if e.name == "notice"]

    texts = told(run_dir=tmp_path / "full", freeze="full")
    (text,) = [text for text in texts if "no gradient reached" in text]
    assert text.startswith("no gradient reached first, second in ")
    assert not any("dropout" in text for text in texts)
    texts = told(run_dir=tmp_path / "two", freeze={"name": "unfreeze-blocks", "n": 2})
    (text,) = [text for text in texts if text.startswith("the dropout of")]
    assert "second.2 is off: a frozen part uses the same layer" in text
