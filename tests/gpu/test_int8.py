from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from siamkit import api
from siamkit.errors import ConfigError


def test_an_int8_prefix_is_refused_before_anything_is_written(values: Any, cuda: Any) -> None:
    given = values(engine={"prefix": "int8"}, freeze={"name": "freeze-all"})
    with pytest.raises(ConfigError, match=r"engine\.prefix: .*runs on a CPU only.*on cuda"):
        api.fit(given)
    assert not Path(given["run_dir"]).exists()


def test_onnxruntime_is_refused_as_a_kernel(values: Any, cuda: Any) -> None:
    given = values(engine={"prefix": "onnxruntime"}, freeze={"name": "freeze-all"})
    with pytest.raises(ConfigError, match="runs on a CPU only, but the network is on cuda"):
        api.fit(given)
