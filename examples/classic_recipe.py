"""The classic recipe in Python: python examples/classic_recipe.py [DATA] [--weights FILE].

The network is a ResNet50 without its classifier, with a 2048-512-128 head and triplet loss. At
first the ResNet50 is frozen, and only the head trains. After three epochs the last two stages of
the ResNet50 train too, at a tenth of the rate. A batch of 128 images is processed in four
micro-batches of 32, with one loss over the whole batch.
"""

import argparse

import siamkit

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data", nargs="?", default="sample", help="a folder of class folders")
parser.add_argument("--weights", help="a ResNet50 weights file; default: timm's pretrained weights")
parser.add_argument("--no-pretrained", action="store_true", help="start from random weights")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--image-size", type=int, default=224)
parser.add_argument("--run-dir")
args = parser.parse_args()

config = {
    "data": {"path": args.data, "image_size": args.image_size},
    "backbone": {
        "name": "resnet50",
        "weights": args.weights,
        "pretrained": False if args.no_pretrained else None,
    },
    "head": {"name": "mlp", "hidden": 512, "dim": 128},
    "loss": {"name": "triplet", "margin": 0.2, "mining": "semihard"},
    "freeze": {"name": "stages", "warmup": 3, "n": 2, "lr_mult": 0.1},
    "optimizer": {"name": "adam", "lr": 1e-3},
    "train": {"epochs": args.epochs, "batch_size": 128, "micro_batch": 32},
    "run_dir": args.run_dir,
}

report = siamkit.inspect(config, parameters=True)
for phase, span in enumerate(report["phases"]):
    count = f"{span['trainable_parameters']:,} of {report['parameters']:,} parameters train"
    print(f"epochs {span['first_epoch']}-{span['last_epoch']}: {count}")
    for parameter in report["parameters_list"]:
        if parameter["trainable"][phase]:
            print(f"  {parameter['name']:45} {parameter['shape']}")

result = siamkit.fit(config)
for name in ("untrained", "best", "last"):
    print(f"{name:9} recall@1 {result['metrics'][name]['recall@1']:.3f}")
print(f"the run is in {result['run_dir']}")
