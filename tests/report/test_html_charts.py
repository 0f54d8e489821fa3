"""The looks of the charts: colours, sizes, places, axes and words."""

from __future__ import annotations

import json

import numpy as np
import pytest

from siamkit.evaluation.verification import Roc
from siamkit.report.html.figures import Chart
from siamkit.report.html.score_charts import _spread

from .charts import FILE, charts, described

EXPECTED = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("chart", charts(), ids=lambda chart: chart.id)
def test_a_chart_looks_as_it_did(chart: Chart):
    assert json.loads(json.dumps(described(chart))) == EXPECTED[chart.id]


def test_no_chart_is_missing():
    assert [chart.id for chart in charts()] == list(EXPECTED)
