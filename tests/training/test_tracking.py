"""Trackers are told all of a run and are closed, and none of them can end it."""

from __future__ import annotations

from pathlib import Path

import pytest

import siamkit
from siamkit import api, plugins
from siamkit.config import FREE
from siamkit.errors import ConfigError, PluginError
from siamkit.interfaces import Options
from siamkit.portable.signals import Terminated
from siamkit.registry import Entry
from siamkit.runs.events import Observer
from siamkit.training.tracking import closing


class Journal:
    """A tracker that remembers, and fails where it is told to."""

    def __init__(self, options=None, fail_at: str = "") -> None:
        self.options, self.fail_at = options, fail_at
        self.events: list[siamkit.Event] = []
        self.closed = 0

    def __call__(self, event: siamkit.Event) -> None:
        self.events.append(event)
        if event.name == self.fail_at:
            raise ConnectionError("no route to host")

    def close(self) -> None:
        self.closed += 1
        if self.fail_at == "close":
            raise SystemExit(1)

    def names(self) -> list[str]:
        return [event.name for event in self.events]


class PlaceOptions(Options):
    place: str = "here"


@pytest.fixture
def register(monkeypatch):
    """Register a tracker by name."""
    entries = dict(plugins.get().trackers.entries)
    monkeypatch.setattr(plugins.get().trackers, "entries", entries)

    def add(name, build, options=Options):
        entries[name] = Entry(name, build, options, distribution="third-party")

    return add


def notices(log: Journal) -> list[str]:
    return [event.data["text"] for event in log.events if event.name == "notice"]


def one_epoch(run_values, *names, **sections):
    return run_values(train={"epochs": 1}, track=list(names), **sections)


def test_a_tracker_is_told_what_the_log_holds_and_is_closed_once(register, run_values):
    journal, log = Journal(), Journal()
    register("journal", lambda options: journal)
    api.fit(one_epoch(run_values, "journal"), listeners=[log])
    assert journal.names() == log.names()
    assert journal.names()[0] == "run_start" and journal.names()[-1] == "run_end"
    assert journal.events[0].data["finished_steps"] == 0
    assert journal.closed == 1


def test_what_is_not_asked_for_is_not_built(register, run_values):
    register("journal", lambda options: pytest.fail("built"))
    api.fit(one_epoch(run_values))


def test_a_tracker_gets_its_options(register, run_values):
    built = []
    register("journal", lambda options: built.append(options) or print, PlaceOptions)
    register("other", lambda options: built.append(options) or print, PlaceOptions)
    config = api.load_config({"track": [{"name": "journal", "place": "there"}, "other"]})
    assert [t.options for t in config.track] == [{"place": "there"}, {"place": "here"}]
    api.fit(one_epoch(run_values, {"name": "journal", "place": "there"}, "other"))
    assert built == [PlaceOptions(place="there"), PlaceOptions()]


@pytest.mark.parametrize("fail_at", ["run_start", "step", "epoch_end", "run_end"])
def test_one_that_fails_is_left_out_and_the_run_goes_on(register, run_values, fail_at):
    broken, other, log = Journal(fail_at=fail_at), Journal(), Journal()
    register("broken", lambda options: broken)
    register("other", lambda options: other)
    result = api.fit(one_epoch(run_values, "broken", "other"), listeners=[log])
    assert result["epochs"] == 1
    (told,) = (n for n in notices(log) if "failed" in n)
    assert told.startswith("the tracker 'broken' of third-party failed and was left out: Conn")
    assert broken.names()[-1] == fail_at and broken.names().count(fail_at) == 1
    assert other.names() == log.names()
    assert broken.closed == other.closed == 1


def test_two_that_fail_at_the_same_event_do_not_end_the_run(register, run_values):
    first, second, log = Journal(fail_at="step"), Journal(fail_at="step"), Journal()
    register("first", lambda options: first)
    register("second", lambda options: second)
    api.fit(one_epoch(run_values, "first", "second"), listeners=[log])
    assert [n.split("'")[1] for n in notices(log) if "left out" in n] == ["first", "second"]
    assert log.names()[-1] == "run_end"


def test_one_that_fails_to_close_is_told_of_and_the_others_are_closed(register, run_values):
    broken, other, log = Journal(fail_at="close"), Journal(), Journal()
    register("broken", lambda options: broken)
    register("other", lambda options: other)
    api.fit(one_epoch(run_values, "broken", "other"), listeners=[log])
    assert notices(log)[-1] == "the tracker 'broken' of third-party failed to close: SystemExit: 1"
    assert other.closed == 1


def test_a_tracker_is_closed_when_the_run_ends_in_an_error(register, run_values):
    journal = Journal()
    register("journal", lambda options: journal)

    def crash(event):
        if event.name == "step":
            raise RuntimeError("crash")

    values = one_epoch(run_values, "journal")
    with pytest.raises(RuntimeError, match="crash"):
        api.fit(values, listeners=[crash])
    assert journal.closed == 1
    api.resume(values["run_dir"])
    assert journal.closed == 2
    assert journal.names().count("run_start") == 2


def test_a_function_is_a_tracker_too(register, run_values):
    seen = []
    register("function", lambda options: seen.append)
    api.fit(one_epoch(run_values, "function"))
    assert seen[-1].name == "run_end"


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda options: None, PluginError, "build must return a function that takes an event"),
        (lambda options: [][0], PluginError, "failed to build: IndexError"),
    ],
)
def test_one_that_cannot_be_built_is_told_before_anything_is_written(
    register, run_values, build, error, message
):
    register("broken", build)
    values = one_epoch(run_values, "broken")
    with pytest.raises(error, match=message) as caught:
        api.fit(values)
    assert "tracker 'broken' of third-party" in str(caught.value)
    assert not Path(values["run_dir"]).exists()


@pytest.mark.parametrize(
    ("track", "message"),
    [
        (["tensorbord"], r"track\.0\.name: unknown tracker .* did you mean 'tensorboard'"),
        ("tensorbord", "did you mean 'tensorboard'"),
        ([{"name": "tensorboard", "x": 1}], r"track\.0\.x: unknown key \(tracker 'tensorboard'\)"),
        (["tensorboard", "tensorboard"], "track: names 'tensorboard' twice"),
        (None, "track: must be a list of names"),
        ({"name": "tensorboard"}, "track: must be a list of names"),
        ([3], r"track\.0: must be a mapping"),
    ],
)
def test_a_wrong_track_is_told_with_its_place(track, message):
    with pytest.raises(ConfigError, match=message):
        api.load_config({"track": track})


def test_a_higher_layer_replaces_the_list():
    config = api.load_config({"track": "tensorboard"}, {"track": []})
    assert config.track == ()
    assert api.load_config({"track": "tensorboard"}).to_values()["track"] == [
        {"name": "tensorboard"}
    ]


def test_trackers_may_change_when_a_run_is_resumed():
    assert "track" in FREE


def test_a_run_can_be_used_where_its_tracker_is_not_installed(register, run_values, monkeypatch):
    register("journal", lambda options: Journal())
    values = one_epoch(run_values, "journal")
    api.fit(values)
    del plugins.get().trackers.entries["journal"]
    assert siamkit.load_model(values["run_dir"]).embedding_dim
    with pytest.raises(PluginError, match=r"journal.*not installed here; pip install third"):
        api.resume(values["run_dir"])


def test_sigterm_while_a_tracker_closes_ends_the_command():
    class Slow:
        def __call__(self, event: siamkit.Event) -> None: ...

        def close(self) -> None:
            raise Terminated

    told: list[str] = []
    with (
        pytest.raises(Terminated),
        closing([Observer("slow", Slow())], lambda n, d: told.append(n)),
    ):
        pass
    assert not told
