"""Embedding a folder as a timm user would: a ``DataLoader``, ``eval()``, ``inference_mode``."""

from __future__ import annotations

from peers.task import Clock, Images, head, read, report, trunk


def main() -> None:
    task = read()
    import numpy as np
    import torch
    from torch import nn
    from torch.utils.data import DataLoader

    images = Images(task)
    body = trunk(task)
    model = nn.Sequential(body, head(task, body.num_features)).eval()
    clock = Clock()
    clock.start()
    parts = []
    with torch.inference_mode():
        for pictures, _ in DataLoader(images, batch_size=task.batch):
            parts.append(model(pictures))
    np.save(task.result, torch.cat(parts).numpy())  # [N, dim]
    clock.stop()
    report(clock.epochs, len(images))


if __name__ == "__main__":
    main()
