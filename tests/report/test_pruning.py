"""The table of ``siamkit prune``."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.console import Console

from siamkit.report.pruning import pruning

SIDE: dict[str, Any] = {
    "parameters": 4_000_000, "flops": 144_000_000, "latency_ms": 20.0, "images_per_second": 100.0,
    "recall@1": 0.9, "map@r": 0.6, "eer": 0.13, "threshold": 0.45,
}  # fmt: skip


def shown(**changes: Any) -> str:
    values: dict[str, Any] = {
        "part": "all", "importance": "taylor", "device": "cpu", "images": "the run's test images",
        "run_dir": "runs/small", "groups": [{"name": "a", "before": 32, "after": 8}],
        "before": SIDE,
        "after": {**SIDE, "parameters": 2_000_000, "latency_ms": 10.0, "images_per_second": 180.0,
                  "recall@1": 0.895},
        "notices": ["something to know"],
        **changes,
    }  # fmt: skip
    console = Console(width=120, record=True, file=None)
    with console.capture() as captured:
        console.print(pruning(values))
    return captured.get()


def test_each_row_shows_both_sides_and_the_change() -> None:
    text = shown()
    for part in ("-50 %", "2.00x as fast", "1.80x as fast", "-0.005", "144 M", "13 %"):
        assert part in text
    assert "8 of 32 channels are left in 1 group" in text and "something to know" in text


@pytest.mark.parametrize("key", ["recall@1", "eer", "threshold"])
def test_a_figure_that_is_missing_is_a_dash(key: str) -> None:
    text = shown(before={**SIDE, key: None}, after={**SIDE, key: None})
    assert " - " in text


def test_the_reason_of_another_importance_is_told() -> None:
    assert "the run's loss has no gradient" in shown(importance="activation").replace("\n", " ")
    assert "channels of the frozen part" in shown(part="frozen")


def test_rates_and_latencies_are_ratios_figures_differences() -> None:
    after = {"parameters": 1_000_000, "flops": 36_000_000, "latency_ms": 8.0,
             "images_per_second": 300.0, "recall@1": 0.85, "map@r": 0.625, "eer": 0.125,
             "threshold": 0.5}  # fmt: skip
    rows = [re.split(r"\s{2,}", line.strip()) for line in shown(after=after).splitlines()]
    for row in (
        ["parameters", "4.00 M", "1.00 M", "-75 %"],
        ["FLOPs per image", "144 M", "36.0 M", "-75 %"],
        ["latency of one image", "20 ms", "8 ms", "2.50x as fast"],
        ["throughput in batches of 32", "100 img/s", "300 img/s", "3.00x as fast"],
        ["recall@1", "0.900", "0.850", "-0.050"],
        ["MAP@R", "0.600", "0.625", "+0.025"],
        ["EER", "13 %", "12.5 %", "-0.005"],
        ["threshold", "0.4500", "0.5000", "+0.050"],
    ):
        assert row in rows


def test_channels_are_summed_over_groups() -> None:
    groups = [{"name": "a", "before": 32, "after": 8}, {"name": "b", "before": 10, "after": 9}]
    assert "17 of 42 channels are left in 2 groups" in shown(groups=groups)
