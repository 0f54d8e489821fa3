from __future__ import annotations

import pytest
import torch

from siamkit import api
from siamkit.embedding import Embedder


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    torch.manual_seed(0)
    net = api.create_model("timm:test_resnet", pretrained=False, head="linear", image_size=32)
    return Embedder(net, kernel="eager", workers=0)


@pytest.fixture(scope="module")
def other() -> Embedder:
    """Another network."""
    torch.manual_seed(1)
    net = api.create_model("timm:test_resnet", pretrained=False, head="linear", image_size=32)
    return Embedder(net, kernel="eager", workers=0)
