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
