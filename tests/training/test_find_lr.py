"""The search for a rate: the phase that it tests under, and a run whose rate is ``auto``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import siamkit
from siamkit import api
from siamkit.api.entries import registries
from siamkit.errors import ConfigError
from siamkit.interfaces import FreezePlan, Phase
from siamkit.runs import checkpoint
from siamkit.runs.directory import RunDir
from siamkit.training import find_lr as search
from siamkit.training import range_test
from siamkit.training.find_lr import _chosen, _require_range, find_lr

RunValues = Callable[..., dict[str, Any]]


def found(values: dict[str, Any], **more: Any) -> dict[str, Any]:
    config = api.load_config({k: v for k, v in values.items() if k != "run_dir"})
    return find_lr(config, registries(), **{"steps": 20, **more})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "number", "epochs"),
    [
        ({}, 1, (1, 1)),
        ({"phase": 1}, 1, (1, 1)),
        ({"phase": 2}, 2, (2, 3)),
        ({"epoch": 1}, 1, (1, 1)),
        ({"epoch": 3}, 2, (2, 3)),
    ],
)
def test_the_phase_is_the_one_asked_for(
    run_values: RunValues, given: dict[str, int], number: int, epochs: tuple[int, int]
) -> None:
    phase = found(run_values(), **given)["phase"]
    assert (phase["number"], phase["of"]) == (number, 2)
    assert (phase["first_epoch"], phase["last_epoch"]) == epochs
    multiples = {stage["name"]: stage["lr_mult"] for stage in phase["stages"]}
    expected = {"head": 1.0} if number == 1 else {"layer3": 0.1, "layer4": 0.1, "head": 1.0}
    assert multiples == expected


def test_a_later_phase_is_tested_after_the_epochs_before_it(run_values: RunValues) -> None:
    values = run_values(
        freeze={"name": "stages", "warmup": 2}, optimizer={"lr": 0.02}, train={"epochs": 4},
        engine={"cache": "off", "prefix": "folded"},
    )  # fmt: skip
    shown: list[tuple[int, int]] = []
    first = found(values)
    later = found(values, epoch=3, progress=lambda *numbers: shown.append(numbers))
    assert (
        "the test began after 2 epochs of training at the rate 0.02, as this phase does"
        in (later["notices"])
    )
    assert not any("the test began after" in text for text in first["notices"])
    assert later["losses"][0][0] < first["losses"][0][0]
    before = 2 * 3  # steps of the epochs before
    assert shown[0] == (1, before + 60) and shown[before - 1 :][0] == (before, before + 60)
    assert shown[-1] == (before + 60, before + 60) and shown == sorted(shown)


def test_a_head_that_was_trained_is_not_computed_again(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []
    compute = range_test.solve
    monkeypatch.setattr(
        range_test, "solve", lambda setup, *read: epochs.append(phase) or compute(setup, *read)
    )
    values = run_values(head={"name": "multistage"}, engine={"cache": "off", "prefix": "folded"})
    for phase in (1, 2):
        found(values, phase=phase)
    assert epochs == [1]


@pytest.mark.slow
def test_the_epochs_before_are_trained_at_the_rate_that_auto_finds(run_values: RunValues) -> None:
    sections = {"loss": {"name": "triplet"}, "engine": {"cache": "off", "prefix": "folded"}}
    values = run_values(optimizer={"lr": "auto"}, **sections)
    config = api.load_config({k: v for k, v in values.items() if k != "run_dir"})
    rate = find_lr(config, registries())["lr"]
    later = found(values, phase=2)
    assert any(f"at the rate {rate:g}, as this phase" in text for text in later["notices"])
    given = found(run_values(optimizer={"lr": rate}, **sections), phase=2)
    assert given["losses"] == later["losses"]


def test_a_run_without_epochs_has_no_rate_to_find(run_values: RunValues) -> None:
    with pytest.raises(ConfigError, match=r"train.epochs: a run without epochs has no learning"):
        found(run_values(train={"epochs": 0}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"phase": 3}, "phase: the plan has only 2 phases, got 3"),
        ({"phase": 0}, "phase: must be a whole number, got 0, allowed: 1 or more"),
        ({"phase": True}, "phase: must be a whole number, got True"),
        ({"epoch": 4}, "epoch: the run has only 3 epochs, got 4; train longer (epochs=N)"),
        ({"epoch": 1, "phase": 1}, "epoch: cannot be combined with phase; leave one of them out"),
        ({"steps": 5}, "steps: must be a whole number, got 5, allowed: 20 or more"),
        ({"steps": 10**6}, "steps: are too many, got 1000000, allowed: at most 10000"),
        ({"lowest": 0.0}, "lowest: must be a learning rate, got 0.0"),
        ({"lowest": "1e-7"}, "lowest: must be a learning rate, got '1e-7'"),
        ({"highest": 1000.5}, "highest: must be a learning rate, got 1000.5"),
        ({"highest": float("inf")}, "highest: must be a learning rate, got inf"),
        ({"highest": float("nan")}, "highest: must be a learning rate, got nan"),
        ({"lowest": 1e-2, "highest": 1e-3}, "highest: must be at least 10 times the first rate"),
    ],
)
def test_wrong_arguments_are_refused(
    run_values: RunValues, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        found(run_values(), **given)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("steps", "lowest", "highest"),
    [(20, 1e-3, 1e-2), (10_000, 100.0, 1000.0), (20, 1e-9, 1), (10_001, 1e-3, 1e-2),
     (20, 1e-3, 0.0099), (20, 100.0, 1000.1), (19, 1e-3, 1e-2)],
)  # fmt: skip
def test_the_bounds_of_the_rates_and_steps_are_allowed_and_what_lies_beyond_is_not(
    steps: int, lowest: float, highest: float
) -> None:
    allowed = 20 <= steps <= 10_000 and 10 * lowest <= highest <= 1000
    with nullcontext() if allowed else pytest.raises(ConfigError):
        _require_range(steps, lowest, highest)


@pytest.mark.parametrize(
    ("phase", "epoch", "first"),
    [(None, None, 0), (1, None, 0), (2, None, 2), (None, 1, 0), (None, 2, 0), (None, 3, 2),
     (None, 5, 2)],
)  # fmt: skip
def test_a_phase_is_named_by_its_number_or_any_of_its_epochs(
    phase: int | None, epoch: int | None, first: int
) -> None:
    phases = [Phase(0, 2, FreezePlan(frozenset())), Phase(2, 5, FreezePlan(frozenset("a")))]
    schedule: Any = SimpleNamespace(phases=lambda history: phases, epochs=5)
    assert _chosen(schedule, phase, epoch).start_epoch == first


def test_what_is_lost_of_the_images_is_told(run_values: RunValues, odd_folder: Path) -> None:
    values = run_values(data={"path": str(odd_folder), "val_fraction": 0.5})
    notices = found(values)["notices"]
    assert any("read as 12 bits" in text for text in notices)


@pytest.mark.slow
def test_the_result_is_the_same_for_a_seed_and_holds_the_curves(run_values: RunValues) -> None:
    values = run_values(engine={"cache": "off", "prefix": "folded"})
    first, second = found(values), found(values)
    assert {**first, "seconds": 0, "engine": 0} == {**second, "seconds": 0, "engine": 0}
    assert first["loss"] == pytest.approx(
        [sum(losses) / 3 for losses in zip(*first["losses"], strict=False)][: len(first["loss"])]
    )
    longest = max(map(len, first["losses"]))
    assert len(first["rates"]) == longest - 1 <= 20
    other = found(run_values(train={"seed": 1}))
    assert other["losses"] != first["losses"]


# --- a run whose rate is auto ---------------------------------------------------------------------


@pytest.fixture
def auto(run_values: RunValues, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The values of a run that searches for its rate with few steps."""
    monkeypatch.setattr(search.find_lr, "__kwdefaults__",
                        {**search.find_lr.__kwdefaults__, "steps": 30})  # fmt: skip

    def values(**sections: Any) -> dict[str, Any]:
        engine = {"cache": "off", "prefix": "folded", **sections.pop("engine", {})}
        return run_values(
            optimizer={"lr": "auto"}, loss={"name": "triplet"}, engine=engine, **sections
        )

    return values


def last_tensors(run_dir: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    root = Path(run_dir) / "checkpoints"
    loaded = checkpoint.load(root / (checkpoint.pointed_to(root, checkpoint.LATEST) or ""))
    return loaded.model, loaded.optimizer


@pytest.mark.slow
def test_a_run_with_auto_equals_one_with_the_number(auto: RunValues, tmp_path: Path) -> None:
    events: list[siamkit.Event] = []
    first = api.fit(auto(), listeners=[events.append])
    config = RunDir.open(tmp_path / "run").read_config()
    rate = config["optimizer"]["lr"]
    assert isinstance(rate, float) and 1e-7 < rate < 10
    values = auto(run_dir=str(tmp_path / "other"))
    values["optimizer"] = {"lr": rate}
    second = api.fit(values)
    assert first["history"] == second["history"]
    for one, other in zip(
        last_tensors(first["run_dir"]), last_tensors(second["run_dir"]), strict=True
    ):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], tensor) for name, tensor in other.items())
    start = next(event.data for event in events if event.name == "run_start")
    assert start["lr_find"]["lr"] == rate == start["config"]["optimizer"]["lr"]
    assert start["lr_find"]["phase"]["number"] == 1
    names = [event.name for event in events]
    assert names[0] == "lr_find" and names.index("run_start") == names.count("lr_find")


@pytest.mark.slow
def test_a_resumed_run_keeps_its_rate_and_searches_no_more(
    auto: RunValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = api.fit(auto(run_dir=str(tmp_path / "whole")))

    class Stop(Exception):
        pass

    def stop(event: siamkit.Event) -> None:
        if event.name == "step" and event.data["step"] == 5:
            raise Stop

    with pytest.raises(Stop):
        api.fit(auto(), listeners=[stop])
    monkeypatch.setattr(search, "run_range_test", None)
    events: list[siamkit.Event] = []
    resumed = api.resume(tmp_path / "run", listeners=[events.append])
    assert resumed["history"] == whole["history"]
    (start,) = (event.data for event in events if event.name == "run_start")
    assert start["lr_find"]["lr"] == start["config"]["optimizer"]["lr"]
    for one, other in zip(
        last_tensors(resumed["run_dir"]), last_tensors(whole["run_dir"]), strict=True
    ):
        assert all(torch.equal(one[name], tensor) for name, tensor in other.items())


@pytest.mark.slow
def test_a_loss_that_never_falls_is_refused_and_leaves_no_run(
    auto: RunValues, tmp_path: Path
) -> None:
    values = auto()
    values["loss"] = {"name": "triplet", "margin": 1e-6}  # no triplet violates it
    values["head"] = {"name": "identity", "normalize": True}
    with pytest.raises(ConfigError, match="lr: no learning rate was found: "):
        api.fit(values)
    assert not (tmp_path / "run").exists()


def test_a_search_leaves_files_of_others_in_the_directory(
    auto: RunValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        (tmp_path / "run" / "notes.txt").write_text("mine")
        raise ConfigError("no")

    monkeypatch.setattr(search, "run_range_test", fails)
    with pytest.raises(ConfigError, match="no"):
        api.fit(auto())
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_begin_or_continue_takes_auto_for_a_run_that_found_its_rate(
    auto: RunValues, tmp_path: Path
) -> None:
    from siamkit.api.continuing import begin_or_continue

    values = auto()
    first = begin_or_continue([values], str)
    again = begin_or_continue([values], str)
    assert again["history"] == first["history"]


def test_inspect_shows_multiples_of_auto(auto: RunValues, render_inspection: Any = None) -> None:
    from rich.console import Console

    result = siamkit.inspect(auto())
    rows = {stage["name"]: stage for stage in result.phases[1]["stages"]}
    assert rows["head"]["lr"] is None and rows["layer4"]["lr_mult"] == pytest.approx(0.1)
    console = Console(width=160)
    with console.capture() as captured:
        console.print(result)
    assert "auto x 0.1" in captured.get()


def test_a_search_tells_its_progress_once_a_second_and_at_both_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, told = [0.0, 0.5, 0.999, 1.0, 1.5, 2.1, 2.2], []
    times = dict(enumerate(clock))
    now = [0.0]
    monkeypatch.setattr(search.time, "monotonic", lambda: now[0])

    def tested(*_: Any, progress: Callable[[int, int], None], **__: Any) -> dict[str, Any]:
        for done, time in times.items():
            now[0] = time
            progress(done, 6)
        return {"lr": None, "reason": "flat"}

    monkeypatch.setattr(search, "find_lr", tested)
    with pytest.raises(ConfigError, match="no learning rate was found: flat"):
        search.rate_of_run(None, {}, None, [lambda event: told.append(event.data["done"])])
    assert told == [0, 3, 5, 6]
