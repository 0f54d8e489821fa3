"""The end of a run: its threshold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from siamkit.errors import CheckpointError, DataError
from siamkit.training import finish


class Fitted:
    def __init__(self, target: str) -> None:
        self.target = target

    def to_json(self) -> dict[str, Any]:
        return {"target": self.target}


@pytest.fixture
def ending(tmp_path: Path) -> tuple[Any, list[str]]:
    """A trainer at its end, and the notices."""
    config = SimpleNamespace(calibration=None, data=SimpleNamespace(path="here"))
    trainer = SimpleNamespace(
        run_dir=SimpleNamespace(calibration=tmp_path / "calibration.json"),
        setup=SimpleNamespace(config=config),
    )
    return trainer, []


def threshold(ending: tuple[Any, list[str]]) -> dict[str, Any] | None:
    trainer, told = ending
    any_one: Any = None
    return finish.calibrated(
        trainer, any_one, any_one, lambda name, data: told.append(f"{name}: {data['text']}")
    )


def refuse(*_: Any) -> None:
    raise CheckpointError("it belongs to another network")


def test_a_threshold_of_the_network_stays(
    ending: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "calibration_of", lambda *_: Fitted("chosen by the user"))
    ending[0].run_dir.calibration.touch()
    assert threshold(ending) == {"target": "chosen by the user"} and ending[1] == []
    assert ending[0].run_dir.calibration.exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_threshold_of_another_network_is_fitted_again_and_told_if_there_was_one(
    ending: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    file = ending[0].run_dir.calibration
    if there:
        file.touch()

    def fit(*_: Any) -> Fitted:
        assert not file.exists()
        return Fitted("new")

    monkeypatch.setattr(finish, "calibration_of", refuse)
    monkeypatch.setattr(finish, "calibrate_run", fit)
    assert threshold(ending) == {"target": "new"}
    told = "notice: the threshold is fitted again: it belongs to another network"
    assert ending[1] == ([told] if there else [])


def test_images_without_pairs_give_no_threshold(
    ending: tuple[Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise DataError("no class has two images")

    monkeypatch.setattr(finish, "calibration_of", refuse)
    monkeypatch.setattr(finish, "calibrate_run", fail)
    assert threshold(ending) is None
    assert ending[1] == ["notice: no threshold was fitted: no class has two images"]


def test_a_lost_network_of_the_best_epoch_is_told_with_what_can_be_used(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(
        run_dir=SimpleNamespace(checkpoints=tmp_path), state=SimpleNamespace(best_checkpoint="gone")
    )
    with pytest.raises(CheckpointError, match=r"the best epoch's network is lost: .*last epoch"):
        finish.best_network(trainer)
