"""The loop of any tutorial: ``requires_grad=False``, ``model.train()``, Adam."""

from __future__ import annotations

from peers.task import Batches, Clock, Images, adam, head, loss_function, read, report, trunk


def main() -> None:
    task = read()
    from torch import nn
    from torch.utils.data import DataLoader

    images = Images(task)
    body = trunk(task)
    body.requires_grad_(False)
    for name in task.train:
        body.get_submodule(name).requires_grad_(True)
    projector = head(task, body.num_features)
    model = nn.Sequential(body, projector)
    optimizer = adam(task, body, projector)
    criterion = loss_function(task)
    batches = Batches(task, images.labels)
    loader = DataLoader(images, batch_sampler=batches)
    clock, total = Clock(), 0.0
    for _ in range(task.epochs):
        clock.start()
        model.train()
        total = 0.0
        for pictures, labels in loader:
            loss = criterion(model(pictures), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        clock.stop()
    report(clock.epochs, batches.visits, loss=total / len(batches))


if __name__ == "__main__":
    main()
