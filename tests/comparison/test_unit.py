"""The result of one run of an arm, from a log that is written by hand."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from siamkit.comparison import unit
from siamkit.comparison.results import ArmResult
from siamkit.config import RESUMABLE, Layer, RunConfig, flat
from siamkit.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FrozenDriftError,
    NoMemoryError,
    NonFiniteError,
    SiamkitError,
)
from siamkit.json_files import sealed
from siamkit.runs.directory import RunDir

Event = dict[str, Any]


def start(time: float, *, images: int = 40, notices: tuple[str, ...] = ()) -> Event:
    data = {"how": "", "train": "", "val": "", "train_images": 50}
    return {"event": "run_start", "time": time, "steps_per_epoch": 5, "images_per_epoch": images,
            "data": data, "notices": list(notices)}  # fmt: skip


def fill(time: float, seconds: float, done: int, total: int) -> Event:
    return {"event": "fill", "time": time, "seconds": seconds, "done": done, "total": total}


def notice(time: float, text: str) -> Event:
    return {"event": "notice", "time": time, "text": text}


def scored(time: float, epoch: int, training: float, whole: float) -> Event:
    return {"event": "epoch_end", "time": time, "epoch": epoch, "seconds": whole,
            "train_seconds": training, "train_loss": 0.5, "metrics": {}, "best": False}  # fmt: skip


def phase(time: float, epoch: int, trainable: int, **stages: int) -> Event:
    changes = [
        {"stage": name, "parameters": 10, "trainable": count, "lr": 1.0}
        for name, count in stages.items()
    ]
    return {"event": "phase_start", "time": time, "epoch": epoch, "changes": changes,
            "trainable_parameters": trainable, "parameters": 30}  # fmt: skip


def write(run: Path, events: list[Event]) -> None:
    run.mkdir(exist_ok=True)
    with RunDir(run).events.open("a") as file:
        file.writelines(json.dumps(sealed(event)) + "\n" for event in events)


class Training:
    """Stands for the training: each run writes its events, takes 10 s and gives its score."""

    def __init__(self) -> None:
        self.logged: dict[str, list[Event]] = {}
        self.scores: dict[str, float] = {}
        self.now = 0.0
        self.called: list[tuple[str, str]] = []
        self.fails: Exception | None = None
        self.diverges: set[str] = set()
        self.error: type[SiamkitError] = NonFiniteError

    def result(self, path: Path) -> dict[str, Any]:
        write(path, self.logged.get(path.name, [start(0.0)]))
        self.now += 10.0
        if path.name in self.diverges:
            raise self.error(f"the loss of {path.name} is NaN", hint="lower the rate")
        best = {"recall@1": self.scores.get(path.name, 0.5), "epoch": 2}
        return {"metrics": {"best": best}, "run_dir": str(path), "epochs": 3}

    def fit(self, config: RunConfig, registries: Any, listeners: Any, *, restart: bool) -> Any:
        assert restart and config.run_dir is not None
        self.called.append(("fit", config.run_dir.name))
        return self.result(config.run_dir)

    def resume(self, path: Path, registries: Any, listeners: Any, *, changes: Layer) -> Any:
        self.called.append(("resume", path.name))
        self.changes = dict(flat(changes))
        if self.fails is not None:
            raise self.fails
        return self.result(path)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    made = Training()
    monkeypatch.setattr(unit, "training", made)
    monkeypatch.setattr(unit, "time", SimpleNamespace(perf_counter=lambda: made.now))
    monkeypatch.setattr(unit, "_measured", lambda run, part: {part: {}})
    return made


@pytest.fixture
def run(training: Training, tmp_path: Path) -> Callable[..., ArmResult]:
    def tried(*names: str, batch_size: int = 8) -> ArmResult:
        train = {"batch_size": batch_size, "images_per_class": 2}
        configs = [RunConfig(run_dir=tmp_path / name, train=train) for name in names]
        variants = [{"name": name} for name in names]
        return unit.run_arm(configs, variants, {}, "recall@1", [])

    return tried


def begin(path: Path, events: list[Event], epochs: int | None = None) -> None:
    """Write a run that has saved a checkpoint."""
    write(path, events)
    RunDir(path).write_config(RunConfig(train={"epochs": epochs}) if epochs else RunConfig())
    (RunDir(path).checkpoints / "epoch-00001-step-00000005").mkdir(parents=True)


def test_a_run_is_described_by_its_log(training: Training, run: Callable[..., ArmResult]) -> None:
    training.logged["a"] = [
        start(0.0, notices=("first", "second")),
        phase(1.0, 1, 10, stem=0, head=10),
        fill(2.0, 1.5, 3, 10),
        fill(3.0, 2.0, 10, 10),
        notice(4.0, "third"),
        notice(5.0, "first"),
        notice(5.5, "how it goes") | {"routine": True},
        phase(6.0, 3, 20, stem=10),
        phase(7.0, 3, 20, stem=10),
        fill(8.0, 0.5, 4, 4),
        scored(9.0, 1, 1.5, 2.0),
        scored(9.5, 2, 1.0, 1.25),
        scored(9.75, 2, 1.0, 1.5),  # a resumed run repeats it
    ]
    found = run("a")
    assert found.evaluating == 1.0
    assert (found.seconds, found.filling) == (7.5, 2.5)
    assert (found.epochs, found.best_epoch, found.steps) == (3, 2, 15)
    assert found.images == 3 * 40
    assert found.notices == ("first", "second", "third")
    assert found.phases == (
        {"first_epoch": 1, "trainable": 10, "parameters": 30, "stages": ["head"]},
        {"first_epoch": 3, "trainable": 20, "parameters": 30, "stages": ["stem", "head"]},
    )
    assert (found.val, found.test) == ({"val": {}}, {"test": {}})
    assert found.failed is None


def test_of_several_variants_the_best_counts_and_all_take_time(
    training: Training, run: Callable[..., ArmResult]
) -> None:
    training.scores = {"a": 0.5, "b": 0.7, "c": 0.7}
    training.logged = {
        "a": [start(0.0), fill(1.0, 1.0, 1, 1)],
        "b": [start(0.0, notices=("of b",)), fill(1.0, 2.0, 1, 1)],
        "c": [start(0.0, notices=("of c",))],
    }
    found = run("a", "b", "c")
    assert found.tuned == {"name": "b"}, "of equal ones, the first"
    assert (found.seconds, found.filling) == (27.0, 3.0)
    assert found.notices == ("of b",)


@pytest.mark.parametrize("kind", unit.FAILURES)
def test_a_variant_that_cannot_be_trained_is_not_chosen_and_takes_time(
    training: Training, run: Callable[..., ArmResult], kind: type[SiamkitError]
) -> None:
    training.error = kind
    training.scores, training.diverges = {"a": 0.9, "b": 0.5, "c": 0.7}, {"a"}
    training.logged = {
        "a": [start(0.0), fill(1.0, 1.0, 1, 1)],
        "c": [start(0.0, notices=("of c",))],
    }
    found = run("a", "b", "c")
    assert found.tuned == {"name": "c"}
    assert (found.seconds, found.filling) == (29.0, 1.0)
    told = "name=a was not chosen, because the training failed with it: the loss of a is NaN"
    assert found.notices == ("of c", told)
    training.diverges = {"d", "e"}
    with pytest.raises(kind, match="the loss of d is NaN"):
        run("d", "e")


def test_the_time_of_earlier_sessions_counts_without_the_pause_between(
    training: Training, run: Callable[..., ArmResult], tmp_path: Path
) -> None:
    begin(tmp_path / "a", [start(100.0), fill(107.0, 0, 1, 2), start(200.0), fill(205.0, 0, 1, 2)])
    found = run("a")
    assert training.called == [("resume", "a")]
    assert set(training.changes) == set(RESUMABLE), "what the command now says, and no more"
    assert found.seconds == 10 + 7 + 5
    begin(tmp_path / "b", [notice(50.0, "without a start"), fill(51.0, 0, 1, 2)])
    training.logged["b"] = [start(60.0)]
    assert run("b").seconds == 10 + 1


def test_a_notice_that_a_session_tells_before_its_start_is_not_of_the_one_before(
    training: Training, run: Callable[..., ArmResult], tmp_path: Path
) -> None:
    killed = notice(28_800.0, "process 7 was killed while it used the run")
    told = notice(30.0, "in the middle")
    begin(tmp_path / "a", [start(0.0), told, fill(60.0, 0, 1, 2), killed, start(28_801.0),
                           fill(28_861.0, 0, 1, 2)])  # fmt: skip
    assert run("a").seconds == 10 + 60 + 60


@pytest.mark.parametrize("kind", [CheckpointError, ConfigError, DataError])
def test_a_run_that_cannot_go_on_is_trained_anew(
    kind: type[Exception], training: Training, run: Callable[..., ArmResult], tmp_path: Path
) -> None:
    begin(tmp_path / "a", [start(0.0)])
    (tmp_path / "a" / "rest").touch()
    training.fails = kind("damaged")
    run("a")
    assert training.called == [("resume", "a"), ("fit", "a")]
    assert not (tmp_path / "a" / "rest").exists()


def test_a_run_of_another_length_is_trained_anew(
    training: Training, run: Callable[..., ArmResult], tmp_path: Path
) -> None:
    begin(tmp_path / "a", [start(0.0)], epochs=3)
    (tmp_path / "a" / "rest").touch()
    run("a")
    assert training.called == [("fit", "a")]
    assert not (tmp_path / "a" / "rest").exists()


def test_other_errors_of_a_run_are_not_hidden(
    training: Training, run: Callable[..., ArmResult], tmp_path: Path
) -> None:
    begin(tmp_path / "a", [start(0.0)])
    training.fails = RuntimeError("a fault of the code")
    with pytest.raises(RuntimeError, match="a fault"):
        run("a")


@pytest.mark.parametrize("begun", [False, True])
def test_a_lack_of_memory_is_a_failure_of_the_arm_and_holds_no_memory(
    begun: bool, training: Training, run: Callable[..., ArmResult], tmp_path: Path
) -> None:
    class Network:
        """Stands for what fills the memory."""

    held: list[weakref.ref[Network]] = []

    def trained(*_: Any, **given: Any) -> Any:
        network = Network()
        held.append(weakref.ref(network))
        try:
            raise RuntimeError("CUDA error: out of memory")
        except RuntimeError:
            if len(held) > 1:
                raise NoMemoryError("with one image") from None
            raise

    training.fit = training.resume = trained  # type: ignore[method-assign]
    if begun:
        begin(tmp_path / "a", [start(0.0)])
    with pytest.raises(unit.FAILURES, match="out of memory") as caught:
        run("a", "b")
    assert isinstance(caught.value, NoMemoryError)
    assert [network() for network in held] == [None, None]


def test_a_network_that_drifts_ends_its_arm_only() -> None:
    assert issubclass(FrozenDriftError, unit.FAILURES)


def test_a_run_without_embeddings_is_damaged(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(unit, "training", training)
    config = RunConfig(run_dir=tmp_path / "a")
    with pytest.raises(CheckpointError, match="the run has no embeddings"):
        unit.run_arm([config], [{}], {}, "recall@1", [])
