"""Evaluation and calibration in Python: what is refused, and what is said about the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import siamkit
from siamkit.errors import ConfigError


@pytest.mark.parametrize("seed", [-1, 0.5])
def test_a_seed_that_no_generator_takes_is_refused(tmp_path: Path, seed: Any) -> None:
    known = {"embeddings": torch.eye(4), "labels": [0, 0, 1, 1]}
    with pytest.raises(ConfigError, match=r"seed: must be a whole number.*0 or more"):
        siamkit.evaluate(**known, seed=seed)
    with pytest.raises(ConfigError, match=r"seed: must be a whole number.*0 or more"):
        siamkit.calibrate(tmp_path, seed=seed)


def test_what_would_be_ignored_is_refused(tmp_path: Path) -> None:
    known = {"embeddings": torch.eye(4), "labels": [0, 0, 1, 1]}
    with pytest.raises(ConfigError, match="labels: can only be given with embeddings"):
        siamkit.evaluate(tmp_path, labels=[0, 1])
    with pytest.raises(ConfigError, match="need labels, and no run, data or objects"):
        siamkit.evaluate(**known, backbone=nn.Identity())
    for call in (siamkit.evaluate, siamkit.calibrate):
        with pytest.raises(ConfigError, match="root: can only be given with a table"):
            call(tmp_path, root=tmp_path)
    with pytest.raises(ConfigError, match="root: can only be given with a table"):
        siamkit.evaluate(**known, root=tmp_path)
    with pytest.raises(ConfigError, match="root: can only be given with a table"):
        siamkit.evaluate(tmp_path, [("a.png", "a")], root=tmp_path)


def test_a_root_without_data_is_refused_by_its_flag(tmp_path: Path, capsys: Any) -> None:
    from siamkit.cli.app import main

    for verb in ("evaluate", "calibrate"):
        assert main([verb, str(tmp_path), "--root", str(tmp_path)]) == 2
        assert "--root: can only be given with a table" in capsys.readouterr().err
