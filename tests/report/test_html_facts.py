"""What happened in a run, from its events."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.json_files import sealed
from siamkit.report.html import timing
from siamkit.report.html.facts import Band, StageState, facts_of
from siamkit.report.html.figures import draw_bands, figure
from siamkit.report.html.plan_chart import plan_chart, prefix_of
from siamkit.report.html.run_charts import (
    loss_chart,
    metric_chart,
    rate_chart,
    time_chart,
)
from siamkit.runs.log import read_log

from .conftest import run_events


def logged(events, start=1000.0, gap=1.0):
    return [{"time": start + i * gap, "event": n, **d} for i, (n, d) in enumerate(events)]


EVENTS = logged(run_events())


def test_epochs_steps_and_the_best_of_them():
    facts = facts_of(EVENTS)
    assert [e.number for e in facts.epochs] == [0, 1]
    assert facts.best is not None and facts.best.number == 0
    assert facts.untrained == {"recall@1": 0.5, "map@r": 0.25}
    assert [s.at for s in facts.steps] == [0.5, 1.0, 1.5, 2.0]
    assert facts.span == 2
    assert (facts.ended, facts.sessions, facts.stopped_early) == (True, 1, False)
    assert facts.notices == ("class '[/bold]' has one image",)


def test_a_log_without_steps_still_tells_how_long_the_run_was():
    facts = facts_of([event for event in EVENTS if event["event"] != "step"])
    assert (facts.steps, facts.span) == ((), 2)
    assert facts_of(EVENTS[:5]).span == 1  # two steps
    assert facts_of(EVENTS[:4]).span == 0.5
    assert facts_of([]).span == 0


def test_phases_are_bands_of_epochs_with_the_state_of_every_stage():
    first, second = facts_of(EVENTS).bands
    assert (first.start, first.end, second.start, second.end) == (0, 1, 1, 2)
    assert {n: s.state for n, s in first.stages.items()} == {"layer4": "frozen", "head": "trains"}
    # The second phase told of layer4 alone: the head is as it was.
    assert {n: s.state for n, s in second.stages.items()} == {"layer4": "trains", "head": "trains"}
    assert first.trained_text == "head" and second.trained_text == "everything"
    assert first.share == pytest.approx(1_114_752 / 23_508_032)


def resumed(cut):
    """The events of a run that died after ``cut`` of them, and was resumed from its last epoch."""
    events = run_events()
    start = next(d for n, d in events if n == "run_start")
    told = next(d for n, d in events if n == "phase_start")
    before = logged(events[:cut])
    done = [d for n, d in events[:cut] if n == "epoch_end"]
    rest = [("run_start", {**start, "finished_epochs": len(done)}), ("phase_start", told)]
    if done:
        at = next(i for i, (n, _) in enumerate(events) if n == "epoch_end") + 1
        both = {c["stage"]: c for n, d in events if n == "phase_start" for c in d["changes"]}
        stages = [{**c, "was": None} for c in both.values()]
        later = next(d for n, d in reversed(events) if n == "phase_start")
        rest[1] = ("phase_start", {**later, "changes": stages})
        rest += [e for e in events[at:] if e[0] not in ("run_start", "phase_start")]
    else:
        rest += events[3:]
    return before, logged(rest, start=9000.0)


@pytest.mark.parametrize("cut", range(3, 12))
def test_a_resumed_run_tells_what_an_uninterrupted_one_does(cut):
    before, after = resumed(cut)
    facts, whole = facts_of([*before, *after]), facts_of(EVENTS)
    assert facts.sessions == 2
    assert (facts.epochs, facts.steps) == (whole.epochs, whole.steps)
    assert [(b.start, b.end, b.trained_text) for b in facts.bands] == [
        (b.start, b.end, b.trained_text) for b in whole.bands
    ]


def test_a_plan_that_is_told_again_is_no_new_phase():
    events = run_events()
    first = next(e for e in events if e[0] == "phase_start")
    again = ("phase_start", {**first[1], "epoch": 2})
    resumed = ("run_start", {**events[0][1], "finished_epochs": 1})
    facts = facts_of(logged([*events[:6], resumed, again, *events[7:9], *events[9:]]))
    assert [(b.start, b.end) for b in facts.bands] == [(0, 2)]


@pytest.mark.parametrize(
    ("trained", "text"),
    [
        ("", "nothing"),
        ("abcdef", "everything"),
        ("ef", "e, f"),
        ("def", "d to f"),
        ("abc", "a, b, c"),
        ("abcd", "a, b, c, d"),
        ("abcde", "5 of 6 stages"),
        ("cdeF", "part of c to f"),
        ("A", "part of a"),
    ],
)
def test_a_phase_names_the_stages_that_train_or_counts_them(trained, text):
    """Of stages in capitals, a part trains."""
    stages = {
        name: StageState(8, 8 if name in trained else 4 * (name.upper() in trained), 0.1, None)
        for name in "abcdef"
    }
    assert Band(0, 1, 8, 48, stages).trained_text == text


def test_only_neighbouring_phases_with_equal_stages_become_one():
    head, whole = ((n, e) for n, e in run_events() if n == "phase_start")

    def phase(event, epoch):
        return (event[0], {**event[1], "epoch": epoch})

    end = {"epoch": 4, "epochs": 4, "train_loss": 0.5, "metrics": {}, "best": True}
    events = [run_events()[0], phase(head, 1), phase(whole, 2), phase(whole, 3), ("epoch_end", end)]
    assert [(b.start, b.end) for b in facts_of(logged(events)).bands] == [(0, 1), (1, 4)]


def test_what_a_resumed_run_goes_back_behind_is_undone():
    events = run_events()
    told = next(e for e in events if e[0] == "phase_start")
    again = [*events[:10], ("run_start", {**events[0][1], "finished_epochs": 0}), told]
    facts = facts_of(logged(again))
    assert facts.epochs == () and facts.best is None
    assert [s.at for s in facts.steps] == [0.5, 1.0]  # of the epoch that is going on
    assert [(b.start, b.end, b.trained_text) for b in facts.bands] == [(0, 1, "head")]


def test_a_loss_that_was_not_finite_is_told():
    event = ("non_finite", {"step": 6, "samples": ["a/1.png", "b/2.png", "c", "d"]})
    (notice,) = facts_of(logged([event])).notices
    assert "step 7" in notice and "a/1.png" in notice and "4 images" in notice


# --- whatever is left of a log ---


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 6000), more=st.binary(max_size=30))
def test_any_part_of_a_log_can_be_told(tmp_path_factory, cut, more):
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    lines = "".join(json.dumps(event) + "\n" for event in EVENTS).encode()
    path.write_bytes(lines[:cut] + more)
    log = read_log(path)
    facts = facts_of(log.events)
    spent = timing.spent(log.events)
    for chart in (
        loss_chart(facts),
        metric_chart(facts, "recall@1"),
        rate_chart(facts),
        plan_chart(facts),
        time_chart(spent),
    ):
        assert chart is None or chart.finding
    assert len(log.events) <= lines[:cut].count(b"\n") + 1


def test_damaged_lines_are_counted_and_a_missing_log_is_empty(tmp_path):
    path = tmp_path / "events.jsonl"
    assert read_log(path).events == ()
    events = {"time": 1, "event": "notice", "text": "x"}, {"time": 2}
    lines = [json.dumps(sealed(event)) for event in events]
    path.write_text(f"{lines[0]}\n\nnot json\n[1]\n{lines[1]}\n")
    log = read_log(path)
    assert [e["event"] for e in log.events] == ["notice"]
    assert log.damaged == 3


# --- time ---

STEP = {"epoch": 1, "step": 1, "steps": 2, "epoch_step": 1, "epoch_steps": 2, "loss": 1.0,
        "images_per_second": 10.0, "seconds": 4.0, "input_seconds": 3.0}  # fmt: skip
SPAN = [
    {"time": 0.0, "event": "run_start", "finished_epochs": 0},
    {"time": 1.0, "event": "phase_start", "epoch": 1},
    {"time": 3.0, "event": "engine", "epoch": 1, "mode": "live", "prefix_seconds": 0.05},
    {"time": 8.0, "event": "fill"},
    {"time": 9.0, "event": "notice"},
    {"time": 10.0, "event": "untrained"},
    {"time": 15.0, "event": "step", **STEP},
    {"time": 17.0, "event": "epoch_end", "epoch": 1},
    {"time": 17.5, "event": "checkpoint", "epoch": 1},
]


def test_every_second_has_one_kind_of_work():
    (epoch,) = timing.spent(SPAN).values()
    assert epoch == {
        "setup": 3.0, "fill": 5.0, "evaluation": 4.0, "saving": 0.5,
        # 40 images at 0.05 s are 2 of the 3 seconds that the step waited.
        "prefix": pytest.approx(2.0), "wait": pytest.approx(1.0), "suffix": pytest.approx(2.0),
    }  # fmt: skip


def test_the_time_between_two_processes_is_nobodys():
    again = [{**e, "time": e["time"] + 1000} for e in SPAN]
    assert sum(timing.totals(timing.spent([*SPAN, *again])).values()) == pytest.approx(35.0)


def test_steps_of_an_older_log_are_told_as_a_whole():
    old = [{k: v for k, v in e.items() if k != "input_seconds"} for e in SPAN]
    assert timing.spent(old)[0]["steps"] == 5.0


def test_a_cached_phase_waits_for_rows_and_runs_no_prefix():
    cached = [{**e, "mode": "cached"} if e["event"] == "engine" else e for e in SPAN]
    assert timing.spent(cached)[0]["wait"] == 3.0
    assert not timing.spent(cached)[0]["prefix"]


@given(st.lists(st.tuples(st.sampled_from([e["event"] for e in SPAN]), st.floats(-5, 100))))
def test_no_second_is_lost_or_counted_twice(moves):
    by_name = {e["event"]: e for e in SPAN}
    clock, events = 0.0, []
    for name, gap in moves:
        clock += gap
        events.append({**by_name[name], "time": clock})
    expected, last = 0.0, None
    for event in events:
        if event["event"] == "run_start":
            last = event["time"]
        elif event["event"] != "notice":
            if last is not None:
                expected += max(0.0, event["time"] - last)
            last = event["time"]
    sums = timing.totals(timing.spent(events))
    assert sum(sums.values()) == pytest.approx(expected)
    assert all(seconds > 0 for seconds in sums.values())


# --- charts ---


def test_the_plan_names_what_is_computed_once():
    band = facts_of(EVENTS).bands[0]
    assert prefix_of(band) == set()
    assert prefix_of(replace(band, engine={"boundary": "features"})) == {"layer4"}
    assert prefix_of(replace(band, engine={"boundary": "layer4"})) == {"layer4"}
    assert prefix_of(replace(band, engine={"boundary": "layer4.1"})) == set()


def test_charts_say_in_words_what_they_show():
    facts = facts_of(EVENTS)
    metric, loss, plan = metric_chart(facts, "recall@1"), loss_chart(facts), plan_chart(facts)
    assert metric and loss and plan
    assert metric.finding.startswith("Held out: 0.500 untrained, 0.750 after the best")
    assert metric.rows == [(0, "0.500", None, None), (1, "0.750", "0.875", "+0.125"),
                           (2, "0.750", "0.875", "+0.125")]  # fmt: skip
    assert "0.125" in loss.finding
    assert plan.rows[0][:3] == (1, "1", "head")
    # A band for each phase, on each chart over epochs.
    assert len(metric.figure.layout.shapes) == 2 + 1  # and the untrained line
    assert [t.name for t in plan.figure.data] == ["share", "trains", "frozen"]


def with_rates(*rates):
    """The events of the run, with the rate of the head at each of its steps."""
    left = iter(rates)
    return [{**e, "rates": {"head": next(left)}} if e["event"] == "step" else e for e in EVENTS]


@pytest.mark.parametrize(
    ("rates", "text", "more"),
    [
        ((1e-3, 5e-4, 2e-4, 3e-5), "rate up to 0.001", "rate 3e-05 to 0.001"),
        ((1e-4, 1e-3, 5e-4, 1e-5), "rate up to 0.001", "rate 1e-05 to 0.001"),
        ((1e-3, 1e-3, 1e-3, 1e-3), "rate 0.001", "rate 0.001"),
    ],
)
def test_a_bar_of_the_plan_says_one_rate_only_if_there_is_one(rates, text, more):
    plan = plan_chart(facts_of(with_rates(*rates)))
    assert plan is not None
    bar = next(t for t in plan.figure.data if t.name == "trains")
    head = next(i for i, hover in enumerate(bar.hovertext) if hover.startswith("head"))
    assert bar.text[head] == text
    assert bar.hovertext[head].endswith(f", {more}")


def test_the_plan_counts_epochs_from_one_in_the_middle_of_each():
    plan = plan_chart(facts_of(EVENTS))
    assert plan is not None
    axis = plan.figure.layout.xaxis2
    assert list(zip(axis.tickvals, axis.ticktext, strict=True)) == [(0.5, "1"), (1.5, "2")]
    assert [row[1] for row in plan.rows] == ["1", "2"]


def test_the_numbers_of_phases_stand_above_the_lines():
    chart = metric_chart(facts_of(EVENTS), "recall@1")
    assert chart is not None
    notes = chart.figure.layout.annotations
    assert [note.text for note in notes] == ["phase 1", "phase 2"]
    assert all((n.yref, n.y, n.yanchor) == ("y domain", 1, "bottom") for n in notes)


def test_many_phases_have_numbers_only_where_there_is_room():
    band = facts_of(EVENTS).bands[0]
    bands = [replace(band, start=i, end=i + 1) for i in range(4)]
    bands.append(replace(band, start=4, end=100))
    plot = figure()
    draw_bands(plot, bands)
    assert [note.text for note in plot.layout.annotations] == ["phase 5"]
    assert len(plot.layout.shapes) == 5


def test_every_trace_has_a_key_that_looks_like_it():
    facts = facts_of(EVENTS)
    metric, loss, plan = metric_chart(facts, "recall@1"), loss_chart(facts), plan_chart(facts)
    assert metric and loss and plan
    held, training, gap, best = metric.keys
    assert (held.name, held.line, held.dashes, held.mark) == ("held out", True, "", "●")
    assert (training.line, training.dashes, training.mark) == (True, "6 3", "■")
    assert (gap.area, gap.line, gap.mark) == (True, False, "")
    assert (best.line, best.mark) == (False, "★")
    assert [key.name for key in loss.keys] == ["step", "epoch mean"]
    assert all(key.area for key in plan.keys)
    assert not any(chart.figure.layout.showlegend for chart in (metric, loss, plan))


def test_the_kinds_of_work_have_colours_of_their_own_and_their_table_is_the_legend():
    chart = time_chart(timing.spent(SPAN))
    assert chart is not None and chart.keyed
    assert [key.name for key in chart.keys] == [row[0] for row in chart.rows]
    assert len({key.colour for key in chart.keys}) == len(chart.keys)
    # A hatched bar is a picture of the whole chart on paper.
    assert "pattern" not in chart.figure.to_json()


def test_a_small_change_fills_no_chart():
    quiet = json.loads(json.dumps(EVENTS).replace('"recall@1": 0.75', '"recall@1": 0.501'))
    quiet = json.loads(json.dumps(quiet).replace('"recall@1": 0.875', '"recall@1": 0.502'))
    chart = metric_chart(facts_of(quiet), "recall@1")
    assert chart is not None
    low, high = chart.figure.layout.yaxis.range
    assert high - low == pytest.approx(0.05) and low < 0.5 and high > 0.502


def test_names_of_stages_are_no_markup_in_a_chart():
    events = json.loads(json.dumps(EVENTS).replace("layer4", "<b>x</b><a href=''>y"))
    plan = plan_chart(facts_of(events))
    assert plan is not None
    text = plan.figure.to_json()
    # The only tags are the line breaks of our own hover texts.
    assert "\\u003cb\\u003e" not in text and "\\u003ca" not in text
    assert "&lt;b&gt;x&lt;" in text


@pytest.mark.parametrize("rates", [(0.1,) * 4, (2e-3, 1.9e-3, 1.5e-3, 5e-4)])
def test_ticks_of_rates_are_whole_numbers_not_single_digits(rates):
    chart = rate_chart(facts_of(with_rates(*rates)))
    assert chart is not None
    axis = chart.figure.layout.yaxis
    assert [float(text) for text in axis.ticktext] == pytest.approx(list(axis.tickvals))
    low, high = (10**end for end in axis.range)
    assert low < min(rates) and max(rates) < high
    assert sum(low <= tick <= high for tick in axis.tickvals) >= 2


def test_the_highest_rate_of_a_schedule_is_a_round_number():
    chart = rate_chart(facts_of(with_rates(9.999e-4, 5e-4, 1e-4, 1e-6)))
    assert chart is not None and "highest rate is 0.001." in chart.finding
