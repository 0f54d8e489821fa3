"""Lightning with finetuning-scheduler: an explicit schedule of one phase, the head.

There is no validation, no logger and no checkpoint, which would only cost time.
"""

from __future__ import annotations

import logging
import tempfile
from typing import Any

from peers.task import Clock, Images, batch_sampler, head, loss_function, read, report, trunk


def main() -> None:
    task = read()
    import lightning as L
    import torch
    from finetuning_scheduler import FinetuningScheduler, FTSCheckpoint
    from torch.utils.data import DataLoader

    class Embedder(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = trunk(task)
            self.head = head(task, self.trunk.num_features)
            self.criterion = loss_function(task)

        def training_step(self, batch: Any, index: int) -> Any:
            pictures, labels = batch
            loss = self.criterion(self.head(self.trunk(pictures)), labels)
            self.log("train_loss", loss, batch_size=len(labels))
            return loss

        def configure_optimizers(self) -> Any:
            trainable = [p for p in self.parameters() if p.requires_grad]
            return torch.optim.Adam(trainable, lr=task.rate)

    class Timer(L.Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            clock.start()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            clock.stop()

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    clock, images = Clock(), Images(task)
    batches = batch_sampler(task, images.labels)
    schedule = {0: {"params": [r"head\..*"], "max_transition_epoch": task.epochs}}
    scheduler = FinetuningScheduler(
        ft_schedule=schedule,
        epoch_transitions_only=True,
        restore_best=False,
        logging_level=logging.ERROR,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=task.epochs,
            logger=False,
            callbacks=[scheduler, FTSCheckpoint(save_top_k=0), Timer()],
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            use_distributed_sampler=False,
        )
        trainer.fit(Embedder(), DataLoader(images, batch_sampler=batches))
        loss = float(trainer.callback_metrics["train_loss"])
    report(clock.epochs, batches.visits, loss=loss)


if __name__ == "__main__":
    main()
