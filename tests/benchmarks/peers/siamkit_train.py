"""siamkit itself, through its command line."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from peers.measure import Run, process
from peers.task import Task


def train(
    task: Task,
    data: Path,
    run_dir: Path,
    cache: Path,
    *,
    backbone: str,
    size: int,
    policy: str = "freeze-all",
    mode: str = "auto",
    sets: tuple[str, ...] = (),
) -> Run:
    """Run ``siamkit train`` on ``data``, a folder with ``train`` and ``val``.

    What it does beyond the others' work is its own burden, and counts: it validates before
    training and after each epoch, saves a checkpoint each time, and proves that nothing frozen
    changed.

    Args:
        task: The work, as the others are told it.
        data: The images.
        run_dir: Where the run goes.
        cache: Where the features are kept.
        backbone: siamkit's name for the backbone.
        size: Pixels a side.
        policy: The freeze policy.
        mode: ``auto``, or ``always`` to cache where the planner would not.
        sets: More settings, ``KEY=VALUE``.
    """
    values = (
        "optimizer.name=adam",
        "optimizer.weight_decay=0",
        "data.augment=none",
        f"head.hidden={task.hidden}",
        f"head.dim={task.dim}",
        f"loss.margin={task.margin}",
        f"train.images_per_class={task.per_class}",
        "data.views=1",
        f"engine.cache={mode}",
        f"engine.cache_dir={cache}",
        f"train.precision={task.precision}",
        *sets,
    )
    command = [
        *(sys.executable, "-m", "siamkit", "train", str(data)),
        *("--backbone", backbone, "--weights", task.weights, "--image-size", str(size)),
        *("--head", "mlp", "--loss", "triplet", "--freeze-policy", policy),
        *("--scheduler", "constant", "--lr", str(task.rate), "--epochs", str(task.epochs)),
        *("--batch-size", str(task.batch), "--seed", str(task.seed), "--device", task.device),
        *("--run-dir", str(run_dir), "--json"),
        *(part for value in values for part in ("--set", value)),
    ]
    started = time.time()
    done = process(command, task.threads)
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    epochs = [event for event in events if event["event"] == "epoch_end"]
    notices = [event["text"] for event in events if event["event"] == "notice"]
    routes = [event for event in events if event["event"] == "engine"]
    return Run(
        done.seconds,
        done.peak,
        tuple(event["train_seconds"] for event in epochs),
        more={"notices": notices, "engine": routes},
        first_step=min(e["time"] for e in events if e["event"] == "step") - started,
    )
