"""Wrong backbones. Each is :class:`Small`, or a plain module, with one mistake."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from mutant import Mutant
from torch import nn

import siamkit
from siamkit.errors import ConfigError
from siamkit.interfaces import Preprocessing, Stage

SIZE = 32


class Small(siamkit.Backbone):
    """Two stages of convolution, batch norm, ReLU and dropout, pooled; this one is right."""

    def __init__(self, context, width=8):
        super().__init__()
        self.context = context
        self.one = nn.Sequential(
            nn.Conv2d(context.in_chans, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1)
        )
        self.two = nn.Sequential(nn.Conv2d(4, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.width = width

    def maps(self, images):
        return self.two(self.one(images))

    def forward(self, images):
        return self.maps(images).mean((2, 3))

    @property
    def embedding_dim(self):
        return self.width

    @property
    def preprocessing(self):
        n, size = self.context.in_chans, self.context.image_size or SIZE
        return Preprocessing((0.5,) * n, (0.25,) * n, (size, size))

    def stages(self, granularity="stage"):
        return tuple(
            Stage(
                name,
                tuple(f"{name}.{p}" for p, _ in getattr(self, name).named_parameters()),
                (name,),
                name,
                frozenset({f"{name}.1.weight", f"{name}.1.bias"}),
            )
            for name in ("one", "two")
        )


def small(**methods):
    """Return the build of a Small with other methods."""
    made = type("Small", (Small,), methods)
    return lambda options, context: made(context)


def staged(change):
    return small(stages=lambda self, granularity="stage": change(Small.stages(self)))


def prepared(**fields):
    right = Small.preprocessing.fget
    return small(preprocessing=property(lambda self: replace(right(self), **fields)))


def plain(forward, *, init=None, **attributes):
    """Return the build of a plain module: two convolutions, then ``forward(self, maps)``."""

    class Plain(nn.Module):
        def __init__(self, context):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(context.in_chans, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1)
            )
            vars(self).update(attributes)
            if init:
                init(self)

        def forward(self, images):
            return forward(self, self.body(images))

    return lambda options, context: Plain(context)


# --- forwards ------------------------------------------------------------------------------------


def in_list(self, context):
    Small.__init__(self, context)
    self.more = [nn.Linear(8, 8)]


def hidden_tensor(self, context):
    Small.__init__(self, context)
    self.scale = torch.ones(8, requires_grad=True)


def constant_tensor(self, context):
    Small.__init__(self, context)
    self.scale = torch.ones(8)


def frozen_by_itself(self, context):
    Small.__init__(self, context)
    self.one.requires_grad_(False)


def drawn_by_numpy(self, context):
    Small.__init__(self, context)
    with torch.no_grad():
        for p in self.parameters():
            p.copy_(torch.from_numpy(np.random.default_rng().normal(0, 0.2, p.shape)))


def locked(self, context):
    Small.__init__(self, context)
    self.lock = threading.Lock()


def counting(self, context):
    Small.__init__(self, context)
    self.register_buffer("seen", torch.zeros(()))


def count(self, images):
    self.seen += len(images)
    return Small.forward(self, images)


def clamped_weights(self, images):
    with torch.no_grad():
        self.two[0].weight.clamp_(-0.05, 0.05)
    return Small.forward(self, images)


def scaled_in_place(self, images):
    return Small.forward(self, images.mul_(2.0))


def expects_unit_range(self, images):
    if images.min() < 0 or images.max() > 1:
        raise ValueError("images must be in [0, 1]")
    return Small.forward(self, images)


def gamma(self, images):
    return Small.forward(self, images**2.2)


def exponential(self, images):
    return Small.forward(self, images.exp())


def batch_of_eight(self, images):
    return Small.forward(self, images).view(2, -1)


def fixed_flatten(self, context):
    Small.__init__(self, context)
    self.fc = nn.Linear(8 * 8 * 8, 8)


def in_fixed_flatten(self, images):
    return self.fc(self.maps(images).flatten(1))


def with_fc(stages):
    fc = Stage("fc", ("fc.weight", "fc.bias"), ("fc",), "fc")
    return (*stages, fc)


def keeps_norms_in_eval(self, mode=True):
    nn.Module.train(self, mode)
    self.one[1].eval()
    return self


def refuses(options, context):
    raise RuntimeError("set MYNET_HOME first")


def exits(options, context):
    raise SystemExit("no license")


def ignores_channels(options, context):
    return Small(replace(context, in_chans=3))


def returns_a_class(options, context):
    return Small


def returns_a_pair(options, context):
    return Small(context), Small(context).preprocessing


def downloads(options, context):
    import urllib.request

    urllib.request.urlopen("http://127.0.0.1:9/weights.pth", timeout=2)
    return Small(context)


def counts_in_words(self, images):
    if not hasattr(self, "center"):
        self.center = nn.Parameter(torch.zeros(8))
    return Small.forward(self, images) - self.center


@property
def side(self):
    return self.preprocessing.size[0] // 4


@property
def pixels(self):
    return (self.preprocessing.size[0] // 4) ** 2


FORWARD = [
    ("nhwc-map", small(
        forward=lambda self, x: self.maps(x).permute(0, 2, 3, 1).mean((2, 3)), embedding_dim=side),
     "pools an [N, H, W, C] map, as timm's Swin gives, over width and channels", "96"),
    ("nct-sequence", small(
        forward=lambda self, x: self.maps(x).flatten(2).mean(1), embedding_dim=pixels),
     "averages [N, C, T] over its channels, not over its tokens", "96"),
    ("squeeze", small(forward=lambda self, x: self.maps(x).mean((2, 3), keepdim=True).squeeze()),
     "squeeze() drops the batch too where it is one image", "one image"),
    ("flattened-map", plain(lambda self, x: x.flatten(1)),
     "flattens the map instead of pooling it, so D depends on the image size", "width"),
    ("fixed-flatten", small(
        __init__=fixed_flatten, forward=in_fixed_flatten,
        stages=lambda self, granularity="stage": with_fc(Small.stages(self))),
     "a linear layer for one image size, which build does not refuse", "in a forward of"),
    ("tuple", plain(lambda self, x: (x.mean((2, 3)), x)), "returns (features, map)", "tuple"),
    ("dictionary", small(forward=lambda self, x: {"features": Small.forward(self, x)}),
     "returns a dictionary", "dict"),
    ("functional-dropout", small(forward=lambda self, x: F.dropout(Small.forward(self, x), 0.5)),
     "F.dropout without training=self.training", "same features"),
    ("batch-normalize", small(forward=lambda self, x: F.normalize(Small.forward(self, x), dim=0)),
     "normalises over the batch instead of the features", "other images"),
    ("softmax", small(forward=lambda self, x: Small.forward(self, x).softmax(1)),
     "left the classifier's softmax on", "probabilities"),
    ("half", small(forward=lambda self, x: Small.forward(self, x).half()),
     "returns half precision, which the head cannot multiply", "float32"),
    ("no-grad", small(forward=torch.no_grad()(lambda self, x: Small.forward(self, x))),
     "runs without gradients, as a feature extractor", "gradients"),
    ("inference-mode", small(
        forward=torch.inference_mode()(lambda self, x: Small.forward(self, x))),
     "runs in inference mode", "gradients"),
    ("in-place-input", small(forward=scaled_in_place), "rescales the images in place", "images"),
    ("two-inputs", small(forward=lambda self, x, mask: Small.forward(self, x)),
     "forward wants a second argument", "mask"),
    ("view", small(
        forward=lambda self, x: self.maps(x).view(len(x), -1).view(len(x), 8, -1).mean(2)),
     "view() fails in the channels-last layout that training uses", "channels_last"),
    ("batch-of-eight", small(forward=batch_of_eight), "assumes a batch size", "[N, D]"),
    ("lazy-parameter", small(forward=counts_in_words),
     "makes a parameter in the first forward, which no optimizer knows", "center"),
]  # fmt: skip

STATE = [
    ("module-list", small(
        __init__=in_list, forward=lambda self, x: self.more[0](Small.forward(self, x))),
     "keeps layers in a Python list, so that they are never trained or saved", "not registered"),
    ("hidden-tensor", small(
        __init__=hidden_tensor, forward=lambda self, x: Small.forward(self, x) * self.scale),
     "a plain tensor where a Parameter is meant", "not registered"),
    ("constant-tensor", small(
        __init__=constant_tensor, forward=lambda self, x: Small.forward(self, x) * self.scale),
     "a constant that is no buffer: it stays on the CPU", "buffer"),
    ("self-frozen", small(__init__=frozen_by_itself), "freezes its own stem", "gradient"),
    ("numpy-init", small(__init__=drawn_by_numpy),
     "initialises by numpy's generator, so a seed gives another network each time", "seed"),
    ("lock", small(__init__=locked), "holds a lock, so it cannot be copied", "copied"),
    ("counter", small(__init__=counting, forward=count),
     "counts images in a buffer in evaluation too, so it changes while frozen", "seen"),
    ("clamped-weights", small(forward=clamped_weights),
     "writes to its weights in forward", "two.0.weight"),
    ("train-override", small(train=keeps_norms_in_eval),
     "keeps a norm in eval mode by itself", "every module; got training = False in ['one.1']"),
]  # fmt: skip

BUILD = [
    ("build-raises", refuses, "needs a variable that is not set", "MYNET_HOME"),
    ("build-exits", exits, "ends the program where its license is missing", "SystemExit"),
    ("build-class", returns_a_class, "returns a class instead of an object", "nn.Module"),
    ("build-pair", returns_a_pair, "returns the module and its preprocessing", "nn.Module"),
    ("three-channels", ignores_channels, "ignores in_chans", "in_chans=1"),
    ("downloads", downloads, "downloads weights that nobody asked for", "network"),
]

PREPROCESSING = [
    ("unit-range", small(forward=expects_unit_range),
     "expects images in [0, 1], but gets normalised ones", "[0, 1]"),
    ("gamma", small(forward=gamma), "raises normalised images to a power: NaN", "finite"),
    ("range-255", small(
        forward=exponential,
        preprocessing=property(lambda self: replace(
            Small.preprocessing.fget(self), mean=(0.0,) * self.context.in_chans,
            std=(1 / 255,) * self.context.in_chans))),
     "overflows in the range 0..255 that it asks for", "finite"),
    ("mean-of-255", prepared(mean=(123.7, 116.3, 103.5)),
     "states the mean in units of 0..255", "mean"),
    ("std-of-255", prepared(std=(58.4, 57.1, 57.4)),
     "states the deviation in units of 0..255", "std"),
    ("size-of-one-number", prepared(size=32), "states the size as one number", "size"),
    ("mean-above-one", prepared(mean=(1.2, 1.2, 1.2)), "states a mean above 1", "mean"),
    ("mean-below-zero", prepared(mean=(-0.5, -0.5, -0.5)), "states a mean below 0", "mean"),
    ("size-of-three-numbers", prepared(size=(3, 64, 64)), "states channels with the size", "size"),
    ("crop-in-percent", prepared(crop_pct=87.5), "states the crop in percent", "crop_pct"),
    ("interpolation", prepared(interpolation="linear"), "an interpolation that nobody has",
     "interpolation"),
    ("ignores-image-size", prepared(size=(SIZE, SIZE)), "ignores the image size asked for", "64"),
    ("dictionary-preprocessing", plain(
        lambda self, x: x.mean((2, 3)), preprocessing={"mean": [0.5] * 3, "std": [0.5] * 3}),
     "gives its preprocessing as a dictionary, which nobody reads", "preprocessing"),
    ("num-features", small(embedding_dim=1280), "states num_features, not the width", "8"),
]  # fmt: skip

FIRST, SECOND = (f"{name}.{layer}" for name in ("one", "two") for layer in ("0",))


def without_norms(stages):
    return tuple(replace(stage, norms=frozenset()) for stage in stages)


STAGES = [
    ("no-norms", staged(without_norms),
     "left norms out, so frozen statistics are trained", "norm"),
    ("convolution-as-norm", staged(lambda s: (
        replace(s[0], norms=s[0].norms | {"one.0.weight"}), s[1])),
     "counts a convolution among the norms", "one.0.weight"),
    ("swapped-modules", staged(lambda s: (
        replace(s[0], modules=("two",)), replace(s[1], modules=("one",)))),
     "swapped the modules of two stages", "one"),
    ("modules-left-out", staged(lambda s: (
        replace(s[0], modules=("one.0", "one.1"), output="one.1"), s[1])),
     "left out activation and dropout, which then stay in train mode", "one.3"),
    ("nested-modules", staged(lambda s: (replace(s[0], modules=("one", "one.0")), s[1])),
     "lists a module and its child", "one.0"),
    ("output-early", staged(lambda s: (replace(s[0], output="one.0"), s[1])),
     "the output is not that of the stage's last module", "output"),
    ("output-of-another", staged(lambda s: (replace(s[0], output="two"), s[1])),
     "the output belongs to another stage", "output"),
    ("stages-change", small(stages=lambda self, granularity="stage": Small.stages(self)[
        :: 1 if self.__dict__.setdefault("n", [0]).append(0) or len(self.n) < 3 else -1]),
     "gives its stages in another order each time", "stages"),
    ("missing-parameter", staged(lambda s: (replace(s[0], parameters=s[0].parameters[1:]), s[1])),
     "forgot a parameter", "one.0.weight"),
    ("stages-of-names", small(stages=lambda self, granularity="stage": ("one", "two")),
     "returns names instead of stages", "Stage"),
    ("stages-generator", small(stages=lambda self, granularity="stage": (
        stage for stage in Small.stages(self))),
     "returns a generator, which is empty the second time", "sequence"),
    ("modules-out-of-order", staged(lambda s: (
        replace(s[0], modules=("one.3", "one.2", "one.1", "one.0")), s[1])),
     "lists modules in another order than they run", "order"),
]  # fmt: skip

MUTANTS = [
    Mutant(name, "backbones", build, wrong, says, check={"image_size": 64})
    for name, build, wrong, says in [*FORWARD, *STATE, *BUILD, *PREPROCESSING, *STAGES]
]

UNCAUGHT = [
    Mutant("loads-nothing", "backbones", lambda options, context: Small(context),
           "registered with pretrained=True but never loads weights: the kit downloads none", ""),
    Mutant("normalises-again", "backbones", small(
        forward=lambda self, x: Small.forward(self, (x - 0.5) / 0.25)),
           "normalises images a second time: a valid function of them, only a worse one", ""),
]  # fmt: skip

RIGHT = {
    "small": lambda options, context: Small(context),
    "pooled": plain(lambda self, x: x.mean((2, 3))),
    "map": plain(lambda self, x: x),
}


def fixed_size(options, context):
    """A network for one size that says so."""
    if context.image_size not in (None, 64):
        raise ConfigError("images must be 64 px", where="data.image_size", got=context.image_size)
    return Small(context)


RIGHT["fixed-size"] = fixed_size


class Grey(Small):
    """Right for three channels only."""

    @property
    def preprocessing(self):
        return replace(super().preprocessing, mean=(0.5,) * 3)


MUTANTS.append(
    Mutant("fixed-size-grey", "backbones",
           lambda options, context: fixed_size(options, context) and Grey(context),
           "takes one size, and is prepared for three channels where images have one",
           "preprocessing for 1 channels")
)  # fmt: skip
