"""Which validation metric picks the best epoch: recall@1, MAP@R, or recall@1 with MAP@R for ties.

    python tests/benchmarks/choosing.py run FOLDER... --out FILE [--seeds 0 1 2] [--policy stages]
    python tests/benchmarks/choosing.py table --out FILE

Each folder holds class folders. A seed divides the classes: half trains, a quarter picks the epoch,
and the last quarter gives the figures. The network of every epoch is kept, and measured on the last
quarter. So the rules are compared on the same trainings. ``table`` prints for each rule the mean on
the test classes over the seeds, and how much less that is than the best epoch there. Results are
written to ``--out`` at once, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from recipe import divided

import siamkit
from siamkit.data.class_folders import class_images
from siamkit.evaluation.retrieval import retrieval_of
from siamkit.portable.folders import scan
from siamkit.runs.checkpoint import load_network, newest_first

Metrics = dict[str, float]
METRICS = ("recall@1", "map@r")
RULES: dict[str, Callable[[Metrics], tuple[float, ...]]] = {
    "recall@1": lambda m: (m["recall@1"],),
    "recall@1, then MAP@R": lambda m: (m["recall@1"], m["map@r"]),
    "MAP@R": lambda m: (m["map@r"],),
}
"""For each rule, what is highest in the epoch that it picks; the first of equal epochs counts."""


def measured(folder: Path, seed: int, options: argparse.Namespace) -> list[dict[str, Metrics]]:
    """Train, and return the validation and the test metrics of each epoch, in order."""
    with tempfile.TemporaryDirectory() as place:
        data, run = divided(folder, seed, Path(place)), Path(place, "run")
        siamkit.fit(
            data=str(data), backbone=options.backbone, image_size=options.size, seed=seed,
            freeze=options.policy, epochs=options.epochs, run_dir=run, report=False,
            train={"keep_checkpoints": options.epochs + 2},
        )  # fmt: skip
        images = class_images(scan(data / "test"))
        net = siamkit.load_model(run)
        found = []
        for checkpoint in reversed(newest_first(run / "checkpoints")):
            saved = load_network(checkpoint)
            history = saved.state["history"]
            if not history or "refit" in checkpoint.name:
                continue
            net.load_state_dict({k: v for k, v in saved.model.items() if k in net.state_dict()})
            embeddings = siamkit.Embedder(net).embed([sample.path for sample in images.samples])
            test = retrieval_of(embeddings.numpy(), images).to_json()
            found.append({name: {k: m[k] for k in METRICS} for name, m in
                          (("val", history[-1]), ("test", test))})  # fmt: skip
        return found


def table(results: list[dict[str, Any]]) -> None:
    """Print what each rule gives on the test classes."""
    print("| set | runs | epoch picked by | recall@1 | MAP@R | below the best recall@1, MAP@R |")
    print("|---|---|---|---|---|---|")
    for folder in dict.fromkeys(one["set"] for one in results):
        runs = [one["epochs"] for one in results if one["set"] == folder]
        for name, height in RULES.items():
            picked = [max(epochs, key=lambda e: height(e["val"]))["test"] for epochs in runs]
            cells = [f"{fmean(test[k] for test in picked):.4f}" for k in METRICS]
            best = [[max(e["test"][k] for e in epochs) for epochs in runs] for k in METRICS]
            below = [
                f"{fmean(b - test[k] for b, test in zip(most, picked, strict=True)):.4f}"
                for k, most in zip(METRICS, best, strict=True)
            ]
            print(f"| {folder} | {len(runs)} | {name} | {' | '.join(cells)} | {', '.join(below)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--policy", default="stages")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    written = options.out.read_text() if options.out.exists() else ""
    results = [json.loads(line) for line in written.splitlines()]
    done = {(one["set"], one["seed"]) for one in results}
    for seed in options.seeds if options.what == "run" else ():
        for folder in options.folders:
            if (folder.name, seed) not in done:
                epochs = measured(folder, seed, options)
                results.append({"set": folder.name, "seed": seed, "epochs": epochs})
                print(folder.name, seed, file=sys.stderr, flush=True)
                with options.out.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    table(results)


if __name__ == "__main__":
    main()
