"""fastai's ``Learner``, frozen up to the head.

``train_bn=False``: by default fastai goes on training the norm layers of a frozen body, for which
backward has to run through all of it; that would be several times slower.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from peers.task import Batches, Clock, Images, head, loss_function, read, report, trunk


def main() -> None:
    task = read()
    import fastai.callback.progress  # noqa: F401 - gives Learner its no_bar()
    import torch
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper
    from fastai.torch_core import params
    from torch import nn
    from torch.utils.data import DataLoader

    class Timer(Callback):
        def before_epoch(self) -> None:
            clock.start()

        def after_epoch(self) -> None:
            clock.stop()

    def split(model: Any) -> list[Any]:
        return [params(model[0]), params(model[1])]

    clock, images = Clock(), Images(task)
    batches = Batches(task, images.labels)
    body = trunk(task)
    model = nn.Sequential(body, head(task, body.num_features))
    nothing = DataLoader([])  # type: ignore[arg-type]
    learner = Learner(
        DataLoaders(DataLoader(images, batch_sampler=batches), nothing, device="cpu"),
        model,
        loss_func=loss_function(task),
        opt_func=partial(OptimWrapper, opt=torch.optim.Adam),
        lr=task.rate,
        splitter=split,
        cbs=[Timer()],
        wd=0.0,
        train_bn=False,
    )
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.fit(task.epochs)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for p in model[1].parameters())
    report(clock.epochs, batches.visits, loss=float(learner.recorder.losses[-1]))


if __name__ == "__main__":
    main()
