"""What one round of pruning measures and may remove, counted by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from siamkit.batches import Batch
from siamkit.compress import shrink
from siamkit.compress.shrink import require_reach
from siamkit.errors import ConfigError
from siamkit.interfaces import Pairs

from .test_choose import COSTS, GROUPS

LEAST = 1000 - 100 * (1 - 2 / 16) - 400 * (1 - 2 / 16 * 3 / 24) - 300 * (1 - 3 / 24)
"""An eighth of the channels stays: 2 of 16, and 3 of 24."""


@pytest.mark.parametrize("part", ["all", "trainable", "frozen"])
def test_a_target_within_reach_is_accepted_and_one_beyond_is_not(part: Any) -> None:
    require_reach(list(GROUPS), COSTS, LEAST, part)
    with pytest.raises(ConfigError) as caught:
        require_reach(list(GROUPS), COSTS, LEAST - 0.25, part)
    error = caught.value
    where = "" if part == "all" else f" of the part '{part}'"
    assert error.what == (
        f"the channels{where} that can be removed do not make up that many operations"
    )
    assert (error.got, error.allowed) == ("0.74 of the operations of this round", "at most 0.74")
    assert error.hint == (None if part == "all" else "part='all' prunes the whole network")


def test_the_share_that_can_be_removed_is_rounded_down() -> None:
    with pytest.raises(ConfigError, match=r"got '1\.00 of .* allowed: at most 0\.74"):
        require_reach(list(GROUPS), COSTS, 4.0, "all")
    # Without the first group, 400 * 21 / 24 + 300 * 21 / 24 = 612.5 operations.
    with pytest.raises(ConfigError, match=r"got '0\.80 of .* allowed: at most 0\.61"):
        require_reach([GROUPS[1]], COSTS, 200.0, "all")


class Stored:
    """A source of images that writes down which batches were asked for, and that it was closed."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.closed = 0

    def batches(self, cut: Sequence[Sequence[int]]) -> Iterator[Batch]:
        self.asked = [list(images) for images in cut]
        for images in cut:
            numbers = torch.tensor(images)
            yield Batch(torch.zeros(len(images), 1), numbers, numbers)

    def close(self) -> None:
        self.closed += 1


class Set:
    """A set of images with a stored source."""

    def __init__(self, count: int) -> None:
        self.source, self.images, self.count = Stored(), range(count), count

    def __len__(self) -> int:
        return self.count


def setup_of(second_view: bool = False, **train: Any) -> Any:
    train = {"pass_size": 4, "images_per_class": 2, "batch_size": 32, **train}

    def copied(update: dict[str, Any]) -> Any:
        return SimpleNamespace(**{**train, **update})

    config = SimpleNamespace(train=SimpleNamespace(**train, model_copy=copied))
    return SimpleNamespace(
        config=config, device=torch.device("cpu"), loss=SimpleNamespace(second_view=second_view)
    )


@pytest.mark.parametrize(
    ("train", "size"),
    [({}, 4), ({"pass_size": 8}, 8), ({"pass_size": 1}, 4), ({"pass_size": 64}, 32),
     ({"pass_size": 2, "images_per_class": 4}, 8)],
)  # fmt: skip
def test_a_loss_is_of_one_forward_pass_with_two_classes(
    monkeypatch: pytest.MonkeyPatch, train: dict[str, int], size: int
) -> None:
    asked: list[Any] = []

    def steps(train: Any, images: Any, epoch: int) -> Any:
        asked.append((train.batch_size, train.micro_batch, epoch))
        return []

    monkeypatch.setattr(shrink, "epoch_steps", steps)
    sets: Any = {"train": Set(9)}
    assert list(shrink._losses(setup_of(**train), sets, nn.Identity())) == []
    assert asked == [(size, None, 0)] and sets["train"].source.closed == 1


@pytest.mark.parametrize("second", [False, True])
def test_the_losses_are_of_about_a_thousand_images(
    monkeypatch: pytest.MonkeyPatch, second: bool
) -> None:
    """Of batches of 512 images, two; of 500, three, since two are too few."""
    for size, count in ((512, 2), (500, 3), (1024, 1), (1023, 2)):
        part = SimpleNamespace(images=list(range(size)), tuples=None)
        monkeypatch.setattr(shrink, "epoch_steps", lambda *_, part=part, epoch: [[part]] * 5)
        monkeypatch.setattr(shrink, "_loss", lambda setup, batch, part, _: len(batch.inputs))
        sets: Any = {"train": Set(9), "second": Set(9)}
        found = list(shrink._losses(setup_of(second), sets, nn.Identity()))
        assert found == [size * (1 + second)] * count
        assert [s.source.closed for s in sets.values()] == [1, int(second)]


@pytest.mark.parametrize(
    ("count", "batch", "sizes"), [(5, 2, [2, 2, 1]), (130, 100, [64, 64, 2]), (0, 8, [])]
)
def test_images_without_views_come_in_batches_of_up_to_64(
    count: int, batch: int, sizes: list[int]
) -> None:
    images: Any = Set(count)
    found = list(shrink._plain(setup_of(batch_size=batch), images))
    assert [len(part) for part in found] == sizes and images.source.closed == 1
    assert [i for part in images.source.asked for i in part] == list(range(count))


def test_a_part_has_the_groups_whose_layers_are_all_of_it() -> None:
    """Group a is written by one and read by two, group b is written by two, read by three."""

    def parts(*trains: str) -> list[list[bool]]:
        return [[shrink._is_in(part, g, frozenset(trains)) for g in GROUPS]
                for part in shrink.PARTS]  # fmt: skip

    assert shrink.PARTS == ("all", "trainable", "frozen")
    assert parts() == [[True, True], [False, False], [True, True]]
    assert parts("three") == [[True, True], [False, False], [True, False]]
    assert parts("two", "three") == [[True, True], [False, True], [False, False]]
    assert parts("one", "two", "three") == [[True, True], [True, True], [False, False]]


@pytest.mark.parametrize("value", [0.0, 1e-9])
def test_without_a_gradient_the_outputs_decide(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    net = SimpleNamespace(head=SimpleNamespace(reads=None))
    setup = SimpleNamespace(net=net, loss=nn.Identity())
    monkeypatch.setattr(shrink, "_losses", lambda *_: ())
    monkeypatch.setattr(shrink, "taylor", lambda *_: {"a": [0.0, value]})
    monkeypatch.setattr(shrink, "activation", lambda *_: {"a": [1.0, 2.0]})
    found = shrink.importance_of(setup, {}, SimpleNamespace(backbone=None), {})  # type: ignore[arg-type]
    expected = ("taylor", {"a": [0.0, value]}) if value else ("activation", {"a": [1.0, 2.0]})
    assert found == expected


def test_a_memory_keeps_nothing_of_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.zeros(3))
            self.place = 0

    memory = Memory()

    def measured(*_: Any) -> dict[str, list[float]]:
        memory.kept += 1
        memory.place += 1
        return {}

    monkeypatch.setattr(shrink, "taylor", measured)
    monkeypatch.setattr(shrink, "activation", lambda *_: {})
    net = SimpleNamespace(head=SimpleNamespace(reads=None))
    monkeypatch.setattr(shrink, "_losses", lambda *_: ())
    setup = SimpleNamespace(net=net, loss=memory)
    shrink.importance_of(setup, {}, SimpleNamespace(backbone=None), {})  # type: ignore[arg-type]
    assert memory.kept.tolist() == [0, 0, 0] and memory.place == 0


@pytest.mark.parametrize("tuples", [None, Pairs(*(torch.tensor([i]) for i in (0, 1, 1)))])
def test_a_loss_gets_labels_or_the_tuples_that_the_data_lists(tuples: Pairs | None) -> None:
    given: list[tuple[Any, ...]] = []

    def loss(*args: Any) -> torch.Tensor:
        given.append(args)
        return args[0].sum()

    setup: Any = SimpleNamespace(
        net=SimpleNamespace(project=lambda features: 2 * features, comparing=nullcontext),
        loss=loss, device=torch.device("cpu"),
    )  # fmt: skip
    part: Any = SimpleNamespace(images=[0, 1], tuples=tuples)
    batch = Batch(torch.ones(2, 3), torch.tensor([4, 5]), torch.tensor([0, 1]))
    assert shrink._loss(setup, batch, part, nn.Identity()).item() == 12
    [(_, labels, *rest)] = given
    if tuples is None:
        assert labels is batch.labels and rest == []
    else:
        assert labels is None and rest[0].first.tolist() == [0]
