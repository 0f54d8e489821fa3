from __future__ import annotations

import pytest
import torch

from siamkit.errors import ConfigError
from siamkit.model.device import resolve_device


@pytest.mark.parametrize("available", [True, False])
def test_an_unknown_device_is_answered_with_those_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, available: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: available)
    allowed = "auto, cpu, cuda, mps" if available else "auto, cpu"
    with pytest.raises(ConfigError, match=f"got 'warp', allowed: {allowed}$"):
        resolve_device("warp")
