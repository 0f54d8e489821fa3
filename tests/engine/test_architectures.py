"""80 architectures of timm, torchvision and transformers: cut exactly, or run whole; never else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from siamkit.engine import CutResult, cut, find_boundaries
from siamkit.freezing.controller import FreezeController
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.stages import discover_stages

# Convolutions, attention and mixers; class tokens, position embeddings, relative ones, windows,
# dense, parallel and split branches: as many kinds of forward as there are.
TIMM = {
    "resnet10t": 64, "res2net50_26w_4s": 64, "resnest14d": 64, "regnety_002": 64, "repvgg_a0": 64,
    "efficientnet_b0": 64, "mobilenetv3_small_050": 64, "mobilenetv4_conv_small": 64,
    "ghostnet_050": 64, "nf_regnet_b0": 64, "dla34": 64, "inception_v3": 96, "convnext_atto": 64,
    "convnextv2_atto": 64, "hgnetv2_b0": 64, "poolformer_s12": 64, "edgenext_xx_small": 64,
    "mobilevit_xxs": 64, "mambaout_femto": 64, "levit_128s": 224, "pvt_v2_b0": 64,
    "pit_ti_224": 224, "hrnet_w18_small": 64, "densenet121": 64, "crossvit_9_240": 240,
    "fastvit_t8": 64, "repvit_m1": 64, "cspresnet50": 64, "selecsls42": 64, "rexnet_100": 64,
}  # fmt: skip
SIZED = {
    "swin_tiny_patch4_window7_224": 112, "deit_tiny_distilled_patch16_224": 64,
    "eva02_tiny_patch14_224": 56, "xcit_nano_12_p16_224": 64, "cait_xxs24_224": 64,
    "mixer_s32_224": 64, "mvitv2_tiny": 64, "tnt_s_legacy_patch16_224": 64, "hiera_tiny_224": 64,
    "coat_lite_tiny": 64, "coat_tiny": 64, "vit_tiny_patch16_224": 64,
}  # fmt: skip
"""Those that must be built for another size of image than their own."""
TORCHVISION = {
    "alexnet": 96, "densenet121": 64, "efficientnet_b0": 64, "googlenet": 64, "inception_v3": 96,
    "mnasnet0_5": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64, "resnet18": 64, "resnet50": 64, "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64, "swin_t": 64, "regnet_y_400mf": 64, "convnext_tiny": 64,
}  # fmt: skip
_VIT = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 64, "patch_size": 16,
}  # fmt: skip
_STEPS = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 2, 1]}
_WINDOWS = {
    "embed_dim": 16, "depths": [1, 2, 1], "num_heads": [1, 2, 4], "window_size": 4,
    "image_size": 64, "patch_size": 4,
}  # fmt: skip
TRANSFORMERS: dict[str, dict] = {
    "ViT": _VIT, "DeiT": _VIT, "Beit": _VIT, "Data2VecVision": _VIT, "Dinov2": _VIT,
    "ViTMSN": _VIT, "ViTMAE": _VIT,  # which masks at random
    "CLIPVision": _VIT, "SiglipVision": _VIT,
    "ResNet": {"embedding_size": 8, **_STEPS},
    "RegNet": {"embedding_size": 8, "groups_width": 8, **_STEPS},
    "ConvNext": _STEPS, "ConvNextV2": _STEPS, "Swin": _WINDOWS, "Swinv2": _WINDOWS,
    "PoolFormer": {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 2, 1]},
    "FocalNet": {"embed_dim": 16, "depths": [1, 1, 2], "image_size": 64},
    "Hiera": {"embed_dim": 16, "image_size": [64, 64], "depths": [1, 1, 2, 1]},
}  # fmt: skip


def of_timm(name: str) -> nn.Module:
    sized = {"img_size": SIZED[name]} if name in SIZED else {}
    return timm.create_model(name, num_classes=0, **sized)


def of_torchvision(name: str) -> nn.Module:
    more = {"init_weights": False, "aux_logits": False} if "ception" in name else {}
    more |= {"init_weights": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, num_classes=10, **more)


def traced_resnet() -> nn.Module:
    return torch.fx.symbolic_trace(torchvision.models.resnet18(num_classes=10))


def small_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(64, 16, 4, 2, 32, 64, num_classes=10)


def small_maxvit() -> nn.Module:
    return torchvision.models.MaxVit((64, 64), 16, 4, [16, 32], [1, 2], 8, 0.1, num_classes=10)


def of_transformers(name: str) -> nn.Module:
    transformers = import_module("transformers")
    config = getattr(transformers, f"{name}Config")(**TRANSFORMERS[name])
    return getattr(transformers, f"{name}Model")(config)


def builders() -> dict[str, tuple[Callable[[], nn.Module], int]]:
    made: dict[str, tuple[Callable[[], nn.Module], int]] = {
        f"timm:{n}": (partial(of_timm, n), s) for n, s in (TIMM | SIZED).items()
    }
    made |= {f"torchvision:{n}": (partial(of_torchvision, n), s) for n, s in TORCHVISION.items()}
    made["torchvision:resnet18 (fx)"] = (traced_resnet, 64)
    made["torchvision:vit"] = (small_vit, 64)
    made["torchvision:maxvit"] = (small_maxvit, 64)
    made |= {f"transformers:{n}": (partial(of_transformers, n), 64) for n in TRANSFORMERS}
    return made


ARCHITECTURES = builders()


class Network(nn.Module):
    """A backbone, whatever it gives, and a head behind the mean of it."""

    def __init__(self, backbone: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Identity()
        with torch.no_grad():
            width = self.eval()(example).shape[1]
        self.head = nn.Linear(width, 8)
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.backbone(images)
        while not isinstance(outputs, Tensor):
            outputs = outputs[0]
        if outputs.ndim == 4:
            outputs = outputs.mean((2, 3))
        return self.head(outputs.mean(1) if outputs.ndim == 3 else outputs)

    def stages(self, example: Tensor) -> tuple[Stage, ...]:
        stages = [s.prefixed("backbone.") for s in discover_stages(self.backbone, example)]
        stages = [replace(s, name="neck") if s.name == "head" else s for s in stages]
        head = Stage("head", ("head.weight", "head.bias"), ("head",), "head")
        return (*stages, head)


def build(name: str) -> tuple[Network, tuple[Stage, ...], Tensor]:
    torch.manual_seed(0)
    make, size = ARCHITECTURES[name]
    images = torch.randn(5, 3, size, size) * torch.linspace(0.2, 3, 5).reshape(-1, 1, 1, 1)
    backbone = make()
    net = Network(backbone, images[:1])
    return net, net.stages(images[:1]), images


def frozen(net: nn.Module, stages: tuple[Stage, ...], half: bool) -> FreezePlan:
    names = [stage.name for stage in stages]
    units = [unit for stage in stages[:-1] for unit in (stage.blocks or (stage,))]
    train = names[len(names) // 2 : -1] if half and len(names) > 3 else []
    if half and not train:
        train = [unit.name for unit in units[len(units) // 2 :]]
    plan = FreezePlan.of(stages, train)
    FreezeController(net, stages).apply(plan)
    return plan


TABLE: dict[tuple[str, str], str] = {}


def verdict(result: CutResult, deepest: str) -> str:
    if result.cut is None:
        return "whole"
    return "ideal" if result.cut.boundary.module == deepest else "shallower"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_cut_exactly_or_runs_whole(name: str) -> None:
    net, stages, images = build(name)
    others = torch.randn(4, *images.shape[1:], generator=torch.Generator().manual_seed(1))
    for half in (True, False):
        plan = frozen(net, stages, half)
        boundaries = find_boundaries(net, stages, plan)
        assert boundaries
        result = cut(net, stages, plan, images)
        kind = verdict(result, boundaries[0].module)
        detail = result.reasons[0] if result.reasons else ""
        if result.cut is not None:
            assert result.cut.differs(others) is None
            detail = f"{detail} [{result.cut.boundary.module}: {result.cut.frontier.describe()}]"
        else:
            assert result.reasons
        TABLE[name, "half" if half else "all"] = kind
        print(f"{name:45} {'half' if half else 'all':5} {kind:10} {detail[:200]}")


@pytest.mark.slow
def test_most_are_cut_at_the_deepest_boundary() -> None:
    """Runs after the others, and counts what they saw."""
    if len(TABLE) < 2 * len(ARCHITECTURES):
        pytest.skip("needs the results of all architectures")
    for which in ("half", "all"):
        counts = Counter(kind for (_, w), kind in TABLE.items() if w == which)
        print(which, dict(counts))
        assert counts["ideal"] >= 70
