"""Runs with several forward passes per step: equal to runs with one, and able to shrink."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import siamkit
from siamkit import api
from siamkit.errors import ConfigError, Interrupted, ResourceError
from siamkit.interfaces import Event, FreezePlan
from siamkit.runs import checkpoint
from siamkit.training import fitting, range_test, splitting

Values = Callable[..., dict[str, Any]]


def tensors_of(run: str) -> dict[str, Tensor]:
    saved = checkpoint.latest_intact(Path(run) / "checkpoints")[0]
    return {**saved.model, **{f"optimizer.{n}": t for n, t in saved.optimizer.items()}}


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["off", "always"])
@pytest.mark.parametrize("policy", ["freeze-all", "full"])
def test_micro_batches_give_the_run_of_the_whole_batch(
    run_values: Values, tmp_path: Path, policy: str, cache: str
) -> None:
    runs = []
    for micro in (None, 3):
        values = run_values(
            freeze={"name": policy}, engine={"cache": cache, "dtype": "float32"},
            train={"micro_batch": micro, "epochs": 2}, optimizer={"name": "sgd", "lr": 0.01},
        )  # fmt: skip
        values["run_dir"] = str(tmp_path / f"run-{micro}")
        runs.append(api.fit(values))
    whole, parts = (tensors_of(run["run_dir"]) for run in runs)
    assert runs[1]["history"][-1]["train_loss"] == pytest.approx(
        runs[0]["history"][-1]["train_loss"], rel=1e-4
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"head": {"name": "bnneck"}, "freeze": {"name": "freeze-all"}},
        {"freeze": {"name": "full", "norm": "train"}},
    ],
    ids=["head", "backbone"],
)
def test_batch_statistics_are_refused_before_anything_is_written(
    run_values: Values, values: dict[str, Any]
) -> None:
    given = run_values(**values, train={"micro_batch": 4, "epochs": 1})
    with pytest.raises(ConfigError, match="would use the statistics of a micro-batch") as caught:
        api.fit(given)
    assert not Path(given["run_dir"]).exists()
    assert "accumulation" in str(caught.value) and "micro_batch" in str(caught.value)
    naive = {"micro_batch": 8, "epochs": 1, "accumulation": "naive"}
    api.fit({**given, "train": {**given["train"], **naive}})


def test_a_later_phase_with_batch_statistics_is_refused_at_its_start(run_values: Values) -> None:
    """Nobody knows the phases of a metric-driven policy before the training."""
    values = run_values(
        freeze={
            "name": "gradual-unfreeze", "trigger": "plateau", "patience": 1, "min_delta": 2.0,
            "norm": "train",
        },
        engine={"cut": "off"}, train={"epochs": 4, "micro_batch": 4},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"in epoch 3: the norm layer .* of a micro-batch"):
        api.fit(values)


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["auto", "off"])
def test_a_phase_with_batch_statistics_takes_the_whole_batch(
    run_values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    monkeypatch.setattr(fitting, "free_bytes", lambda device: 1)  # a machine that is full
    told: list[str] = []
    runs = []
    for micro in (None, "auto"):
        values = run_values(
            freeze={"name": "stages", "warmup": 1, "norm": "train"}, engine={"cut": cut},
            train={"epochs": 2, "micro_batch": micro}, optimizer={"name": "sgd", "lr": 0.01},
        )  # fmt: skip
        values["run_dir"] = str(tmp_path / f"run-{micro}")
        runs.append(api.fit(values, listeners=[lambda e: told.append(e.data.get("text", ""))]))
    assert any("a forward pass has at most 1 image" in text for text in told)
    assert any("smaller passes would change the result" in text for text in told)
    for one, other in zip(*(run["history"] for run in runs), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)


class Small(nn.Module):
    """A network for which a forward pass of more than ``limit`` images has no memory.

    ``when`` is the number of training passes after which the memory shrinks.
    """

    def __init__(self, limit: int, when: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4)
        self.limit, self.left = limit, when

    def forward(self, images: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and len(images) > self.limit:
            if not self.left:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
            self.left -= 1
        return self.conv(images).mean((2, 3))


MACHINE = SimpleNamespace(images=1000)  # how many images fit into its memory


def fit(
    data: Path,
    run: Path,
    backbone: nn.Module,
    listen: Callable[[Event], None] = lambda event: None,
    **values: Any,
) -> tuple[Any, list[Event]]:
    events: list[Event] = []
    result = siamkit.fit(
        data=data, backbone=backbone, freeze="full", epochs=2, batch_size=16, image_size=32,
        run_dir=run, engine={"cut": "off"}, optimizer={"name": "sgd", "lr": 0.01},
        listeners=[events.append, listen], **values,
    )  # fmt: skip
    return result, events


def make(limit: int, when: int = 0) -> Small:
    torch.manual_seed(0)
    return Small(limit, when)


@pytest.mark.slow
def test_out_of_memory_halves_the_passes_and_not_the_batch(
    image_folder: Path, tmp_path: Path
) -> None:
    whole, _ = fit(image_folder, tmp_path / "whole", make(1000))
    small, events = fit(image_folder, tmp_path / "small", make(5, when=1))
    told = [e.data["text"] for e in events if "out of memory" in e.data.get("text", "")]
    assert len(told) == 2, "16, then 8, then 4 images"
    assert "at most 4 images" in told[1] and "the same up to rounding" in told[1]
    for a, b in zip(small["history"], whole["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
    ours, theirs = (
        checkpoint.latest_intact(tmp_path / f"{run}/checkpoints")[0].state
        for run in ("small", "whole")
    )
    assert ours["largest_pass"] == 4
    assert ours["step"] == theirs["step"]


@pytest.mark.slow
def test_one_image_that_does_not_fit_ends_the_run(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"out of memory .*one image per forward pass"):
        fit(image_folder, tmp_path / "run", make(0))


class Own(Small):
    """A norm of its own making, over the images of a pass."""

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return features - features.mean(0)


class OwnHere(Own):
    """The same, with the machine's memory."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(0)

    def forward(self, images: Tensor) -> Tensor:
        self.limit, limit = MACHINE.images, self.limit
        try:
            return super().forward(images)
        finally:
            self.limit = limit


@pytest.mark.parametrize("micro", [1, 8])
def test_a_network_that_compares_the_images_of_a_pass_cannot_be_split(
    image_folder: Path, tmp_path: Path, micro: int
) -> None:
    with pytest.raises(ConfigError, match=r"in epoch 1: .* the other images of its forward pass"):
        fit(image_folder, tmp_path / "run", Own(1000), train={"micro_batch": micro})


def test_auto_takes_the_whole_batch_of_a_network_that_cannot_be_split(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "free_bytes", lambda device: 1)  # a machine that is full
    result, events = fit(image_folder, tmp_path / "run", Own(1000), train={"micro_batch": "auto"})
    (told,) = [e.data["text"] for e in events if "forward pass" in e.data.get("text", "")]
    assert "smaller passes would change the result: the embedding of an image depends" in told
    assert len(result["history"]) == 2


@pytest.mark.slow
def test_a_run_that_lacked_memory_and_cannot_be_split_goes_on_with_more_memory(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MACHINE, "images", 1000)
    fit(image_folder, tmp_path / "whole", OwnHere())

    def listen(event: Event) -> None:
        if event.name == "step" and event.data["step"] == 2:
            MACHINE.images = 8

    message = r"out of memory .*smaller passes would change the result: the embedding of an image"
    with pytest.raises(ResourceError, match=message):
        fit(image_folder, tmp_path / "run", OwnHere(), listen)
    MACHINE.images = 1000
    siamkit.resume(tmp_path / "run", backbone=OwnHere())
    ours, theirs = tensors_of(str(tmp_path / "run")), tensors_of(str(tmp_path / "whole"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


class Dropping(Small):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(images), 0.3, self.training)


def test_smaller_passes_draw_other_random_numbers_and_the_run_says_so(
    image_folder: Path, tmp_path: Path
) -> None:
    _, events = fit(image_folder, tmp_path / "run", Dropping(8))
    (told,) = [e.data["text"] for e in events if "out of memory" in e.data.get("text", "")]
    assert "the random numbers of dropout" in told


class TooLarge(siamkit.Loss):
    """A loss whose memory runs out after a few steps, whatever the size of the passes."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 3

    def forward(self, embeddings: Tensor, labels: Any, tuples: Any = None) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
        return embeddings.square().sum()


def test_a_loss_too_large_for_the_memory_ends_the_run_at_once(
    image_folder: Path, tmp_path: Path
) -> None:
    events: list[Event] = []
    with pytest.raises(ResourceError, match="which compares 16 embeddings at once"):
        fit(image_folder, tmp_path / "run", make(1000), events.append, loss=TooLarge())
    assert not any("from here on" in event.data.get("text", "") for event in events)


def test_batch_statistics_forbid_smaller_passes(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"smaller passes would change the result.*norm layer"):
        fit(image_folder, tmp_path / "run", make(5), head="bnneck")


class Normed(Small):
    """Has no memory for more than 8 images while it is frozen."""

    def __init__(self) -> None:
        super().__init__(8)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        trains = bool(self.norm.weight.requires_grad)
        if torch.is_grad_enabled() and not trains and len(images) > self.limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
        return self.conv(self.norm(images)).mean((2, 3))


def test_passes_that_became_smaller_become_whole_where_they_must(
    image_folder: Path, tmp_path: Path
) -> None:
    events: list[Event] = []
    siamkit.fit(
        data=image_folder, backbone=Normed(), epochs=2, batch_size=16, image_size=32,
        freeze={"name": "stages", "warmup": 1, "norm": "train"}, run_dir=tmp_path / "run",
        engine={"cut": "off"}, listeners=[events.append],
    )  # fmt: skip
    told = [e.data["text"] for e in events if "forward pass" in e.data.get("text", "")]
    assert "has at most 8 images" in told[0]
    assert told[1].startswith("a forward pass takes the whole batch again: ") and len(told) == 2
    assert checkpoint.latest_intact(tmp_path / "run/checkpoints")[0].state["largest_pass"] is None


@pytest.mark.slow
def test_a_resumed_run_keeps_its_smaller_passes(image_folder: Path, tmp_path: Path) -> None:
    """Bit-equal to the run that was not interrupted."""
    fit(image_folder, tmp_path / "whole", make(5))

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if event.name == "checkpoint" and event.data["epoch"] == 1:
            raise Stop

    def begin(run: Path) -> Any:
        return siamkit.fit(
            data=image_folder, backbone=make(5), freeze="full", epochs=2, batch_size=16,
            image_size=32, run_dir=run, engine={"cut": "off"},
            optimizer={"name": "sgd", "lr": 0.01}, listeners=[stop],
        )  # fmt: skip

    with pytest.raises(Stop):
        begin(tmp_path / "run")
    siamkit.resume(tmp_path / "run", backbone=make(5))
    whole, resumed = tensors_of(str(tmp_path / "whole")), tensors_of(str(tmp_path / "run"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_a_run_that_stopped_after_the_last_step_of_an_epoch_goes_on(
    image_folder: Path, tmp_path: Path
) -> None:
    """Bit-equal to the run that was not interrupted."""

    def stop(event: Event) -> None:
        if event.name == "step" and event.data["epoch_step"] == event.data["epoch_steps"]:
            os.kill(os.getpid(), signal.SIGTERM)

    split = {"micro_batch": 8}
    fit(image_folder, tmp_path / "whole", make(16), train=split)
    with pytest.raises(Interrupted):
        fit(image_folder, tmp_path / "run", make(16), stop, train=split)
    siamkit.resume(tmp_path / "run", backbone=make(16))
    whole, resumed = tensors_of(str(tmp_path / "whole")), tensors_of(str(tmp_path / "run"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


class Here(Small):
    """A network for which the machine's memory counts, which is no property of the network."""

    def __init__(self) -> None:
        super().__init__(0)

    def forward(self, images: Tensor) -> Tensor:
        self.limit, limit = MACHINE.images, self.limit
        try:
            return super().forward(images)
        finally:
            self.limit = limit


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["checkpoint", "step"])
def test_a_run_killed_after_it_took_smaller_passes_goes_on_with_them_on_a_larger_machine(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    class Stop(Exception):
        pass

    def run(folder: Path, end: bool) -> None:
        torch.manual_seed(0)
        monkeypatch.setattr(MACHINE, "images", 1000)
        shrunk: list[int] = []
        saved: list[int] = []

        def listen(event: Event) -> None:
            if event.name == "step" and event.data["step"] == 2:
                MACHINE.images = 5
            if "out of memory" in event.data.get("text", ""):
                shrunk.append(1)
            if len(shrunk) == 2 and event.name == "checkpoint":
                saved.append(1)
            if end and saved and event.name == stop:
                raise Stop

        siamkit.fit(
            data=image_folder, backbone=Here(), freeze="full", epochs=2, batch_size=16,
            image_size=32, run_dir=folder, engine={"cut": "off"},
            optimizer={"name": "sgd", "lr": 0.01}, listeners=[listen],
        )  # fmt: skip

    run(tmp_path / "whole", end=False)
    with pytest.raises(Stop):
        run(tmp_path / "run", end=True)
    MACHINE.images = 1000
    siamkit.resume(tmp_path / "run", backbone=Here())
    whole, resumed = tensors_of(str(tmp_path / "whole")), tensors_of(str(tmp_path / "run"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


PROGRAM = """
import resource, sys
import torch, timm, siamkit
from siamkit.training.epoch import EpochTrainer

train = EpochTrainer.train

def limited(self, *args):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + {room}, -1))
    try:
        return train(self, *args)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))

EpochTrainer.train = limited
torch.set_num_threads(1)
siamkit.fit(
    data="sample", backbone="timm:resnet18", freeze=dict(name="full"), epochs=1,
    batch_size=64, image_size=64, run_dir={run!r}, pretrained=False,
    engine=dict(cut="off"), listeners=[lambda e: print(e.data.get("text", ""))],
)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="no limit on memory")
def test_a_process_whose_memory_really_runs_out_goes_on(tmp_path: Path) -> None:
    program = textwrap.dedent(PROGRAM).format(room=300_000_000, run=str(tmp_path / "run"))
    program = program.replace("pretrained=False,", "")
    program = program.replace('backbone="timm:resnet18"',
                              'backbone=dict(name="timm:resnet18", pretrained=False)')  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "out of memory in epoch 1" in done.stdout
    assert "per forward pass: from here on" in done.stdout


def turns_norms_on(stages: Any, progress: Any) -> FreezePlan:
    """A policy whose second phase is not known before: it trains the statistics of norms."""
    names = [stage.name for stage in stages]
    return FreezePlan.of(stages, names, norm="train" if progress.history else "affine")


turns_norms_on.metric_driven = True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"grad_checkpointing": True}, "activations cannot be recomputed in epoch 2"),
        ({"micro_batch": 4}, "exact accumulation is not possible in epoch 2"),
    ],
)
def test_what_a_later_plan_forbids_is_refused_at_its_start(
    image_folder: Path, tmp_path: Path, train: dict[str, Any], message: str
) -> None:
    backbone = {"name": "timm:test_resnet", "pretrained": False}
    with pytest.raises(ConfigError, match=message):
        siamkit.fit(
            data=image_folder, backbone=backbone, freeze=turns_norms_on, epochs=2, batch_size=16,
            image_size=32, run_dir=tmp_path / "run", engine={"cut": "off"}, train=train,
        )  # fmt: skip


@pytest.mark.slow
def test_an_execution_is_tried_once(run_values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    real = splitting.compare
    monkeypatch.setattr(splitting, "compare", lambda *args: tried.append(1) or real(*args))
    api.fit(run_values(freeze={"name": "full"}, train={"epochs": 2}))
    assert not tried, "with one pass per step, nothing is tried"
    values = run_values(
        freeze={"name": "stages", "warmup": 2}, train={"epochs": 4, "micro_batch": 4},
    )  # fmt: skip
    api.fit({**values, "run_dir": values["run_dir"] + "2"})
    assert len(tried) == 2, "once for each phase"


@pytest.mark.slow
def test_a_rate_is_found_with_the_whole_batch_if_passes_cannot_be_smaller(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_test, "fitting_pass", lambda *_: fitting.Fit(4, 1, 1, 1))

    def find(micro: Any) -> Any:
        torch.manual_seed(0)
        return siamkit.find_lr(
            data=image_folder, backbone=Own(1000), freeze="full", batch_size=16, image_size=32,
            steps=20, engine={"cut": "off"}, train={"micro_batch": micro},
        )["losses"]  # fmt: skip

    assert find("auto") == find(None)
    with pytest.raises(ConfigError, match="the other images of its forward pass"):
        find(4)
