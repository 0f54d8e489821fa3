"""Every chart of the report, drawn from a few made-up values.

    python -m tests.report.charts

writes ``charts.json``, which ``test_html_charts.py`` compares the charts with. Look at the report
in a browser before you do this: the file says how the charts ought to look.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from siamkit.data.images import ImageSet, Sample
from siamkit.evaluation.embedding_map import Map
from siamkit.interfaces import Preprocessing
from siamkit.report.html import timing
from siamkit.report.html.comparison import class_chart, cost_chart, difference_chart
from siamkit.report.html.facts import facts_of
from siamkit.report.html.figures import Chart
from siamkit.report.html.heldout import Decision, held_out_facts
from siamkit.report.html.lr_find import rate_search_chart
from siamkit.report.html.plan_chart import plan_chart
from siamkit.report.html.run_charts import loss_chart, metric_chart, rate_chart, time_chart
from siamkit.report.html.score_charts import det_chart, map_chart, roc_chart, score_chart
from siamkit.runs.held_out import HeldOut

FILE = Path(__file__).with_suffix(".json")

_STAGES = {"stem": 1000, "layer1": 20_000, "layer2": 300_000, "head": 4_000_000}
_EPOCHS = 5
_SPENT = {
    0: {timing.SETUP: 3.0, timing.FILL: 12.0, timing.EVALUATION: 4.0},
    1: {timing.WAIT: 1.0, timing.PREFIX: 2.0, timing.SUFFIX: 6.5, timing.SAVING: 0.5},
    2: {timing.STEPS: 9.0},
}


def events() -> list[dict[str, Any]]:
    """A run of five epochs in three phases: the head, then half of a stage too, then two stages."""
    found: list[dict[str, Any]] = [
        {"event": "run_start", "finished_epochs": 0, "epochs": _EPOCHS, "notices": []},
        {"event": "untrained", "recall@1": 0.5},
    ]
    phases = {
        1: ({"head": _STAGES["head"]}, {"mode": "cached", "boundary": "features", "kernel": "k"}),
        2: ({"layer2": 100_000}, {"mode": "live", "boundary": "layer1", "kernel": None}),
        4: ({"layer2": 300_000, "layer1": 20_000}, {"mode": "whole", "boundary": None}),
    }
    trains = dict.fromkeys(_STAGES, 0)
    step = 0
    for epoch in range(1, _EPOCHS + 1):
        if epoch in phases:
            more, engine = phases[epoch]
            before, trains = (None if epoch == 1 else trains), {**trains, **more}
            changes = [
                {"stage": stage, "parameters": _STAGES[stage], "norm": "affine", "lr": 1e-3,
                 "trainable": trains[stage], "was": None if before is None else before[stage]}
                for stage in _STAGES
                if before is None or before[stage] != trains[stage]
            ]  # fmt: skip
            found.append({
                "event": "phase_start", "epoch": epoch, "parameters": sum(_STAGES.values()),
                "trainable_parameters": sum(trains.values()), "reason": "", "changes": changes,
            })  # fmt: skip
            found.append({"event": "engine", "epoch": epoch, "reason": "", **engine})
        for part in (1, 2):
            step += 1
            rates = {s: 0.02 / step / (1 if s == "head" else 10) for s in _STAGES if trains[s]}
            found.append({
                "event": "step", "epoch": epoch, "step": step, "steps": 2 * _EPOCHS,
                "epoch_step": part, "epoch_steps": 2, "loss": 1.0 / step, "rates": rates,
                "lr": rates["head"], "images_per_second": 10.0,
            })  # fmt: skip
        found.append({
            "event": "epoch_end", "epoch": epoch, "epochs": _EPOCHS, "train_loss": 0.9 / epoch,
            "seconds": 1.0, "best": epoch <= 3, "metrics": {"recall@1": 0.5 + min(epoch, 3) / 10},
            "train_metrics": {"recall@1": 0.6 + epoch / 20},
        })  # fmt: skip
    return [{"time": float(i), **event} for i, event in enumerate([*found, {"event": "run_end"}])]


def held_out() -> HeldOut:
    """Five classes of three images, with embeddings that two of them share by half."""
    angles = np.radians([0, 10, 21, 60, 66, 75, 120, 131, 143, 180, 188, 150, 240, 251, 263])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    samples = tuple(Sample(Path(f"/none/{i}.png"), i // 3, f"{i}.png") for i in range(15))
    images = ImageSet(samples, tuple("abcde"))
    return HeldOut("val", images, embeddings, 0, "n", Preprocessing(), "d")


def compared() -> dict[str, Any]:
    """A comparison of eight arms, of which three are on the frontier."""
    names = ("zeta", "alpha", "best", "<b>odd</b>", "late", "more", "other", "closed form")
    values = (0.7, 0.75, 0.8, 0.5, 0.4, 0.3, 0.2, 0.6)
    seconds = (20.0, 12.0, 40.0, 50.0, 60.0, 70.0, 80.0, 1.5)
    arms = [
        {
            "name": name, "trains": name != "closed form", "value": value, "seconds": second,
            "interval": [value - 0.05, value + 0.03], "runs": 9, "stopped": None, "epochs": 10,
            "best_epochs": [7, 9],
            "to_best": None if name == "best" else {
                "value": value - 0.8, "low": value - 0.83, "high": value - 0.75,
                "clear": value < 0.75,
            },
        }
        for name, value, second in zip(names, values, seconds, strict=True)
    ]  # fmt: skip
    classes = [
        {"class": f"class {n}", "queries": 9 - n,
         "means": {name: round(0.1 * n + 0.05 * i, 3) for i, name in enumerate(names)}}
        for n in range(3)
    ]  # fmt: skip
    return {"arms": arms, "metric": "recall@1", "best": "best", "classes": classes}


def charts() -> list[Chart]:
    """Draw all charts."""
    facts = facts_of(events())
    held = held_out_facts(held_out(), None)
    assert held.verified is not None
    decision = Decision(0.8, "", None, 0.125, 0.25)
    places = Map(np.arange(15), np.linspace(0, 1, 30).reshape(15, 2))
    search = {
        "rates": [1e-5, 1e-4, 1e-3, 1e-2], "loss": [1.0, 0.9, 0.7, 0.4, 2.0], "lr": 1e-3,
        "losses": [[1.1, 0.9, 0.8, 0.5, 2.0], [0.9, 0.9, 0.6, 0.3]],
        "low": 1e-4, "high": 1e-2, "reason": "steepest",
    }  # fmt: skip
    found = [
        plan_chart(facts), loss_chart(facts), metric_chart(facts, "recall@1"), rate_chart(facts),
        time_chart(_SPENT), roc_chart(held.verified, decision), det_chart(held.verified, decision),
        score_chart(held.verified, decision), map_chart(held, places), rate_search_chart(search),
        cost_chart(compared()), difference_chart(compared()), class_chart(compared()),
    ]  # fmt: skip
    return [chart for chart in found if chart is not None]


def described(chart: Chart) -> dict[str, Any]:
    """Return all of a chart that a reader sees, with numbers of six digits."""
    return {
        "title": chart.title, "finding": chart.finding, "columns": chart.columns,
        "rows": chart.rows, "keyed": chart.keyed, "height": chart.height,
        "keys": [asdict(key) for key in chart.keys],
        "figure": _rounded(json.loads(chart.figure.to_json())),
    }  # fmt: skip


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items() if key != "template"}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> None:
    drawn = {chart.id: described(chart) for chart in charts()}
    FILE.write_text(json.dumps(drawn, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
