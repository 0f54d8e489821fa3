"""A bare loop over cached activations through a ResNet's last layers and the head.

The activations are in memory, and the norm layers keep their statistics. Both memory formats are
tried, and the faster one counts.
"""

from __future__ import annotations

from typing import Any

from peers.task import Batches, Clock, Images, Task, adam, head, loss_function, read, report, trunk

LAYERS = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4", "global_pool")
CHUNK = 32


def main() -> None:
    task = read()
    import torch
    from torch import nn

    images = Images(task)
    body = trunk(task).eval().requires_grad_(False)
    first = LAYERS.index(task.train[0])
    prefix = nn.Sequential(*(body.get_submodule(name) for name in LAYERS[:first]))
    with torch.no_grad():
        parts = []
        for start in range(0, len(images), CHUNK):
            chunk = [images[i][0] for i in range(start, min(start + CHUNK, len(images)))]
            parts.append(prefix(torch.stack(chunk)))
    activations = torch.cat(parts)  # [N, C, H, W]
    labels = torch.tensor(images.labels)
    formats = {
        name: epochs(task, activations.contiguous(memory_format=memory), labels, memory)
        for name, memory in (
            ("contiguous", torch.contiguous_format),
            ("channels_last", torch.channels_last),
        )
    }
    name = min(formats, key=lambda key: min(formats[key]))
    report(
        formats[name],
        Batches(task, images.labels).visits,
        memory_format=name,
        flops_saved=flops_saved(body, first, images[0][0][None]),
    )


def flops_saved(body: Any, first: int, image: Any) -> float:
    """Return how many times as many FLOPs a training step takes without cached activations.

    Only the suffix trains. Its backward takes twice the FLOPs of its forward: for the gradients of
    the weights and of the input.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    flops = []
    with torch.no_grad():
        for names in (LAYERS[:first], LAYERS[first:]):
            with FlopCounterMode(display=False) as counter:
                for name in names:
                    image = body.get_submodule(name)(image)
            flops.append(counter.get_total_flops())
    prefix, suffix = flops
    return (prefix + 3 * suffix) / (3 * suffix)


def epochs(task: Task, activations: Any, labels: Any, memory: Any) -> list[float]:
    """Return the seconds of each epoch over ``activations [N, C, H, W]``."""
    from torch import nn

    body = trunk(task).eval().requires_grad_(False)  # eval: statistics stay
    for name in task.train:
        body.get_submodule(name).requires_grad_(True)
    suffix = nn.Sequential(
        *(body.get_submodule(name) for name in LAYERS[LAYERS.index(task.train[0]) :])
    ).to(memory_format=memory)
    projector = head(task, body.num_features)
    optimizer = adam(task, body, projector)
    criterion = loss_function(task)
    clock = Clock()
    batches = Batches(task, labels.tolist())
    for _ in range(task.epochs):
        clock.start()
        for indices in batches:
            loss = criterion(projector(suffix(activations[indices])), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        clock.stop()
    return clock.epochs


if __name__ == "__main__":
    main()
