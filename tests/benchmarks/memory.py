"""Compare the peak memory that `siamkit inspect` predicts with that of real training steps.

    python tests/benchmarks/memory.py
    python tests/benchmarks/memory.py --backbones resnet50 timm:vit_small_patch16_224 --sizes 224
    python tests/benchmarks/memory.py --checkpointing --policies full
    python tests/benchmarks/memory.py --batch 512 --micro 32 --set loss.name=triplet
    python tests/benchmarks/memory.py --from-cache --policies stages
    python tests/benchmarks/memory.py --fit

Each phase of a policy runs in a process of its own: three steps, as a run carries them out, on
random images or cached features. On a CPU, the peak is that of the resident set above the start; on
CUDA, it is `torch.cuda.max_memory_allocated`. `--fit` prints the constants of
`siamkit.freezing.memory` that fit these measurements best.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accumulation import _status
from peers.measure import process

from siamkit.cli.imports import HUGE_PAGES

BAR = 0.15
ROOT = str(Path(__file__).parents[2])
PHASES = {"stages": 2}
"""The number of phases by policy; others have one."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "efficientnet-lite0"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[96, 224])
    parser.add_argument("--policies", nargs="+", default=["stages", "full"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--micro", type=int)
    parser.add_argument("--accumulation", default="exact")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--from-cache", action="store_true")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--log", type=Path, help="add the measurements to this file; fit all in it")
    parser.add_argument("--phase", type=int)
    options = parser.parse_args()
    if options.phase is not None:
        print(json.dumps(measure(options)))
        return
    rows = []
    for backbone in options.backbones:
        for size in options.sizes:
            for policy in options.policies:
                for phase in range(PHASES.get(policy, 1)):
                    given = [f"--{name}={value}" for name, value in vars(options).items()
                             if name in ("batch", "micro", "accumulation", "classes", "device",
                                         "steps") and value is not None]  # fmt: skip
                    command = [
                        sys.executable, __file__, *given, "--backbones", backbone, "--sizes",
                        str(size), "--policies", policy, "--phase", str(phase),
                        *["--checkpointing"] * options.checkpointing,
                        *["--from-cache"] * options.from_cache, "--set", *options.set,
                    ]  # fmt: skip
                    printed = process(
                        command, options.threads, PYTHONPATH=ROOT, **{HUGE_PAGES: "1"}
                    ).printed
                    found = json.loads(printed.splitlines()[-1])
                    rows.append(found)
                    if options.log is not None:
                        with options.log.open("a", encoding="utf-8") as file:
                            print(
                                json.dumps(
                                    {"name": f"{backbone} {size} {policy} {phase + 1}", **found}
                                ),
                                file=file,
                            )
                    print(
                        f"{backbone} {size} px {policy} phase {phase + 1}: predicted "
                        f"{found['peak'] / 1e6:.0f} MB, measured {found['measured'] / 1e6:.0f} "
                        f"MB: {found['peak'] / found['measured']:.2f}",
                        flush=True,
                    )
    worst = max(abs(row["peak"] / row["measured"] - 1) for row in rows)
    print(f"worst {100 * worst:.0f} % (bar {100 * BAR:.0f} %)")
    if options.fit:
        logged = options.log.read_text(encoding="utf-8").splitlines() if options.log else []
        print(fitted([json.loads(line) for line in logged] or rows))


def fitted(rows: list[dict[str, float]]) -> str:
    """Return the constants that make the relative errors over measurements smallest."""
    import numpy as np

    measured, known, *terms = (
        np.array([row[name] for row in rows], float)
        for name in ("measured", "tensors", "state", "passing")
    )
    more = np.stack([*terms, np.full(len(rows), 1e6)], axis=1)  # [rows, 3]
    weighed = more / measured[:, None], (measured - known) / measured
    state, passing, once = np.linalg.lstsq(*weighed, rcond=None)[0]
    return f"state {state:.2f}, passing {passing:.2f}, once {once:.0f} MB"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the predicted memory and the measured peak of one phase, in bytes."""
    import siamkit_efficientnet_lite  # noqa: F401
    import timm  # noqa: F401
    import torch
    from pytorch_metric_learning import losses, miners  # noqa: F401

    from siamkit import api
    from siamkit.batches import Batch
    from siamkit.config import resolve
    from siamkit.config.layers import Layer
    from siamkit.engine.boundary import find_boundaries
    from siamkit.engine.cutting import first_exact_cut
    from siamkit.freezing import memory
    from siamkit.freezing import peak as peak_module
    from siamkit.freezing.allocations import Bytes
    from siamkit.freezing.memory import probe_images
    from siamkit.freezing.peak import Forward
    from siamkit.training.build import build
    from siamkit.training.step import LossWork, Stepper
    from siamkit.training.step_memory import predictor

    (backbone,), (size,), (policy,) = options.backbones, options.sizes, options.policies
    values: dict[str, Any] = {
        "backbone": {"name": backbone, "pretrained": False},
        "data": {"path": "sample", "image_size": size},
        "freeze": {"name": policy},
        "train": {
            "epochs": 6,
            "batch_size": options.batch,
            "micro_batch": options.micro,
            "accumulation": options.accumulation,
            "device": options.device,
            "grad_checkpointing": options.checkpointing,
        },
    }
    for text in options.set:
        key, _, value = text.partition("=")
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = int(value) if value.isdigit() else value
    registries = api.registries()
    config = resolve(registries, Layer(values, str))
    # The libraries are loaded, and have run once, before the start.
    torch.nn.Conv2d(3, 3, 3)(torch.randn(2, 3, 8, 8)).sum().backward()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    setup = build(config, registries, options.classes)
    plan = setup.schedule.phases()[options.phase].plan
    setup.controller.apply(plan)
    forward, shape = None, (3, size, size)
    if options.from_cache:
        images = probe_images(3, (size, size), setup.device)
        boundaries = find_boundaries(setup.net, setup.schedule.stages, plan)
        cut, _ = first_exact_cut(setup.net, boundaries, images[:3])
        assert cut is not None
        with torch.no_grad():
            rows = cut.prefix(images[:1])
        forward, shape = Forward(cut.suffix, rows), tuple(rows.shape[1:])
    setup.net.train()
    stepper = Stepper(setup.net, setup.loss, setup.optimizer, setup.device, config.train.precision)
    if forward is not None:
        stepper.forward = forward.run
    labels = torch.arange(options.batch) // config.train.images_per_class
    views = 1 + setup.loss.second_view

    def batches() -> Iterator[Batch]:
        for part in labels.split(config.train.pass_size):
            inputs = torch.randn(views * len(part), *shape)
            yield Batch(inputs, part.repeat(views), torch.arange(len(inputs)))

    for _ in range(options.steps):
        count = -(-options.batch // config.train.pass_size)
        works = [LossWork(batches(), count, None, 1.0)]
        if options.accumulation == "naive":
            each = batches()
            works = [LossWork(each, 1, None, 1 / count) for _ in range(count)]
        stepper(works)
    on_cpu = setup.device.type == "cpu"
    peak = _status("VmHWM") - before if on_cpu else torch.cuda.max_memory_allocated()
    terms: dict[str, float] = {}

    def noting(state: Bytes, passing: Bytes, device: torch.device) -> int:
        terms.update(state=state.small, passing=memory.share_of(passing))
        return memory.kept_by_libraries(state, passing, device)

    peak_module.kept_by_libraries = noting
    predicted = predictor(setup, forward)(config.train.pass_size)
    assert predicted is not None
    tensors = predicted.peak - predicted.libraries
    return {**predicted.to_json(), "measured": peak, "tensors": tensors, **terms}


if __name__ == "__main__":
    main()
