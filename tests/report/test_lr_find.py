"""The printed form of a search for a rate."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from siamkit.report.lr_find import RateChart, rate_line, rate_report, shown_range

RATES = [10 ** (i / 10 - 5) for i in range(41)]
LOSS = [1.0, *(1 - 0.5 * min(i / 30, 1) + (i > 35) * (i - 35) for i in range(41))]


def report(**more: Any) -> dict[str, Any]:
    return {
        "lr": 2e-3, "low": 1e-3, "high": 3e-3, "reason": "half of the fall", "rates": RATES,
        "loss": LOSS, "losses": [LOSS, LOSS, LOSS], "steps": 41, "repeats": 3, "output": None,
        "phase": {"number": 2, "of": 3, "first_epoch": 3, "last_epoch": 12,
                  "trainable_parameters": 2_050_000, "stages": []},
        "notices": ["the set is [small]"], **more,
    }  # fmt: skip


def test_it_says_what_was_tested_and_what_came_out(render):
    text = render(rate_report(report(output="lr.html")))
    assert text.startswith(
        "loss by learning rate, phase 2 of 3 (epochs 3 to 12, 2.05 M parameters train), 3 "
        "repeats of 41 steps\n"
    )
    assert "suggested rate 0.002 (0.001 to 0.003 over 3 repeats): half of the fall\n" in text
    assert "chart: lr.html\n" in text and "note: the set is [small]\n" in text


def test_one_epoch_and_repeats_that_agree(render):
    phase = {**report()["phase"], "first_epoch": 3, "last_epoch": 3}
    text = render(rate_report(report(phase=phase, low=2e-3, high=2e-3)))
    assert "(epoch 3, " in text and "(all 3 repeats agree)" in text


def test_without_a_rate_it_says_why(render):
    text = render(rate_report(report(lr=None, low=None, high=None, reason="the loss never falls")))
    assert "no rate is suggested: the loss never falls" in text


def drawn(width: int = 80, encoding: str = "utf-8", **more: Any) -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=width, color_system=None)
    with console.capture() as captured:
        console.print(RateChart(report(**more)))
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [40, 80, 100, 300])
def test_the_chart_fits_the_console(width):
    lines = drawn(width)
    assert max(map(len, lines)) <= min(width, 100)
    assert len(lines) == 15 + 3


def test_the_suggested_rate_is_a_line_at_its_place():
    inside = [line[1:-1] for line in drawn()[1:-2]]
    (column,) = {line.index("│") for line in inside if "│" in line[:-8]}
    share = (column + 0.5) / len(drawn()[0].strip("┌┐"))
    assert share == pytest.approx(2.3 / 4, abs=0.02)  # log10(0.002) = -2.7, from -5 to -1
    assert not any("│" in line[1:-8] for line in drawn(lr=None)[1:-2])


def test_repeats_may_end_early():
    losses = [LOSS, LOSS[:20], LOSS[:5]]
    assert len(drawn(losses=losses)) == 15 + 3


def test_a_terminal_without_block_characters_gets_ascii():
    lines = drawn(encoding="ascii")
    assert all(line.isascii() for line in lines)
    assert any("+" in line for line in lines)


def test_the_loss_falls_to_the_right_and_the_explosion_is_cut_off():
    low, high = shown_range(LOSS)
    assert low < 0.5 and 1.0 < high < 2.0
    assert shown_range([1.0, 1.0, 1.0])[0] < 1.0 < shown_range([1.0, 1.0, 1.0])[1]
    assert shown_range([0.0, 0.0])[0] < 0.0 < shown_range([0.0, 0.0])[1]


def test_the_line_of_a_run():
    assert rate_line(report()) == (
        "0.002, found by a range test under phase 2 (0.001 to 0.003 over 3 repeats)"
    )
