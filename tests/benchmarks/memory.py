"""Compare the peak memory that `siamkit inspect` predicts with that of real training steps.

    python tests/benchmarks/memory.py
    python tests/benchmarks/memory.py --backbones resnet50 timm:vit_small_patch16_224 --sizes 224
    python tests/benchmarks/memory.py --checkpointing --policies full

Each phase of a policy runs in a process of its own: three steps of the whole network on random
images. On a CPU, the peak is that of the resident set above the start; on CUDA, it is
`torch.cuda.max_memory_allocated`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from accumulation import _status
from peers.measure import process

BAR = 0.15


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "efficientnet-lite0"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[96, 224])
    parser.add_argument("--policies", nargs="+", default=["stages", "full"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--phase", type=int)
    options = parser.parse_args()
    if options.phase is not None:
        print(json.dumps(measure(options)))
        return
    worst = 0.0
    for backbone in options.backbones:
        for size in options.sizes:
            for policy in options.policies:
                for phase in range(2 if policy == "stages" else 1):
                    command = [
                        sys.executable, __file__, "--backbones", backbone, "--sizes", str(size),
                        "--policies", policy, "--batch", str(options.batch),
                        "--device", options.device, "--phase", str(phase),
                        *["--checkpointing"] * options.checkpointing,
                    ]  # fmt: skip
                    found = json.loads(process(command, threads=2).printed)
                    ratio = found["predicted"] / found["peak"]
                    worst = max(worst, abs(ratio - 1))
                    print(
                        f"{backbone} {size} px {policy} phase {phase + 1}: predicted "
                        f"{found['predicted'] / 1e6:.0f} MB, measured {found['peak'] / 1e6:.0f} "
                        f"MB: {ratio:.2f}",
                        flush=True,
                    )
    print(f"worst {100 * worst:.0f} % (bar {100 * BAR:.0f} %)")


def measure(options: argparse.Namespace) -> dict[str, int]:
    """Return the predicted and the measured peak of one phase, in bytes."""
    import siamkit_efficientnet_lite  # noqa: F401
    import timm  # noqa: F401
    import torch
    from pytorch_metric_learning import losses, miners  # noqa: F401

    from siamkit import api
    from siamkit.batches import Batch
    from siamkit.config import resolve
    from siamkit.config.layers import Layer
    from siamkit.training.build import build
    from siamkit.training.fitting import predictor
    from siamkit.training.step import LossWork, Stepper

    (backbone,), (size,), (policy,) = options.backbones, options.sizes, options.policies
    layer = Layer(
        {
            "backbone": {"name": backbone, "pretrained": False},
            "data": {"path": "sample", "image_size": size},
            "freeze": {"name": policy},
            "train": {
                "epochs": 6,
                "batch_size": options.batch,
                "device": options.device,
                "grad_checkpointing": options.checkpointing,
            },
        },
        str,
    )
    registries = api.registries()
    config = resolve(registries, layer)
    # The libraries are loaded, and have run once, before the start.
    torch.nn.Conv2d(3, 3, 3)(torch.randn(2, 3, 8, 8)).sum().backward()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    setup = build(config, registries, 10)
    plan = setup.schedule.phases()[options.phase].plan
    setup.controller.apply(plan)
    setup.net.train()
    stepper = Stepper(setup.net, setup.loss, setup.optimizer, setup.device)
    labels = torch.arange(options.batch) // 4
    for _ in range(3):
        images = torch.randn(options.batch, 3, size, size)
        batch = Batch(images, labels, torch.arange(options.batch))
        stepper([LossWork(iter([batch]), 1, None, 1.0)])
    on_cpu = setup.device.type == "cpu"
    peak = _status("VmHWM") - before if on_cpu else torch.cuda.max_memory_allocated()
    predicted = predictor(setup)(options.batch)
    assert predicted is not None
    return {"predicted": predicted, "peak": peak}


if __name__ == "__main__":
    main()
