"""A small model to deploy: training with large batches, pruning, int8, and use without PyTorch.

    python examples/small_model.py [DATA] -o FOLDER [--python PYTHON]

The script trains with a large batch in micro-batches, prunes the network, exports both networks to
ONNX, and exports the pruned network in int8 too. It prints the size, quality and speed of each
network. Then siamkit-runtime verifies two images. PYTHON is the Python interpreter to run
siamkit-runtime with, for example that of an environment without PyTorch.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import siamkit
from siamkit.data.sample import sample_dir
from siamkit.portable.folders import files_in

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("data", nargs="?", default="sample", help="a folder of class folders")
parser.add_argument("--output", "-o", type=Path, required=True, help="a new folder")
parser.add_argument("--backbone", default="efficientnet-lite0")
parser.add_argument("--no-pretrained", action="store_true", help="start from random weights")
parser.add_argument("--image-size", type=int, default=64)
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--batch-size", type=int, default=120)
parser.add_argument("--micro-batch", type=int, default=24)
parser.add_argument("--ratio", type=float, default=0.5)
parser.add_argument("--python", default=sys.executable, help="a Python with siamkit-runtime")
args = parser.parse_args()


def cpu_seconds(*command: str) -> tuple[float, str]:
    """Run a command, and return the seconds of CPU time that it took, and its stdout."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, done.stdout


whole, small = args.output / "whole", args.output / "small"
siamkit.fit(
    data=args.data,
    backbone={"name": args.backbone, "pretrained": False if args.no_pretrained else None},
    image_size=args.image_size,
    epochs=args.epochs,
    batch_size=args.batch_size,
    train={"micro_batch": args.micro_batch},
    run_dir=whole,
)
pruned = siamkit.prune(whole, small, ratio=args.ratio, freeze="full")
exports = {
    "whole, float32": siamkit.export(whole, args.output / "whole-onnx"),
    "pruned, float32": siamkit.export(small, args.output / "small-onnx"),
    "pruned, int8": siamkit.export(small, args.output / "small-int8", quantize="int8"),
}

before, after = pruned.before["flops"], pruned.after["flops"]
print(f"operations: {before / 1e6:.0f} M, pruned {after / 1e6:.0f} M")
print("| network | size | recall@1 | EER | one image | batches of 32 |")
print("|---|---|---|---|---|---|")
rows = {"whole, torch": exports["whole, float32"].quality[0]}
rows |= {name: result.quality[-1] for name, result in exports.items()}
for name, row in rows.items():
    recall, eer = (row["metrics"][metric] for metric in ("recall@1", "eer"))
    print(
        f"| {name} | {row['bytes'] / 1e6:.2f} MB | {recall:.3f} | {eer:.1%} "
        f"| {row['latency'] * 1e3:.2f} ms | {row['throughput']:.0f} images/s |"
    )

folder = sample_dir() if args.data == "sample" else Path(args.data)
one, other, *_ = map(str, files_in(folder))
words = ["verify", str(exports["pruned, int8"].output), one, other, "--json"]
light, text = cpu_seconds(args.python, "-m", "siamkit_runtime", *words)
heavy, _ = cpu_seconds(sys.executable, "-m", "siamkit", "verify", str(small), *words[2:])
verdict = json.loads(text)
decision = "same" if verdict["same"] else "different"
print(f"{decision}: score {verdict['score']:.4f}, threshold {verdict['threshold']:.4f}")
print(f"CPU time of one verify: siamkit-runtime {light:.2f} s, siamkit with the run {heavy:.2f} s")
