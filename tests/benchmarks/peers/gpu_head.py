"""The bare head loop on a device: all features are tensors on it, and no step reads the loss."""

from __future__ import annotations

from peers.on_device import CHUNK, DeviceClock, autocast, uploaded
from peers.task import Batches, Images, adam, head, loss_function, read, report, trunk


def main() -> None:
    task = read()
    import torch

    images = Images(task)
    body = trunk(task).eval().requires_grad_(False).to(task.device)
    pictures, labels = uploaded(task, images)
    with torch.inference_mode(), autocast(task):
        parts = [body(part).float() for part in pictures.split(CHUNK)]
    features = torch.cat(parts).clone()  # [N, D]
    del pictures, parts
    projector = head(task, features.shape[1]).to(task.device).train()
    optimizer = adam(task, body, projector)
    criterion = loss_function(task)
    batches = Batches(task, images.labels)
    clock = DeviceClock(task.device)
    for _ in range(task.epochs):
        clock.start()
        total = torch.zeros((), device=task.device)
        for indices in batches:
            index = torch.tensor(indices, device=task.device)
            with autocast(task):
                embeddings = projector(features[index])
            loss = criterion(embeddings.float(), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()
        clock.stop()
    report(clock.epochs, batches.visits, loss=float(total) / len(batches))


if __name__ == "__main__":
    main()
