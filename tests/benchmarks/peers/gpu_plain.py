"""The loop of any tutorial on a device: autocast, channels_last, a ``DataLoader`` with workers.

It also runs on images that are all in the memory of the device already (``resident``), so that
nothing is decoded and nothing is uploaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peers.on_device import DeviceClock, autocast, uploaded, workers
from peers.task import Batches, Images, adam, head, loss_function, read, report, trunk


def main() -> None:
    task = read()
    import torch
    from torch import nn
    from torch.utils.data import DataLoader

    images = Images(task)
    body = trunk(task)
    body.requires_grad_(False)
    for name in task.train:
        body.get_submodule(name).requires_grad_(True)
    body = body.to(task.device).to(memory_format=torch.channels_last)
    projector = head(task, body.num_features).to(task.device)
    model = nn.Sequential(body, projector)
    optimizer = adam(task, body, projector)
    criterion = loss_function(task)
    batches = Batches(task, images.labels)
    loader = DataLoader(
        images, batch_sampler=batches, num_workers=workers(), pin_memory=task.device != "cpu",
        persistent_workers=True,
    )  # fmt: skip

    def epochs(feed: Any) -> list[float]:
        clock = DeviceClock(task.device)
        for _ in range(task.epochs):
            clock.start()
            model.train()
            for pictures, labels in feed():
                pictures = pictures.to(
                    task.device, non_blocking=True, memory_format=torch.channels_last
                )
                with autocast(task):
                    embeddings = model(pictures)
                loss = criterion(embeddings.float(), labels.to(task.device, non_blocking=True))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                loss.item()
            clock.stop()
        return clock.epochs

    loaded = epochs(lambda: loader)
    everything, labels = uploaded(task, images)

    def resident() -> Iterable[tuple[Any, Any]]:
        for indices in batches:
            index = torch.tensor(indices, device=task.device)
            yield everything[index], labels[index]

    report(loaded, batches.visits, resident=epochs(resident))


if __name__ == "__main__":
    main()
