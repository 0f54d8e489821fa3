"""Freeze and cache in a plain PyTorch loop: python examples/loops/plain.py [FOLDER]."""

import torch
from shared import compare, enter, loader, setup


def main(folder=None, epochs=12, cached=True):
    """Fine-tune a classifier; return the frozen tensors' fingerprints, and each step's loss."""
    images, net, controller, schedule = setup(folder, epochs)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for phase in schedule.phases():
        part, data = enter(phase, controller, images, cached)
        for epoch in range(phase.start_epoch, phase.end_epoch):
            net.train()  # frozen parts stay in eval mode
            for inputs, labels in loader(data, epoch):
                loss = torch.nn.functional.cross_entropy(part(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        controller.verify(f"epoch {phase.end_epoch}")
    return controller.fingerprints, losses


if __name__ == "__main__":
    compare(main)
