"""The HTML page of a search for a rate."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from siamkit.errors import ConfigError
from siamkit.report.html.lr_find import rate_search_chart, write_lr_page

from .test_lr_find import LOSS, RATES, report

MEAN = "mean, while all repeats run"


def whole(**more):
    return report(lowest=RATES[0], highest=RATES[-1], seconds=12.3, **more)


def test_the_chart_shows_the_repeats_the_mean_and_the_rate():
    chart = rate_search_chart(whole())
    names = [trace.name for trace in chart.figure.data]
    assert names == ["repeats", "repeats", "repeats", MEAN]
    assert [key.name for key in chart.keys] == ["repeats", MEAN]
    assert list(chart.figure.data[-1].x) == RATES and list(chart.figure.data[-1].y) == LOSS[1:]
    assert [shape.x0 for shape in chart.figure.layout.shapes][-1] == 2e-3
    assert "suggested rate 0.002" in chart.finding and len(chart.rows) == 25


def test_a_pass_that_ended_early_is_shorter():
    chart = rate_search_chart(whole(losses=[LOSS[:11], LOSS], loss=LOSS[:11]))
    assert len(chart.figure.data[0].x) == len(chart.figure.data[-1].x) == 10
    assert len(chart.figure.data[1].x) == 41


def test_without_a_rate_there_is_no_line():
    chart = rate_search_chart(whole(lr=None, low=None, high=None, reason="flat"))
    assert len(chart.figure.layout.shapes) == 1
    assert "no rate is suggested: flat" in chart.finding


def test_the_page_holds_the_chart_and_escapes_texts(tmp_path: Path):
    stages = [{"name": "<b>layer4", "lr_mult": 0.1}, {"name": "head", "lr_mult": 1.0}]
    found = whole(notices=["<script>alert(1)</script>"])
    found["phase"] = {**found["phase"], "stages": stages}
    path = write_lr_page(found, tmp_path / "lr.html")
    text = path.read_text()
    assert "<title>Learning rate 0.002 · siamkit lr-find</title>" in text
    assert "<script>alert" not in text and "<b>layer4" not in text
    assert "&lt;b&gt;layer4 x 0.1, head" in text
    data = re.search(r'id="charts">(.*?)</script>', text, re.S)
    assert list(json.loads(data[1])) == ["lr-find"]
    assert re.findall(r'src="', re.sub(r"<script\b.*?</script>", "", text, flags=re.S)) == []


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="is a folder"):
        write_lr_page(whole(), tmp_path)
