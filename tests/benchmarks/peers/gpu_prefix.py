"""The frozen prefix alone on a device: siamkit's kernel, and a bare loop of ``torch.compile``.

Both run in one process and in turns. The bare loop gets tensors that are on the device already, and
the fastest of a few batch sizes and types of weights counts. siamkit's kernel gets the same
tensors, and then images in page-locked memory of the host, as its loader gives them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from statistics import median
from typing import Any

from peers.on_device import autocast, seconds_of
from peers.task import Task, read, report, trunk

IMAGES, ROUNDS = 1024, 5
COUNT = 100_000  # images that siamkit's choice of a kernel is told
SIZES = (64, 256)


def main() -> None:
    task = read()
    import torch

    from siamkit.engine.kernels import choose, run

    body = trunk(task).eval().requires_grad_(False)
    body = body.to(task.device).to(memory_format=torch.channels_last)
    height, width = task.view["size"]
    count = IMAGES if task.device != "cpu" else 2 * max(sizes(task))
    host = torch.randn(count, 3, height, width)
    images = host.to(task.device, memory_format=torch.channels_last)
    if task.device != "cpu":
        host = host.pin_memory()

    choice = choose(body, images[:8], COUNT, precision=task.precision)  # type: ignore[arg-type]
    kernel = choice.kernel
    rows = kernel.batch_size
    work: dict[str, Callable[[], Any]] = {
        "kernel": lambda: [run(kernel, part) for part in images.split(rows)],
        "kernel, from the host": lambda: [run(kernel, part) for part in host.split(rows)],
    }
    for size in sizes(task):
        for kind in ("autocast", "weights"):
            if kind == "autocast" or task.precision == "bf16":
                work[f"bare, {kind}, {size}"] = bare(task, body, images, size, kind)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for each in work.values():  # compiles
        each()
    for _ in range(ROUNDS):
        for name, each in work.items():
            seconds[name].append(seconds_of(each, task.device) / count)
    report(
        [],
        count,
        kernel=kernel.name,
        kernels=choice.seconds_per_image,
        rejected=choice.rejected,
        seconds={name: median(values) for name, values in seconds.items()},
    )


def sizes(task: Task) -> tuple[int, ...]:
    """Return the batch sizes of the bare loop."""
    return SIZES if task.device != "cpu" else (8,)


def bare(task: Task, body: Any, images: Any, size: int, kind: str) -> Callable[[], Any]:
    """Return a loop of a compiled network over images on the device.

    Args:
        task: The task.
        body: The network.
        images: ``[N, C, H, W]``
        size: The batch size.
        kind: ``autocast``, or ``weights`` for a network and images in bf16.
    """
    import torch

    if kind == "weights":
        body, images = copy.deepcopy(body).bfloat16(), images.bfloat16()
    compiled = torch.compile(body, dynamic=False)

    def loop() -> None:
        with torch.inference_mode():
            for part in images.split(size):
                if kind == "weights":
                    compiled(part)
                else:
                    with autocast(task):
                        compiled(part)

    return loop


if __name__ == "__main__":
    main()
