"""Freeze and cache in a LightningModule: python examples/loops/lightning_module.py [FOLDER]."""

import lightning
import torch
from shared import compare, enter, loader, setup


class FineTuning(lightning.LightningModule):
    def __init__(self, folder, epochs, cached):
        super().__init__()
        self.images, self.net, self.controller, self.schedule = setup(folder, epochs)
        self.starts = {phase.start_epoch: phase for phase in self.schedule.phases()}
        self.ends = {phase.end_epoch for phase in self.schedule.phases()}
        self.cached, self.losses = cached, []
        self.now = ()  # the phase's module and data; in a tuple, the module is no submodule

    def train_dataloader(self):
        if phase := self.starts.get(self.current_epoch):
            self.now = enter(phase, self.controller, self.images, self.cached)
        return loader(self.now[1], self.current_epoch)

    def training_step(self, batch, _):
        inputs, labels = batch
        loss = torch.nn.functional.cross_entropy(self.now[0](inputs), labels)
        self.losses.append(loss.item())
        return loss

    def on_train_epoch_end(self):
        if self.current_epoch + 1 in self.ends:
            self.controller.verify(f"epoch {self.current_epoch + 1}")

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.02, momentum=0.9)


def main(folder=None, epochs=12, cached=True):
    """Fine-tune a classifier; return the frozen tensors' fingerprints, and each step's loss."""
    module = FineTuning(folder, epochs, cached)
    lightning.Trainer(
        max_epochs=epochs, reload_dataloaders_every_n_epochs=1, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ).fit(module)  # fmt: skip
    return module.controller.fingerprints, module.losses


if __name__ == "__main__":
    compare(main)
