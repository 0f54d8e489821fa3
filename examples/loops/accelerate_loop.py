"""Freeze and cache with Accelerate: [accelerate launch] examples/loops/accelerate_loop.py [FOLDER].

With several processes, one process fills the cache and the others wait for it. In each phase, the
loop first applies the plan and then wraps the module to train: the part after the frozen part, or
the whole network. So ``DistributedDataParallel`` averages all trainable parameters' gradients.
"""

import torch
from accelerate import Accelerator
from shared import compare, enter, loader, setup


def main(folder=None, epochs=12, cached=True):
    """Fine-tune a classifier; return the frozen tensors' fingerprints, and each step's loss."""
    accelerator = Accelerator(cpu=True)
    images, net, controller, schedule = setup(folder, epochs)
    optimizer = accelerator.prepare(torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9))
    losses = []
    for phase in schedule.phases():
        part, data = enter(phase, controller, images, cached)
        part = accelerator.prepare(part)
        for epoch in range(phase.start_epoch, phase.end_epoch):
            net.train()
            for inputs, labels in accelerator.prepare(loader(data, epoch)):
                loss = torch.nn.functional.cross_entropy(part(inputs), labels)
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
                losses.append(loss.item())
        controller.verify(f"epoch {phase.end_epoch}")
    return controller.fingerprints, losses


if __name__ == "__main__":
    compare(main)
