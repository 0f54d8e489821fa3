"""The identity of a network, and the test that a loaded network computes what the saved one did."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor, nn

from siamkit.data.views import EvalView
from siamkit.model.fingerprint import fingerprint
from siamkit.model.siamese import SiameseNet
from siamkit.model.trace import dtype_of

_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
_FLOAT32 = 1e-3
"""The relative differences that rounding on another machine explains, by type of the weights."""


def fingerprint_of(net: SiameseNet) -> str:
    """Return a SHA-256 of a network's tensors, its preprocessing, and whether it normalises."""
    about = {
        "tensors": {name: fingerprint(tensor) for name, tensor in net.state_dict().items()},
        "normalize": net.normalize,
        "view": EvalView(net.preprocessing).identity,
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def check_images(net: SiameseNet) -> Tensor:
    """Return two images ``[2, C, H, W]`` that are the same on every machine."""
    preprocessing = net.preprocessing
    shape = (2, preprocessing.channels, *preprocessing.size)
    places = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    # The lengths of the waves do not depend on the width: the images have structure at all scales.
    waves = torch.sin(places * 0.61803) + torch.sin(places * 0.0137 + 1)
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    return waves.reshape(shape).float().to(device)


def check_embeddings(net: SiameseNet) -> Tensor:
    """Return a network's embeddings ``[2, E]`` of the test images, one image at a time.

    More would need more memory than the network may have left.
    """
    return torch.cat([net.embed(image) for image in check_images(net).split(1)])


def difference(a: Tensor, b: Tensor) -> float:
    """Return the relative difference of two tensors; infinity if their shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


OTHER_DEVICE = 10.0
"""The factor on the tolerance if the networks may run on devices of different kinds."""


def tolerance(module: nn.Module) -> float:
    """Return the relative difference up to which two outputs of a network count as the same."""
    dtype = dtype_of(module)
    return _FLOAT32 if dtype is None else _TOLERANCE.get(dtype, _FLOAT32)
