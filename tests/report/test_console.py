"""The log of a run, from a stream of events."""

import io
import re

import pytest

from siamkit.interfaces import Event
from siamkit.report.console import ConsoleListener, _state, summary
from siamkit.report.terminal import make_console

from .conftest import Terminal, run_events


def log(stream, events=None, **kwargs) -> str:
    ticks = iter(range(1000))
    with ConsoleListener(
        make_console(stream), clock=lambda: float(next(ticks)), **kwargs
    ) as listener:
        for name, data in run_events() if events is None else events:
            listener(Event(name, data))
    return stream.getvalue()


def lines(text: str, start: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.startswith(start)]


def test_the_run_is_introduced():
    text = log(io.StringIO())
    assert "backbone resnet50, head mlp, freeze stages, loss triplet, scheduler cosine" in text
    assert (
        "train 180 images of 30 classes, val 180 images of 30 classes: class-disjoint split" in text
    )
    assert "2 epochs of 2 steps on cpu" in text
    assert "resumed" not in text


def test_a_resumed_run_says_so():
    name, data = run_events()[0]
    text = log(io.StringIO(), [(name, {**data, "finished_epochs": 1})])
    assert "resumed after epoch 1" in text


def test_names_are_printed_literally():
    text = log(io.StringIO())
    assert "runs/[/bold]" in text
    assert "notice: class '[/bold]' has one image" in text


def test_an_escape_sequence_in_a_name_does_not_reach_the_terminal():
    text = log(io.StringIO(), [("notice", {"text": "class '\x1b]0;owned\x07' :smile:"})])
    assert "\x1b" not in text and "\x07" not in text
    assert "class '\\x1b]0;owned\\x07' :smile:" in text


def test_each_epoch_is_a_line_with_the_untrained_model_as_epoch_0():
    assert lines(log(io.StringIO(), interval=1e9), "epoch") == [
        "epoch 0/2  untrained: recall@1 0.500  map@r 0.250",
        "epoch 1/2  step 1/2  lr 0.001  loss 0.500  87 img/s",
        "epoch 1/2  loss 0.125  recall@1 0.750  map@r 0.500  gap +0.125  12 s  best",
        "epoch 2/2  loss 0.125  recall@1 0.750  map@r 0.500  gap +0.125  12 s",
    ]


FILL = [
    ("fill", {"done": 100, "total": 400, "seconds": 2.0}),
    ("fill", {"done": 200, "total": 400, "seconds": 4.0}),
    ("fill", {"done": 400, "total": 400, "seconds": 8.0}),
]


def test_filling_the_cache_tells_how_far_it_is():
    assert lines(log(io.StringIO(), FILL, interval=0.5), "cache") == [
        "cache: 100 of 400 features computed  50 img/s  about 6.0 s left",
        "cache: 200 of 400 features computed  50 img/s  about 4.0 s left",
        "cache: 400 of 400 features computed  50 img/s",
    ]
    assert lines(log(io.StringIO(), FILL[1:], interval=1e9), "cache")[-1].startswith("cache: 400")


def test_a_fill_that_is_over_in_a_moment_says_nothing():
    quick = [("fill", {"done": 180, "total": 180, "seconds": 0.5})]
    assert lines(log(io.StringIO(), quick), "cache") == []


@pytest.mark.parametrize(("seconds", "count"), [(2.99, 0), (3.0, 1)])
def test_a_fill_of_three_seconds_gets_a_line(seconds, count):
    done = [("fill", {"done": 180, "total": 180, "seconds": seconds})]
    assert len(lines(log(io.StringIO(), done), "cache")) == count


def test_the_time_left_of_a_fill_is_estimated_from_that_fill_alone():
    """The first fill took 20 ms per feature; of the second, each takes 10 ms."""
    fast = [("fill", {"done": n, "total": 400, "seconds": n / 100}) for n in (100, 300, 400)]
    text = log(io.StringIO(), [*FILL, *fast], interval=0.5)
    assert lines(text, "cache")[3:] == [
        "cache: 100 of 400 features computed  100 img/s  about 3.0 s left",
        "cache: 300 of 400 features computed  100 img/s  about 1.0 s left",
        "cache: 400 of 400 features computed  100 img/s",
    ]


def test_a_fill_that_is_told_twice_at_one_place_keeps_its_pace():
    again = [*FILL[:2], FILL[1], FILL[2]]
    left = [line.rpartition("  ")[2] for line in lines(log(io.StringIO(), again, interval=0), "ca")]
    assert left[:3] == ["about 6.0 s left", "about 4.0 s left", "about 4.0 s left"]


def test_the_time_between_epochs_is_estimated_apart_from_that_of_steps():
    """Steps take 1 s, and the evaluation between two epochs 10 s."""
    times = iter([0.0, 1.0, 11.0, 12.0])
    stream = io.StringIO()
    listener = ConsoleListener(make_console(stream), interval=0.0, clock=lambda: next(times))
    listener(Event("run_start", {**run_events()[0][1], "epochs": 4}))
    for number in range(1, 5):
        step = {"epoch": (number + 1) // 2, "step": number, "steps": 8, "epoch_steps": 2,
                "epoch_step": 1, "loss": 1.0, "lr": 1e-3, "images_per_second": 9.0}  # fmt: skip
        listener(Event("step", step))
    told = [line.rpartition("  ")[2] for line in lines(stream.getvalue(), "epoch")]
    # Of 6 steps, none is known to follow an evaluation; of 5, 2 do; of 4 after the 4th, 2 do.
    assert told[1:] == ["about 6.0 s left", "about 23 s left", "about 22 s left"]


def test_on_a_terminal_filling_is_a_bar_and_then_a_line():
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", log(Terminal(), FILL))
    assert "100/400" in text and "6.0 s left" in text
    assert text.rstrip().splitlines()[-1] == "cache: 400 of 400 features computed  50 img/s"


def test_the_engine_says_how_the_phase_is_computed_and_time_left_starts_anew():
    engine = {"mode": "whole", "reason": "nothing is frozen", "boundary": None, "kernel": None}
    listener = ConsoleListener(make_console(stream := io.StringIO()))
    listener._steps.add(1.0)
    listener(Event("engine", {"epoch": 1, **engine}))
    assert "the whole network runs for every batch: nothing is frozen" in stream.getvalue()
    assert not len(listener._steps)


def test_a_phase_shows_what_changed():
    text = log(io.StringIO())
    assert "from epoch 1: 1.11 M of 23.5 M parameters train (4.74 %); policy 'stages'" in text
    assert "from epoch 2: 16.1 M of 23.5 M parameters train (68.4 %)" in text
    rows = [re.split(r"\s{2,}", row) for row in lines(text, "layer4")]
    assert rows == [
        ["layer4", "15.0 M", "-", "frozen", "frozen", "-"],
        ["layer4", "15.0 M", "frozen", "trains", "affine", "0.0001"],
    ]


@pytest.mark.parametrize(("interval", "count"), [(0.0, 4), (2.0, 2), (100.0, 1)])
def test_off_a_terminal_progress_is_a_line_an_interval(interval, count):
    assert log(io.StringIO(), interval=interval).count("img/s") == count


def test_progress_tells_the_time_left_at_the_pace_so_far():
    text = log(io.StringIO(), interval=0.0)
    assert "epoch 1/2  step 2/2  lr 0.001  loss 0.250  87 img/s  about 2.0 s left" in text
    assert "0.0 s left" in lines(text, "epoch 2/2  step 2/2")[0]


def test_off_a_terminal_there_are_no_control_characters():
    text = log(io.StringIO())
    assert "\x1b" not in text and "\r" not in text


def test_on_a_terminal_there_is_a_bar_which_goes_away(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = log(Terminal())
    assert "\x1b[?25l" in text  # the cursor is hidden while the bar is up
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "4/4" in text and "img/s" in text


def test_the_bar_goes_away_when_the_run_fails(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with (
        pytest.raises(RuntimeError, match="boom"),
        ConsoleListener(make_console(stream)) as listener,
    ):
        for name, data in run_events()[:4]:
            listener(Event(name, data))
        raise RuntimeError("boom")
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


def test_an_epoch_without_training_metrics_has_no_gap():
    data = dict(run_events()[5][1], train_metrics={})
    text = log(io.StringIO(), [run_events()[0], ("epoch_end", data)])
    line = "epoch 1/2  loss 0.125  recall@1 0.750  map@r 0.500  12 s  best"
    assert lines(text, "epoch") == [line]


def test_a_tiny_loss_is_not_shown_as_zero():
    data = dict(run_events()[5][1], train_loss=0.00012)
    text = log(io.StringIO(), [run_events()[0], ("epoch_end", data)])
    assert "loss 1.20e-04" in text


def test_early_stopping_says_which_epoch_was_best():
    text = log(io.StringIO(), [("early_stop", {"epoch": 7, "best_epoch": 4})])
    assert text.startswith("stopped early after epoch 7: no improvement since epoch 4")


RESULT = {
    "run_dir": "runs/[red]x",
    "epochs": 3,
    "metrics": {
        "untrained": {"recall@1": 0.5, "map@r": 0.25},
        "best": {"recall@1": 0.75, "map@r": 0.5, "epoch": 2},
        "last": {"recall@1": 0.625, "map@r": 0.125},
    },
}


def test_the_summary_sets_the_best_epoch_against_the_untrained_model(render):
    rows = [re.split(r"\s{2,}", row.strip()) for row in render(summary(RESULT)).splitlines()]
    assert rows[0] == ["3 epochs, written to runs/[red]x"]
    assert ["untrained", "0.500", "0.250"] in rows
    assert ["best (epoch 2)", "0.750 (+0.250)", "0.500 (+0.250)"] in rows
    assert ["last", "0.625 (+0.125)", "0.125 (-0.125)"] in rows


def test_a_loss_has_another_colour_than_a_gain():
    metrics = {
        "untrained": {"auc": 0.75, "eer": 0.25},
        "best": {"auc": 0.5, "eer": 0.125, "epoch": 1},
        "last": {"auc": 0.875, "eer": 0.5},
    }
    stream = Terminal()
    make_console(stream).print(summary({**RESULT, "metrics": metrics}))
    text = stream.getvalue()
    green, red = "\x1b[32m", "\x1b[31m"
    assert f"{red}(-0.250)" in text and f"{green}(-0.125)" in text  # AUC, EER
    assert f"{green}(+0.125)" in text and f"{red}(+0.250)" in text


def test_the_summary_compares_test_with_its_own_untrained_figure(render):
    test = {"untrained": {"recall@1": 0.4, "map@r": 0.2}, "best": {"recall@1": 0.5, "map@r": 0.3}}
    text = render(summary({**RESULT, "metrics": {**RESULT["metrics"], "test": test}}))
    assert re.search(r"test, untrained\s+0.400\s+0.200", text)
    assert re.search(r"test, best\s+0.500 \(\+0.100\)\s+0.300 \(\+0.100\)", text)


def test_everything_fits_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = log(io.StringIO(), interval=0.0)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text


def test_the_runs_path_is_never_broken(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    path = "runs/20261126-101112-" + "x" * 100
    for stream in (Terminal(), io.StringIO()):
        listener = ConsoleListener(make_console(stream))
        name, data = run_events()[0]
        listener(Event(name, {**data, "run_dir": path}))
        assert path in stream.getvalue()


def test_the_summary_names_the_run_in_one_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    path = "runs/20261126-101112-" + "x" * 100
    metrics = {"recall@1": 0.5}
    result = {"epochs": 2, "run_dir": path, "metrics": {
        "untrained": metrics, "best": {**metrics, "epoch": 1}, "last": metrics}}  # fmt: skip
    for stream in (Terminal(), io.StringIO()):
        make_console(stream).print(summary(result), crop=False)
        assert path in stream.getvalue()


def test_one_step_that_takes_long_does_not_make_hours_of_minutes():
    """Another program held up one step; the estimate follows the others."""
    now = iter([0.0, 0.1, 60.1, 60.2, 60.3, 60.4])
    stream = io.StringIO()
    listener = ConsoleListener(make_console(stream), interval=0.0, clock=lambda: next(now))
    listener(Event(*run_events()[0]))
    step = {"epoch": 1, "epoch_steps": 1000, "loss": 1.0, "lr": 1e-3, "images_per_second": 9.0}
    for number in range(1, 7):
        data = {**step, "step": number, "epoch_step": number, "steps": 1000}
        listener(Event("step", data))
    assert stream.getvalue().splitlines()[-1].endswith("about 1 min 39 s left")


WHOLE = """\
run      runs/[/bold]
model    backbone resnet50, head mlp, freeze stages, loss triplet, scheduler cosine
weights  pretrained
data     train 180 images of 30 classes, val 180 images of 30 classes: class-disjoint split
length   2 epochs of 2 steps on cpu
metrics  on held-out images after each epoch; gap: recall@1 on training images minus held-out
notice: class '[/bold]' has one image
epoch 0/2  untrained: recall@1 0.500  map@r 0.250
from epoch 1: 1.11 M of 23.5 M parameters train (4.74 %); policy 'stages'
stage    parameters   was   now      norm      rate
───────────────────────────────────────────────────
layer4       15.0 M   -     frozen   frozen       -
head         1.11 M   -     trains   -        0.001
epoch 1/2  step 1/2  lr 0.001  loss 0.500  87 img/s
epoch 1/2  loss 0.125  recall@1 0.750  map@r 0.500  gap +0.125  12 s  best
from epoch 2: 16.1 M of 23.5 M parameters train (68.4 %); policy 'stages'
stage    parameters   was      now      norm       rate
───────────────────────────────────────────────────────
layer4       15.0 M   frozen   trains   affine   0.0001
epoch 2/2  step 1/2  lr 0.001  loss 0.167  87 img/s  about 1.0 s left
epoch 2/2  loss 0.125  recall@1 0.750  map@r 0.500  gap +0.125  12 s
"""


def test_the_whole_log_of_a_run():
    assert log(io.StringIO(), interval=2.0) == WHOLE


def test_a_search_for_the_rate_is_announced_and_told_now_and_then():
    search = [("lr_find", {"done": done, "total": 8}) for done in range(9)]
    told = log(io.StringIO(), search, interval=3.0).splitlines()
    assert told == [
        "notice: the learning rate is auto: a range test comes before the training",
        "range test: step 0 of 8",
        "range test: step 3 of 8",
        "range test: step 6 of 8",
    ]


def test_on_a_terminal_a_search_for_the_rate_is_a_bar():
    search = [("lr_find", {"done": done, "total": 3}) for done in range(4)]
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", log(Terminal(), search))
    assert "range test" in text and "/3" in text and "step" not in text


def test_a_rate_that_was_found_stands_with_the_run():
    name, data = run_events()[0]
    found = {"lr": 2e-3, "low": 1e-3, "high": 4e-3, "losses": [[]] * 3, "phase": {"number": 1}}
    text = log(io.StringIO(), [(name, {**data, "lr_find": found})])
    rows = [line.split(None, 1) for line in text.splitlines()]
    names = [row[0] for row in rows]
    place = names.index("rate")
    assert rows[place][1].startswith("0.002, found by a range test under phase 1")
    assert names[place - 1] == "weights" and names[place + 1] == "data"


def test_the_recipe_and_the_rate_stand_after_the_model():
    name, data = run_events()[0]
    rate = {"lr": 2e-3, "low": 1e-3, "high": 4e-3, "losses": [[]] * 3, "phase": {"number": 1}}
    arm = {"name": "full", "open": True, "value": 0.8, "runs": 1}
    more = {
        "lr_find": rate,
        "recipe": {"best": "full", "start": None, "metric": "map@r", "arms": [arm]},
    }
    text = log(io.StringIO(), [(name, {**data, **more})])
    names = [line.split(None, 1)[0] for line in text.splitlines()]
    place = names.index("model")
    assert names[place : place + 4] == ["model", "recipe", "rate", "weights"]


@pytest.mark.parametrize(
    ("trainable", "text"),
    [(None, "-"), (0, "frozen"), (False, "frozen"), (True, "trains"), (2000, "trains"),
     (1999, "2.00 k train"), (1, "1 train")],
)  # fmt: skip
def test_a_stage_says_how_much_of_it_trains(trainable, text):
    # ``1`` equals ``True``, and is one parameter all the same.
    assert _state(trainable, 2000) == text
