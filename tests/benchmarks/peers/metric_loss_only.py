"""pytorch-metric-learning's ``MetricLossOnly``, with ``freeze_these=("trunk",)``.

Its documented way of freezing puts the trunk into evaluation mode, too.
"""

from __future__ import annotations

from typing import Any

from peers.task import Clock, Images, batch_sampler, criterion, head, read, report, trunk


def main() -> None:
    task = read()
    import torch
    from pytorch_metric_learning import trainers

    images = Images(task)
    body = trunk(task)
    projector = head(task, body.num_features)
    loss, miner = criterion(task)
    batches = batch_sampler(task, images.labels)
    clock = Clock()

    def end_of_epoch(trainer: Any) -> None:
        clock.stop()
        clock.start()

    trainer = trainers.MetricLossOnly(
        models={"trunk": body, "embedder": projector},
        optimizers={"embedder_optimizer": torch.optim.Adam(projector.parameters(), lr=task.rate)},
        batch_size=task.batch,
        loss_funcs={"metric_loss": loss},
        mining_funcs={"tuple_miner": miner},
        dataset=images,
        sampler=batches,
        dataloader_num_workers=0,
        freeze_these=("trunk",),
        end_of_epoch_hook=end_of_epoch,
        data_device=torch.device("cpu"),
    )
    clock.start()
    trainer.train(num_epochs=task.epochs)
    report(clock.epochs, batches.visits)


if __name__ == "__main__":
    main()
