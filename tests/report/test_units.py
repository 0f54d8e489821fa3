import pytest

from siamkit.report import units


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"), (7440, "2 h 04 min"), (90_000, "25 h 00 min"),
    ],
)  # fmt: skip
def test_durations_grow_coarser(seconds, text):
    assert units.duration(seconds) == text


def test_rates_keep_small_numbers_readable():
    assert [units.rate(x) for x in (1e-3, 1e-5, 0.00012345, 0.0)] == [
        "0.001", "1e-05", "0.0001234", "0",
    ]  # fmt: skip
    assert (units.percent(0.0453), units.per_second(87.4)) == ("4.53 %", "87 img/s")
    assert units.per_second(3.21) == "3.2 img/s"


def test_a_change_has_a_sign_unless_it_rounds_to_zero():
    assert units.change(0.0334) == "+0.033"
    assert units.change(-0.4667) == "\N{MINUS SIGN}0.467"
    assert units.change(-0.0004) == units.change(0.0) == units.change(0.0004) == "0.000"


@pytest.mark.parametrize(
    ("least", "most", "text"),
    [
        (10.0, 12.0, "about 11 s left"),
        (60.0, 180.0, "1 min 00 s to 3 min 00 s left"),
        (0.0, 0.0, "about 0.0 s left"),
        (0.0, 30.0, "0.0 s to 30 s left"),
    ],
)
def test_the_time_left_says_its_uncertainty(least, most, text):
    assert units.left(least, most) == text


def test_nan_and_infinity_become_null_wherever_they_stand():
    value = {1: [float("nan"), 0.5], "a": (float("inf"), {"b": -float("inf")}), "c": "nan", "d": 3}
    assert units.finite(value) == {"1": [None, 0.5], "a": [None, {"b": None}], "c": "nan", "d": 3}
    assert units.finite(float("nan")) is None and units.finite(0.25) == 0.25


@pytest.mark.parametrize(
    ("least", "most", "text"),
    [(10.0, 13.0, "about 12 s left"), (10.0, 13.1, "10 s to 13 s left"),
     (9.95, 13.0, "10 s to 13 s left"), (20.2, 20.4, "about 20 s left")],
)  # fmt: skip
def test_an_interval_of_less_than_three_tenths_is_one_number(least, most, text):
    assert units.left(least, most) == text


@pytest.mark.parametrize(
    ("value", "text"), [(9.99, "10.0 img/s"), (10.0, "10 img/s"), (0.04, "0.0 img/s")]
)
def test_a_slow_rate_has_a_decimal(value, text):
    assert units.per_second(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9.94, "9.9 s"), (9.95, "10 s"), (59.5, "1 min 00 s"), (3599, "59 min 59 s"),
     (3600, "1 h 00 min"), (3629, "1 h 00 min"), (3631, "1 h 01 min")],
)  # fmt: skip
def test_a_duration_changes_its_unit_at_a_whole_one(seconds, text):
    assert units.duration(seconds) == text


def test_short_times_and_ranges():
    assert units.milliseconds(0.00075) == "0.75 ms"
    assert units.percent_range(0.0453, 0.061) == "4.53 % to 6.1 %"
