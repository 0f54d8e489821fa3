"""Compare rules that suggest a learning rate from a range test, by the recall of trained networks.

    python tests/benchmarks/defaults.py run --out grid.jsonl --data SET... --size 64 \\
        --heads residual --losses multi-similarity --lrs 3e-4 1e-3 3e-3 1e-2 3e-2 --epochs 4
    python tests/benchmarks/lr_find.py search --out curves.jsonl --data SET... --epochs 4
    python tests/benchmarks/lr_find.py table --out curves.jsonl --grid grid.jsonl

``search`` runs the test of ``siamkit lr-find`` under each phase of the plan, on the training
classes of ``defaults.py``, and keeps all curves: the loss of the watched batches, and the loss of
the batch that was trained on. ``table`` applies the rules to them. It shows the rate that each rule
suggests, and the recall@1 on test classes that is lost against the best rate of the grid. Recall
between two rates of the grid is interpolated; outside the grid it is not known (inf).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from defaults import images_of, read, three_parts

Job = dict[str, Any]
Rule = Callable[[Sequence[float], Sequence[float]], float | None]


# --- the rules: from rates and the losses after each of them to a rate ---------------------------


def smoothed(losses: Sequence[float], keep: float = 0.9) -> list[float]:
    """Return the exponentially smoothed losses, as fastai and Lightning smooth them."""
    mean, result = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = keep * mean + (1 - keep) * loss
        result.append(mean / (1 - keep**number))
    return result


def lowest(losses: Sequence[float]) -> int:
    return min(range(len(losses)), key=lambda i: losses[i])


def minimum(share: float) -> Rule:
    return lambda rates, losses: rates[lowest(losses)] * share


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Lightning's rule: where the smoothed loss falls fastest, per step."""
    inner = range(1, lowest(losses) + 1)
    return rates[min(inner, key=lambda i: losses[i] - losses[i - 1], default=0)]


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """fastai's rule: two thirds into the longest falling subsequence."""
    count = len(losses)
    longest, start, end = [1] * count, 0, 0
    for i in range(1, count):
        for j in range(i):
            if losses[i] < losses[j] and longest[i] < longest[j] + 1:
                longest[i] = longest[j] + 1
            if longest[end] < longest[i]:
                end, start = i, i - longest[i]
    sections = (end - start) / 3
    return rates[start + int(sections) + int(sections / 2)]


def fallen(share: float) -> Rule:
    """Where the loss has first fallen by a share of its whole fall."""

    def rule(rates: Sequence[float], losses: Sequence[float]) -> float:
        first, least = losses[0], min(losses)
        limit = first - share * (first - least)
        return rates[next(i for i, loss in enumerate(losses) if loss <= limit)]

    return rule


def begins_to_fall(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rule of ``siamkit lr-find``."""
    from siamkit.training.suggestion import Curve, suggested

    return suggested([Curve(tuple(rates), (losses[0], *losses))]).lr


RULES: dict[str, Rule] = {
    "begins to fall (lr-find)": begins_to_fall,
    "minimum": minimum(1),
    "minimum / 3": minimum(1 / 3),
    "minimum / 10": minimum(1 / 10),
    "steepest": steepest,
    "valley": valley,
    "fallen by 25 %": fallen(0.25),
    "fallen by 50 %": fallen(0.5),
    "fallen by 75 %": fallen(0.75),
    "fallen by 90 %": fallen(0.9),
}


def mean_of(passes: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(column) for column in zip(*passes, strict=False)]


# --- the search -----------------------------------------------------------------------------------


def search(options: argparse.Namespace) -> None:
    import siamkit
    from siamkit.training import range_test

    trained: list[float] = []

    class Recording(range_test.Stepper):
        def __call__(self, work: Any) -> float:
            loss = super().__call__(work)
            trained.append(loss)
            return loss

    range_test.Stepper = Recording  # type: ignore[misc]
    range_test.is_over = lambda _losses: False  # other rules may need the whole curve
    options.cache.mkdir(parents=True, exist_ok=True)
    for data in options.data:
        for seed in options.seeds:
            root = three_parts(images_of(data, options.cache), seed, options.cache)
            for phase in options.phases:
                trained.clear()
                found = siamkit.find_lr(
                    data={"path": str(root), "workers": 0}, backbone=options.backbone,
                    image_size=options.size, epochs=options.epochs, seed=seed, phase=phase,
                    loss=options.loss, lowest=options.lowest, highest=options.highest,
                    steps=options.steps,
                )  # fmt: skip
                passes, rest = [], list(trained)
                for losses in found["losses"]:
                    passes.append(rest[: len(losses) - 1])
                    del rest[: len(losses) - 1]
                name = Path(data).name.split(".")[0]
                row = {"set": name, "seed": seed, **found, "trained": passes}
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{name:18} seed {seed} phase {phase}: {found['lr']} {found['reason']} "
                      f"({found['seconds']:.0f} s)", flush=True)  # fmt: skip


# --- the table ------------------------------------------------------------------------------------


def recall_at(rate: float, measured: dict[float, float]) -> float | None:
    """Return the recall at a rate, interpolated over the logarithms of the rates of the grid.

    Outside the grid, it is unknown: None.
    """
    known = sorted(measured)
    for low, high in pairwise(known):
        if low <= rate <= high:
            share = math.log(rate / low) / math.log(high / low)
            return (1 - share) * measured[low] + share * measured[high]
    return None


def table(options: argparse.Namespace) -> None:
    grid: dict[tuple[str, int], dict[float, float]] = defaultdict(dict)
    for job in read(options.grid):
        grid[job["set"], job["seed"]][job["lr"]] = job["test"]
    rows: dict[tuple[str, int, str], list[tuple[str, int, float, float]]] = defaultdict(list)
    for found in read(options.out):
        measured = grid.get((found["set"], found["seed"]))
        if not measured:
            continue
        best = max(measured.values())
        number = found["phase"]["number"]
        watched, trained = mean_of(found["losses"])[1:], mean_of(found["trained"])
        kinds = {"watched": watched, "smoothed": smoothed(watched),
                 "trained, smoothed": smoothed(trained)}  # fmt: skip
        for kind, losses in kinds.items():
            for name, rule in RULES.items():
                if (rate := rule(found["rates"], losses)) is None:
                    continue
                recall = recall_at(rate, measured)
                lost = math.inf if recall is None else max(best - recall, 0.0)
                rows[kind, number, name].append((found["set"], found["seed"], rate, lost))
    sets = sorted({(s, seed) for found in rows.values() for s, seed, _, _ in found})
    heads = " | ".join(f"{s}, seed {seed}" for s, seed in sets)
    print(f"| loss | phase | rule | {heads} | mean lost | worst |")
    print(f"|{'---|' * (len(sets) + 5)}")
    for (kind, number, name), found in sorted(
        rows.items(), key=lambda item: statistics.fmean(row[3] for row in item[1])
    ):
        by = {(s, seed): (rate, lost) for s, seed, rate, lost in found}
        cells = [f"{by[key][0]:.1e} ({by[key][1]:.3f})" if key in by else "" for key in sets]
        lost = [row[3] for row in found]
        print(f"| {kind} | {number} | {name} | {' | '.join(cells)} | {statistics.fmean(lost):.3f} "
              f"| {max(lost):.3f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", choices=["search", "table"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--grid", type=Path)
    parser.add_argument("--data", nargs="+", default=["sample"])
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--loss", default="multi-similarity")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "siamkit-defaults"
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lowest", type=float, default=1e-7)
    parser.add_argument("--highest", type=float, default=10.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--phases", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args()
    {"search": search, "table": table}[options.verb](options)


if __name__ == "__main__":
    main()
