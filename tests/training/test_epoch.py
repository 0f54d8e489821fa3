"""The steps of an epoch, and the size of their forward passes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from siamkit.errors import ConfigError
from siamkit.training import epoch
from siamkit.training.epoch import EpochTrainer, _Unreached
from siamkit.training.fitting import Fit


class Fitting:
    """What :meth:`EpochTrainer._fit_memory` uses of a trainer."""

    def __init__(self, obstacle: str | None = None) -> None:
        self.setup, self.settings = None, SimpleNamespace(batch_size=32)
        self.obstacle = obstacle
        self.told: list[str] = []
        self.bounds: list[int | None] = []
        self._notice, self._bound = self.told.append, self.bounds.append

    def _splitting(self, execution: Any) -> Any:
        return SimpleNamespace(obstacle=self.obstacle)


NEEDS = "a step with all 32 images in a forward pass needs about 3.00 GB of memory, and 1.00 GB are"


@pytest.mark.parametrize(
    ("fit", "obstacle", "bounds", "told"),
    [
        (None, None, [], ["the memory of a step cannot be predicted for this network: forward "
         "passes become smaller if the memory runs out"]),
        (Fit(32, 10, 10, 20), None, [None], []),
        (Fit(8, 7 * 10**8, 3 * 10**9, 10**9), None, [None, 8],
         [f"{NEEDS} free: a forward pass has at most 8 images, which needs about 700 MB"]),
        (Fit(1, 10**9, 3 * 10**9, 10**9), None, [None, 1],
         [f"{NEEDS} free: a forward pass has at most 1 image, which needs about 1.00 GB, so the "
          "memory may run out"]),
        (Fit(8, 7 * 10**8, 3 * 10**9, 10**9), "a norm", [None],
         [f"{NEEDS} free; smaller passes would change the result: a norm"]),
    ],
)  # fmt: skip
def test_forward_passes_that_fit_the_memory_are_chosen_and_told(
    monkeypatch: pytest.MonkeyPatch,
    fit: Fit | None,
    obstacle: str | None,
    bounds: list[int | None],
    told: list[str],
) -> None:
    monkeypatch.setattr(epoch, "fitting_pass", lambda setup, execution: fit)
    trainer: Any = Fitting(obstacle)
    EpochTrainer._fit_memory(trainer, None)  # type: ignore[arg-type]
    assert (trainer.bounds, trainer.told) == (bounds, told)


def test_the_steps_of_an_epoch_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int | None]] = []

    def steps(settings: Any, images: Any, number: int, largest: int | None) -> list[list[str]]:
        made.append((number, largest))
        return [[f"epoch {number}"]]

    monkeypatch.setattr(epoch, "epoch_steps", steps)
    trainer: Any = object.__new__(EpochTrainer)
    trainer.settings, trainer.splits, trainer._made = None, SimpleNamespace(train=None), None
    trainer.state = SimpleNamespace(epoch=0, largest_pass=None)
    assert trainer.steps() == trainer.steps() == [["epoch 0"]]
    trainer.state.epoch = 1
    assert trainer.steps() == trainer.steps() == [["epoch 1"]]
    trainer._bound(None)
    trainer.steps()
    trainer._bound(4)
    trainer.steps()
    assert made == [(0, None), (1, None), (1, 4)]


@pytest.mark.parametrize(
    ("passes", "obstacle", "cuts", "outcome"),
    [
        (1, "a norm", True, "fine"), (2, None, True, "fine"), (2, "a norm", True, "refused"),
        (2, "a norm", False, "whole"),
    ],
)  # fmt: skip
def test_passes_that_would_change_the_result_are_refused_or_taken_whole(
    monkeypatch: pytest.MonkeyPatch, passes: int, obstacle: str | None, cuts: bool, outcome: str
) -> None:
    told: list[str] = []
    bounds: list[int | None] = []
    trainer: Any = object.__new__(EpochTrainer)
    trainer.settings, trainer.state = None, SimpleNamespace(epoch=2, epoch_step=0)
    trainer.steps = lambda: [
        [SimpleNamespace(passes=[[0]])],
        [SimpleNamespace(passes=[[0]] * passes)],
    ]
    trainer._splitting = lambda execution: SimpleNamespace(obstacle=obstacle)
    trainer._notice, trainer._bound = told.append, bounds.append
    monkeypatch.setattr(epoch, "cuts_batches", lambda settings: cuts)
    if outcome == "refused":
        with pytest.raises(ConfigError, match="not possible in epoch 3: a norm"):
            trainer._require_splitting(None)
        return
    trainer._require_splitting(None)
    whole = ["a forward pass takes the whole batch again: a norm"]
    assert (told, bounds) == ((whole, [None]) if outcome == "whole" else ([], []))


@pytest.mark.parametrize(("draws", "same"), [(False, "rounding"), (True, "each pass draws for")])
def test_passes_that_became_smaller_are_told_with_what_that_changes(
    monkeypatch: pytest.MonkeyPatch, draws: bool, same: str
) -> None:
    told: list[str] = []
    bounds: list[int | None] = []
    trainer: Any = object.__new__(EpochTrainer)
    trainer.setup, trainer.state = None, SimpleNamespace(epoch=1, epoch_step=2)
    trainer.steps = lambda: ["done", "done", "the step", "more"]
    trainer._splitting = lambda execution: SimpleNamespace(obstacle=None, draws=draws)
    trainer._notice, trainer._bound = told.append, bounds.append
    monkeypatch.setattr(epoch, "free_memory", lambda setup: None)
    monkeypatch.setattr(epoch, "largest_pass", lambda steps: 10 * len(steps))
    monkeypatch.setattr(epoch, "halved_pass", lambda setup, why, largest, where: largest // 2)
    trainer._shrink(None)
    (text,) = told
    assert bounds == [10] and same in text and text.startswith(
        "out of memory in epoch 2, step 3, with 20 images per forward pass: from here on, a "
        "forward pass has at most 10 images. The loss still compares the same images"
    )  # fmt: skip


def test_stages_without_a_gradient_are_told_once_for_each_phase_after_its_first_steps() -> None:
    missing: list[str] = []
    controller: Any = SimpleNamespace(plan="first", without_gradient=lambda: list(missing))
    unreached = _Unreached(controller)

    def steps(count: int, last: int = -1) -> list[str]:
        texts = [unreached.after(last=at == last) for at in range(count)]
        return [f"{at}: {text.partition(',')[0]}" for at, text in enumerate(texts) if text]

    missing[:] = ["a", "b"]
    assert steps(1) == []
    missing[:] = ["b", "c"]  # a part is skipped at random in some steps
    assert steps(9) == ["6: no gradient reached b in 8 steps"]
    controller.plan, missing[:] = "second", ["a"]
    assert steps(4, last=2) == ["2: no gradient reached a in 3 steps"]
    controller.plan, missing[:] = "third", []
    assert steps(10, last=5) == []
