"""What TensorBoard is given is read back by TensorBoard itself."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from siamkit import api
from siamkit.builtins.trackers import TensorBoard, phase_text
from siamkit.config import yaml_text
from siamkit.errors import ConfigError
from siamkit.interfaces import Event, Options

pytest.importorskip("tensorboard")


class Curves:
    """One set of curves: points and texts by name."""

    def __init__(self, run_dir: str | Path, name: str) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        self.events = EventAccumulator(str(Path(run_dir) / "tensorboard" / name)).Reload()

    def names(self) -> set[str]:
        return set(self.events.Tags()["scalars"])

    def points(self, name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.events.Scalars(name)]

    def steps(self, name: str) -> list[int]:
        return [step for step, _ in self.points(name)]

    def texts(self, name: str) -> list[tuple[int, str]]:
        found = self.events.Tensors(f"{name}/text_summary")
        return [(t.step, t.tensor_proto.string_val[0].decode()) for t in found]


class Log:
    """The data of events by name; can end the run at a step, as a crash would."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.data: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def __call__(self, event: Event) -> None:
        self.data[event.name].append(dict(event.data))
        if event.name == "step" and event.data["step"] == self.stop_at:
            raise RuntimeError("crash")


@pytest.fixture(scope="module")
def done(values_of, tmp_path_factory):
    """A run that was tracked, and its log."""
    log = Log()
    values = values_of(tmp_path_factory.mktemp("tracked") / "run", track=["tensorboard"])
    return api.fit(values, listeners=[log]), log


def close(points):
    return [(step, pytest.approx(value)) for step, value in points]


def test_every_step_and_epoch_is_in_the_curves(done):
    result, log = done
    training = Curves(result["run_dir"], "training")
    steps = log.data["step"]
    assert training.points("loss/step") == close((d["step"], d["loss"]) for d in steps)
    assert training.steps("images_per_second") == [d["step"] for d in steps]
    for stage in {s for d in steps for s in d["rates"]}:
        expected = [(d["step"], d["rates"][stage]) for d in steps if stage in d["rates"]]
        assert training.points(f"rate/{stage}") == close(expected)
    last_steps = [max(d["step"] for d in steps if d["epoch"] == epoch) for epoch in (1, 2, 3)]
    assert training.points("epoch") == list(zip(last_steps, (1, 2, 3), strict=True))
    losses = [d["train_loss"] for d in log.data["epoch_end"]]
    assert training.points("loss/epoch") == close(zip(last_steps, losses, strict=True))


def test_a_metric_has_one_chart_for_training_and_held_out(done):
    result, log = done
    training, held_out = (Curves(result["run_dir"], n) for n in ("training", "held-out"))
    steps = training.steps("epoch")
    names = set(log.data["untrained"][0])
    assert "recall@1" in names
    for name in names:
        tag, epochs = f"metrics/{name}", log.data["epoch_end"]
        before = (0, log.data["untrained"][0][name])
        expected = [before, *zip(steps, [d["metrics"][name] for d in epochs], strict=True)]
        assert held_out.points(tag) == close(expected)
        expected = zip(steps, [d["train_metrics"][name] for d in epochs], strict=True)
        assert training.points(tag) == close(expected)
    assert held_out.names() == {f"metrics/{name}" for name in names}


def test_phases_are_a_curve_and_a_text_from_their_first_step_on(done):
    result, log = done
    training = Curves(result["run_dir"], "training")
    first, second = log.data["phase_start"]
    ends = training.steps("epoch")
    trains = (first["trainable_parameters"], second["trainable_parameters"])
    assert trains[0] < trains[1]
    assert training.points("trainable_parameters") == [
        (1, trains[0]), (ends[0], trains[0]),
        (ends[0] + 1, trains[1]), (ends[1], trains[1]), (ends[2], trains[1]),
    ]  # fmt: skip
    assert training.texts("phase") == [(1, phase_text(first)), (ends[0] + 1, phase_text(second))]
    assert f"{trains[1]:,} of {second['parameters']:,} parameters train" in phase_text(second)
    assert "| head | " in phase_text(first)


def test_the_config_and_the_notices_are_texts(done):
    result, log = done
    training = Curves(result["run_dir"], "training")
    ((step, text),) = training.texts("config")
    start = log.data["run_start"][0]
    assert step == 1
    assert text.startswith("```yaml\n") and text.endswith("\n```")
    assert yaml_text.load(text.removeprefix("```yaml").removesuffix("```")) == start["config"]
    notices = [*start["notices"], *(d["text"] for d in log.data["notice"])]
    assert notices
    assert training.texts("notices")[-1][1] == "\n".join(f"- {text}" for text in notices)


def test_tracking_changes_nothing_of_what_is_learned(done, values_of, tmp_path):
    result, _ = done
    plain = api.fit(values_of(tmp_path / "plain"))
    assert plain["history"] == result["history"]
    assert not (tmp_path / "plain" / "tensorboard").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [2, 9])
def test_a_resumed_run_goes_on_with_the_curves_and_repeats_no_step(
    done, values_of, tmp_path, stop_at
):
    run_dir, log = tmp_path / "run", Log(stop_at)
    with pytest.raises(RuntimeError, match="crash"):
        api.fit(values_of(run_dir, track=["tensorboard"]), listeners=[log])
    # TensorBoard reads files in the order of their names, which tell the second and then how many
    # this process made: as text, so within a second the tenth comes before the ninth.
    time.sleep(1)
    start = Log()
    api.resume(run_dir, listeners=[start])
    # Steps were done again, else this tests nothing.
    assert start.data["step"][0]["step"] < log.data["step"][-1]["step"]
    for name in ("training", "held-out"):
        whole, resumed = Curves(done[0]["run_dir"], name), Curves(run_dir, name)
        assert resumed.names() == whole.names()
        for tag in whole.names():
            steps = resumed.steps(tag)
            assert len(set(steps)) == len(steps)
            assert set(steps) >= set(whole.steps(tag))
    resumed = Curves(run_dir, "training")
    assert resumed.points("loss/step") == Curves(done[0]["run_dir"], "training").points("loss/step")


@pytest.mark.slow
def test_it_can_be_added_to_a_run_that_is_resumed(values_of, tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(RuntimeError, match="crash"):
        api.fit(values_of(run_dir), listeners=[Log(stop_at=9)])
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace("track: []", "track: [tensorboard]"))
    log = Log()
    api.resume(run_dir, listeners=[log])
    steps = [d["step"] for d in log.data["step"]]
    assert Curves(run_dir, "training").steps("loss/step") == steps


def test_a_missing_package_is_told_before_anything_is_written(run_values, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    values = run_values(track=["tensorboard"])
    with pytest.raises(ConfigError, match=r"needs the package tensorboard .*siamkit\[track\]"):
        api.fit(values)
    assert not Path(values["run_dir"]).exists()


def test_it_is_imported_only_where_it_is_asked_for(run_values, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    api.load_config(run_values(track=["tensorboard"]))
    assert "tensorboard" in api.list_trackers()


def test_a_notice_before_the_run_starts_is_kept(tmp_path):
    tracker = TensorBoard(Options())
    tracker(Event("notice", {"text": "the newest checkpoint is damaged"}))
    assert not list(tmp_path.iterdir())
    start = {"run_dir": str(tmp_path), "config": {}, "notices": ["second"], "finished_steps": 4}
    tracker(Event("run_start", start))
    tracker.close()
    tracker.close()
    ((step, text),) = Curves(tmp_path, "training").texts("notices")
    assert (step, text) == (5, "- the newest checkpoint is damaged\n- second")
