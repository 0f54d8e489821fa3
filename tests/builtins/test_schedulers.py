from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.builtins import schedulers as builtin
from siamkit.errors import ConfigError
from siamkit.interfaces import Progress
from siamkit.registry import Entry

ENTRIES: dict[str, Entry] = {}
builtin.siamkit_register_schedulers(
    lambda name, build, options: ENTRIES.update({name: Entry(name, build, options)})
)
NAMES = ["constant", "cosine", "linear", "step", "one-cycle", "plateau"]


def make(name, **options):
    entry = ENTRIES[name]
    return entry.build(entry.validate(options, "scheduler"))


def curve(scheduler, epochs, per_epoch=10, metrics=None):
    """The scale at each step; at each epoch where ``per_epoch`` is 0."""
    metrics = metrics or [0.0] * epochs
    steps = epochs * per_epoch
    return [
        scheduler.lr_scale(
            Progress(
                epoch=at // per_epoch if steps else at,
                epochs=epochs,
                step=at if steps else 0,
                steps=steps,
                history=tuple({"recall@1": m} for m in metrics[: at // per_epoch if steps else at]),
            )
        )
        for at in range(steps or epochs)
    ]


def test_without_steps_the_warm_up_counts_the_epoch_that_begins():
    assert curve(make("constant", warmup=2), 4, per_epoch=0) == [0.5, 1.0, 1.0, 1.0]


def test_all_are_registered():
    assert list(ENTRIES) == NAMES


@settings(deadline=None, max_examples=50)
@given(
    name=st.sampled_from(NAMES),
    epochs=st.integers(1, 40),
    per_epoch=st.integers(0, 12),
    warmup=st.floats(0, 50),
    final=st.floats(0, 1),
    metrics=st.lists(st.floats(0, 1) | st.just(math.nan), min_size=40, max_size=40),
)
def test_scale_is_pure_finite_and_within_one(name, epochs, per_epoch, warmup, final, metrics):
    options = {"warmup": warmup}
    if "final" in ENTRIES[name].options.model_fields:
        options["final"] = final
    scales = curve(make(name, **options), epochs, per_epoch, metrics)
    assert scales == curve(make(name, **options), epochs, per_epoch, metrics)
    assert all(math.isfinite(s) and 0 <= s <= 1 for s in scales)


@settings(deadline=None, max_examples=50)
@given(name=st.sampled_from(NAMES), warmup=st.floats(0.5, 5), per_epoch=st.integers(1, 20))
def test_warmup_rises_to_the_full_rate(name, warmup, per_epoch):
    scales = curve(make(name, warmup=warmup), 12, per_epoch)
    rise = scales[: math.floor(warmup * per_epoch)]
    assert rise == sorted(rise)
    assert all(s > 0 for s in rise), "a rate of zero is a lost step"
    if rise and name != "one-cycle":
        assert rise[0] == pytest.approx(min(1, 1 / (warmup * per_epoch)))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "one-cycle"])
def test_a_warmup_that_is_as_long_as_the_run_rises_to_its_end(name):
    scales = curve(make(name, warmup=4), 4, 5)
    assert scales == pytest.approx([(step + 1) / 20 for step in range(20)])


@settings(deadline=None, max_examples=50)
@given(name=st.sampled_from(["cosine", "linear", "one-cycle"]), warmup=st.integers(0, 5))
def test_after_the_warmup_the_rate_falls_from_one_to_final(name, warmup):
    scales = curve(make(name, warmup=warmup, final=0.2), 10, 50)
    fall = scales[warmup * 50 :]
    assert fall[0] == pytest.approx(1.0)
    assert fall == sorted(fall, reverse=True)
    assert fall[-1] == pytest.approx(0.2, abs=0.01)


def test_constant_is_one():
    assert curve(make("constant"), 3) == [1.0] * 30


def test_cosine_is_half_way_in_the_middle_whether_by_step_or_by_epoch():
    assert curve(make("cosine"), 4, 0)[2] == pytest.approx(0.5)
    assert curve(make("cosine"), 4, 7)[14] == pytest.approx(0.5)
    assert curve(make("cosine", warmup=2), 4, 10)[30] == pytest.approx(0.5)


def test_linear_is_a_line():
    scales = curve(make("linear", final=0.5), 2, 5)
    steps = [a - b for a, b in itertools.pairwise(scales)]
    assert steps == pytest.approx([0.05] * 9)


def test_step_falls_every_so_many_epochs():
    scales = curve(make("step", every=2, factor=0.5), 5, 3)
    assert scales == [1.0] * 6 + [0.5] * 6 + [0.25] * 3


def test_one_cycle_rises_for_three_tenths_of_the_run():
    scales = curve(make("one-cycle", start=0.1), 10, 10)
    assert scales[0] == pytest.approx(0.1)
    assert scales.index(max(scales)) == 30
    assert max(scales) == 1.0
    assert curve(make("one-cycle", warmup=1), 10, 10).index(1.0) == 10
    assert curve(make("one-cycle", warmup=0), 10, 10)[0] == 1.0


def test_plateau_replays_the_history():
    metrics = [0.5, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7]
    #          best best  1    2   best  1    2    1    2
    scales = curve(make("plateau", patience=2, factor=0.5), 10, 1, [*metrics, 0.0])
    assert scales == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_plateau_heeds_min_delta_and_never_falls_below_final():
    rising = [0.01 * i for i in range(12)]
    assert set(curve(make("plateau", patience=2), 12, 1, rising)) == {1.0}
    scales = curve(
        make("plateau", patience=1, min_delta=0.05, factor=0.1, final=0.05), 12, 1, rising
    )
    assert scales[1] == 1.0
    assert scales[-1] == 0.05


def test_plateau_reads_only_what_came_before_the_epoch():
    history = tuple({"recall@1": 0.5} for _ in range(10))
    scheduler = make("plateau", patience=2, factor=0.5)
    assert scheduler.lr_scale(Progress(2, 10, history=history)) == 1.0
    assert scheduler.lr_scale(Progress(9, 10, history=history)) < 0.2


def test_a_nan_metric_counts_as_no_improvement():
    scales = curve(make("plateau", patience=2, factor=0.5), 4, 1, [0.5, math.nan, math.nan, 0.0])
    assert scales == [1, 1, 1, 0.5]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosine", {"warmup": -1}, r"scheduler\.warmup: must be greater than or equal to 0"),
        ("cosine", {"finl": 0}, "did you mean 'final'"),
        ("step", {"every": 0}, r"scheduler\.every: must be greater than or equal to 1"),
        ("plateau", {"factor": 1.0}, r"scheduler\.factor: must be less than 1"),
    ],
)
def test_bad_options_say_what_is_allowed(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make(name, **options)


def test_options_are_documented():
    for entry in ENTRIES.values():
        for name, field in entry.options.model_fields.items():
            assert field.description, f"{entry.name}.{name}"
