"""Networks of many kinds: each is pruned as much as was asked, or refused with the reason."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from siamkit.compress.choose import choose
from siamkit.compress.costs import costs_of
from siamkit.compress.dependencies import Dependencies
from siamkit.compress.importance import readers, taylor
from siamkit.compress.reconstruct import absorb, moments
from siamkit.compress.shrink import require_reach
from siamkit.engine.flops import count_flops
from siamkit.errors import ConfigError

pytest.importorskip("torch_pruning")
timm = pytest.importorskip("timm")


# --- networks -----------------------------------------------------------------------------------


def conv(reads: int, writes: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(reads, writes, 3, padding=1, groups=groups)


class Features(nn.Module):
    """A body, and features ``[N, 12]`` of the mean of its map."""

    def __init__(self, *body: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*body), nn.Linear(width, 12)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.head(self.body(images).mean((2, 3)))
        return features


class Gated(nn.Module):
    """One half of the channels gates the other."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return a * b.sigmoid()


class Shuffled(nn.Module):
    """Channels of 4 groups are mixed."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)


class Cut(nn.Module):
    """Half of the channels is added to what another layer writes, as in a RexNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 8), conv(8, 16)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images).relu()
        y: Tensor = self.second(x)
        return torch.cat([y[:, :8] + x, y[:, 8:]], 1)


class Twice(nn.Module):
    """The same layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = conv(3, 16), conv(16, 16)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.again(self.again(self.first(images).relu()).relu())
        return x


class Joined(nn.Module):
    """Two layers write the channels that a third reads."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.both = conv(3, 8), conv(3, 24), conv(32, 16)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.both(torch.cat([self.one(images), self.other(images)], 1).relu())
        return x


class Reshaped(nn.Module):
    """Channels become places by a number that no layer states."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 16)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        return x.reshape(len(x), 4, -1, *x.shape[2:]).flatten(1, 2)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "plain": lambda: Features(conv(3, 16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 16)),
    "depthwise": lambda: Features(
        conv(3, 16), nn.ReLU(), conv(16, 16, 16), nn.BatchNorm2d(16), nn.Conv2d(16, 24, 1),
        width=24,
    ),
    "grouped": lambda: Features(conv(3, 16), nn.ReLU(), conv(16, 16, 4), conv(16, 16)),
    "more depthwise": lambda: Features(conv(3, 16), conv(16, 32, 16), nn.ReLU(), conv(32, 16)),
    "group norm": lambda: Features(conv(3, 16), nn.GroupNorm(4, 16), conv(16, 16)),
    "instance norm": lambda: Features(
        conv(3, 16), nn.InstanceNorm2d(16, affine=True), nn.ReLU(), conv(16, 16)
    ),
    "no scale": lambda: Features(conv(3, 16), nn.InstanceNorm2d(16), conv(16, 16)),
    "slopes": lambda: Features(conv(3, 16), nn.PReLU(16), conv(16, 16)),
    "one slope": lambda: Features(conv(3, 16), nn.PReLU(), conv(16, 16)),
    "transposed": lambda: Features(
        conv(3, 16), nn.ReLU(), nn.ConvTranspose2d(16, 16, 2, 2), nn.ReLU(), conv(16, 16)
    ),
    "transposed depthwise": lambda: Features(
        conv(3, 16), nn.ConvTranspose2d(16, 16, 2, 2, groups=16), nn.ReLU(), conv(16, 16)
    ),
    "flat": lambda: nn.Sequential(
        conv(3, 16), nn.AdaptiveAvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 12)
    ),
    "gated": lambda: Features(conv(3, 32), Gated(), conv(16, 16)),
    "shuffled": lambda: Features(conv(3, 16), nn.ReLU(), conv(16, 16), Shuffled(), conv(16, 16)),
    "pixels": lambda: Features(conv(3, 16), nn.PixelShuffle(2), conv(4, 16)),
    "weight norm": lambda: Features(weight_norm(conv(3, 16)), nn.ReLU(), conv(16, 16)),
    "cut": lambda: Features(Cut(), conv(16, 16)),
    "twice": lambda: Features(Twice()),
    "joined": lambda: Features(Joined(), conv(16, 16)),
    "reshaped": lambda: Features(Reshaped(), conv(16, 16)),
    "one channel": lambda: Features(conv(3, 1), nn.ReLU(), conv(1, 1), width=1),
}  # fmt: skip

TINY = timm.list_models("test_*")
REFUSED = {"one channel"}
MORE = 0.05  # of the operations, since channels go in steps of 8 and in groups
PRUNED = {
    "test_byobnet", "test_coatnet", "test_convnext", "test_convnext2", "test_convnext3",
    "test_efficientnet", "test_maxvit", "test_resnet", "test_vit", "test_vit2", "test_vit4",
}  # fmt: skip
SMALL = {  # with the side of the images
    "convnextv2_atto": 64,
    "crossvit_tiny_240": 240,
    "cspresnet50": 64,
    "densenet121": 64,
    "dla34": 64,
    "dpn48b": 64,
    "edgenext_xx_small": 64,
    "efficientvit_b0": 64,
    "efficientvit_m0": 224,
    "fasternet_t0": 64,
    "fastvit_t8": 64,
    "gernet_s": 64,
    "ghostnet_100": 64,
    "gmlp_ti16_224": 224,
    "hgnetv2_b0": 64,
    "hrnet_w18_small": 64,
    "lambda_resnet26t": 64,
    "levit_128s": 224,
    "mambaout_femto": 64,
    "mixer_s32_224": 224,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small": 64,
    "mobileone_s0": 64,
    "mobilevit_xxs": 64,
    "nf_regnet_b0": 64,
    "poolformer_s12": 64,
    "pvt_v2_b0": 64,
    "regnety_002": 64,
    "repvit_m0_9": 64,
    "resnest14d": 64,
    "resnet18": 64,
    "resnext26ts": 64,
    "rexnet_100": 64,
    "selecsls42b": 64,
    "shvit_s1": 64,
    "skresnet18": 64,
    "starnet_s1": 64,
    "tf_mixnet_s": 64,
    "vovnet39a": 64,
    "xception41": 64,
}


# --- pruning ------------------------------------------------------------------------------------


def removed(net: nn.Module, images: Tensor, ratio: float) -> float:
    """Prune a network as a round does, and return the share of its operations that is gone."""
    before = {key: value.clone() for key, value in net.state_dict().items()}
    total = count_flops(net, None, images).forward
    found = Dependencies(net, images)
    costs = costs_of(net, images, total)
    require_reach(list(found.groups), costs, (1 - ratio) * total, "all")
    scores = taylor(found, [found.backbone(images).square().sum()])
    channels = choose(found.groups, scores, costs, (1 - ratio) * total)
    record = found.without(channels)
    pruned = copy.deepcopy(net)
    record.apply(pruned, "a test")
    absorb(pruned, net, record, moments(net, readers(found.groups), [images]))
    with torch.no_grad():
        assert pruned(images).shape == net(images).shape
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    left = count_flops(pruned, None, images).forward
    # The operations of what mixes the channels of a layer without weights are not predicted.
    assert left == pytest.approx(costs.after(found.groups, channels), rel=0.01)
    return 1 - left / total


def done(net: nn.Module, images: Tensor, ratio: float = 0.4) -> bool:
    """Return whether a network is pruned; anything but a refusal with the reason is an error."""
    try:
        gone = removed(net.eval(), images, ratio)
    except ConfigError as error:
        refusals = "no channels of the backbone", "do not make up that many", "cannot prune this"
        assert any(text in str(error) for text in refusals)
        return False
    assert ratio <= gone <= ratio + MORE
    return True


def of_timm(name: str, size: int | None = None) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, num_classes=0)
    side = net.pretrained_cfg["input_size"][1] if size is None else size
    return net, torch.rand(2, 3, side, side)


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_network_is_pruned_or_refused(name: str) -> None:
    assert done(*of_timm(name)) == (name in PRUNED)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_an_architecture_is_pruned_or_refused(name: str) -> None:
    done(*of_timm(name, SMALL[name]))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_odd_network_is_pruned_or_refused(name: str) -> None:
    torch.manual_seed(0)
    assert done(NETWORKS[name](), torch.rand(2, 3, 16, 16), 0.1) == (name not in REFUSED)
