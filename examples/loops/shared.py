"""Shared code of the three loops: images with cache keys, a freeze policy, the start of a phase."""

import argparse
import hashlib
import time
from pathlib import Path

import timm
import torch
from torch.utils.data import DataLoader, StackDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from siamkit.data.sample import sample_dir
from siamkit.engine import FeatureCache, cut
from siamkit.freezing import (
    FreezeController,
    FreezePlan,
    FreezePolicy,
    FreezeSchedule,
    discover_stages,
)


class Images(ImageFolder):
    """Images in class folders. Each has a cache key: a hash of its file and of the transform."""

    def __init__(self, folder=None, size=64):
        steps = [transforms.Resize((size, size)), transforms.ToTensor()]
        super().__init__(folder or sample_dir(), transforms.Compose(steps))
        done = repr(self.transform).encode()
        self.keys = [
            hashlib.sha256(Path(path).read_bytes() + done).hexdigest() for path, _ in self.samples
        ]

    def stack(self, positions):
        return torch.stack([self[i][0] for i in positions])


class HeadThenLastStage(FreezePolicy):
    """Trains the head alone for two thirds of the epochs, then the last stage too."""

    def plan(self, stages, progress):
        return FreezePlan.of(stages, [stages[-2].name] if progress.fraction >= 2 / 3 else [])


def setup(folder, epochs, name="resnet18"):
    images = Images(folder)
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=len(images.classes))
    stages = discover_stages(net, images.stack([0]), head="fc")
    schedule = FreezeSchedule(HeadThenLastStage(), stages, epochs)
    return images, net, FreezeController(net, stages), schedule


def enter(phase, controller, images, cached):
    """Apply the phase's plan; return the module to train in this phase, and its data set.

    With the cache, the module is the part after the frozen part, and the data set holds the frozen
    part's output. Otherwise they are the network and the images.
    """
    controller.apply(phase.plan)
    net = controller.net
    if cached:
        some = images.stack(range(5)).to(next(net.parameters()).device)
        result = cut(net, controller.stages, phase.plan, some)
        if result.cut is not None:
            with FeatureCache(result.cut, controller) as cache:
                rows = cache.rows(images.keys, images.stack)
            return result.cut.suffix, StackDataset(rows, images.targets)
        print("the network cannot be cut, so all of it runs:", *result.reasons)
    return net, images


def loader(data, epoch, batch_size=32):
    """Return the batches of an epoch, in an order that depends only on the epoch's number."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(epoch))
    return DataLoader(data, batch_size, sampler=order.tolist())


def compare(main):
    """Run a loop without and with the cache; print both times, and whether frozen tensors agree."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", help="class folders of images; default: siamkit's own")
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args()
    seconds, results = [], []
    for cached in (False, True):
        started = time.perf_counter()
        results.append(main(given.folder, given.epochs, cached))
        seconds.append(time.perf_counter() - started)
        print(f"cached: {cached}, {seconds[-1]:.1f} s, last loss {results[-1][1][-1]:.4f}")
    same = "the same" if results[0][0] == results[1][0] else "DIFFERENT"
    print(f"{seconds[0] / seconds[1]:.2f} times as fast with the cache; {same} frozen tensors")
    return results
