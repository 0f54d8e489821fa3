"""The bare limit: computes every feature once, by the fastest kernel, then trains the head alone.

Nothing is checked, kept, validated or saved. The kernel is ONNX Runtime where that is installed,
else inductor with frozen weights. The time to build the kernel counts.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable
from typing import Any

from peers.task import (
    Batches,
    Clock,
    Images,
    Task,
    adam,
    head,
    loss_function,
    read,
    report,
    trunk,
)

CHUNK = 32  # images a forward


def main() -> None:
    task = read()
    import torch

    images = Images(task)
    filling = Clock()
    filling.start()
    body = trunk(task).eval().requires_grad_(False)
    kernel = fastest(task, body, images[0][0][None])
    filling.stop()
    filling.start()
    parts = []
    for start in range(0, len(images), CHUNK):
        chunk = [images[i][0] for i in range(start, min(start + CHUNK, len(images)))]
        parts.append(kernel(torch.stack(chunk)))
    features = torch.cat(parts)  # [N, D]
    filling.stop()
    epochs, loss = head_alone(task, features, torch.tensor(images.labels), body)
    making, computing = filling.epochs
    visits = Batches(task, images.labels).visits
    report(epochs, visits, loss=loss, kernel_seconds=making, prefix_seconds=computing)


def fastest(task: Task, body: Any, example: Any) -> Callable[[Any], Any]:
    """Return a function from images ``[N, C, H, W]`` to features ``[N, D]``."""
    import torch

    if importlib.util.find_spec("onnxruntime") is None:
        import torch._inductor.config as inductor

        inductor.freezing = True
        compiled = torch.compile(body.to(memory_format=torch.channels_last), dynamic=False)

        def run_compiled(images: Any) -> Any:
            # The last chunk may be smaller, and another shape would be compiled anew.
            count = len(images)
            padded = torch.cat([images, images.new_zeros(CHUNK - count, *images.shape[1:])])
            with torch.inference_mode():
                return compiled(padded.to(memory_format=torch.channels_last))[:count].clone()

        return run_compiled

    import onnxruntime

    graph = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the older exporter is deprecated, and several times faster
        torch.onnx.export(
            body,
            (example,),
            graph,
            dynamo=False,
            input_names=["images"],
            dynamic_axes={"images": {0: "batch"}},
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    session = onnxruntime.InferenceSession(
        graph.getvalue(), options, providers=["CPUExecutionProvider"]
    )

    def run_session(images: Any) -> Any:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return run_session


def head_alone(task: Task, features: Any, labels: Any, body: Any) -> tuple[list[float], float]:
    """Train the head on ``features [N, D]``; return the seconds of each epoch, the last loss."""
    projector = head(task, features.shape[1])
    optimizer = adam(task, body, projector)
    criterion = loss_function(task)
    batches = Batches(task, labels.tolist())
    projector.train()
    clock, total = Clock(), 0.0
    for _ in range(task.epochs):
        clock.start()
        total = 0.0
        for indices in batches:
            loss = criterion(projector(features[indices]), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        clock.stop()
    return clock.epochs, total / len(batches)


if __name__ == "__main__":
    main()
