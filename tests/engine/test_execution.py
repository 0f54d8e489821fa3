"""Whatever the engine decides, a run learns the same."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import siamkit
from siamkit import api
from siamkit.runs import checkpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut

RunValues = Callable[..., dict[str, Any]]

POLICIES = {
    "freeze-all": {"name": "freeze-all"},
    "unfreeze-blocks": {"name": "unfreeze-blocks", "n": 1},
    "stages": {"name": "stages", "warmup": 1},
    "gradual-unfreeze": {"name": "gradual-unfreeze", "every": 1},
}


class Run:
    """A finished run: its events, losses and last tensors."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.events: list[siamkit.Event] = []
        self.result = api.fit(values, listeners=[self.events.append])
        root = Path(self.result["run_dir"]) / "checkpoints"
        folder = root / (checkpoint.pointed_to(root, checkpoint.LATEST) or "")
        self.tensors = checkpoint.load(folder).model

    def of(self, name: str) -> list[dict[str, Any]]:
        return [dict(event.data) for event in self.events if event.name == name]

    @property
    def losses(self) -> list[float]:
        return [data["loss"] for data in self.of("step")]


@pytest.fixture
def train(run_values: RunValues, tmp_path: Path) -> Callable[..., Run]:
    def train(run: str = "run", **sections: Any) -> Run:
        engine = {"dtype": "float32", **sections.pop("engine", {})}
        values = run_values(engine=engine, run_dir=str(tmp_path / run), **sections)
        return Run(values)

    return train


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["triplet", "multi-similarity"])
@pytest.mark.parametrize("policy", POLICIES)
def test_cached_and_live_runs_learn_the_same(
    train: Callable[..., Run], policy: str, loss: str
) -> None:
    common: dict[str, Any] = {
        "freeze": POLICIES[policy],
        "loss": {"name": loss},
        "data": {"views": 2},
        # Each phase, and views that come a second time.
        "train": {"epochs": {"stages": 4, "gradual-unfreeze": 5}.get(policy, 3)},
    }
    live = train("live", engine={"cache": "off", "prefix": "eager"}, **common)
    cached = train("cached", engine={"cache": "always"}, **common)
    modes = {data["mode"] for data in cached.of("engine")}
    if policy == "gradual-unfreeze":
        found = [data["boundary"] for data in cached.of("engine")]
        assert found == ["features", "layer3", "layer2", "layer1", "stem"]
    assert modes == {"cached"} and {data["mode"] for data in live.of("engine")} <= {"live", "whole"}
    assert cached.losses == pytest.approx(live.losses, rel=1e-4, abs=1e-5)
    for name, value in live.result["metrics"]["last"].items():
        assert cached.result["metrics"]["last"][name] == pytest.approx(value, abs=1e-6)
    for name, tensor in live.tensors.items():
        torch.testing.assert_close(cached.tensors[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_second_run_computes_no_prefix(train: Callable[..., Run]) -> None:
    common = {"freeze": POLICIES["freeze-all"], "engine": {"cache": "always"}, "data": {"views": 2}}
    first, second = train("first", **common), train("second", **common)
    assert first.of("engine")[0]["missing"] > 0 and first.of("fill")
    assert second.of("engine")[0]["missing"] == 0 and not second.of("fill")
    assert second.of("engine")[0]["kernel"] is None
    assert second.losses == first.losses


@pytest.mark.slow
def test_the_same_images_in_another_folder_hit_the_cache(
    train: Callable[..., Run], image_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(image_folder, tmp_path / "elsewhere")
    common = {"freeze": POLICIES["freeze-all"], "engine": {"cache": "always"}}
    train("first", data={"views": 2}, **common)
    second = train("second", data={"views": 2, "path": str(tmp_path / "elsewhere")}, **common)
    assert second.of("engine")[0]["missing"] == 0


@pytest.fixture
def fixed(image_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """Four classes that train and four held out whatever the seed, and the same weights."""
    for kind in range(8):
        part = "train" if kind < 4 else "val"
        name = f"class{kind}"
        shutil.copytree(image_folder / name, tmp_path / "parts" / part / name)
    net = api.create_model("timm:test_resnet", pretrained=False)
    torch.save(net.backbone.model.state_dict(), tmp_path / "weights.pth")
    weights = {"pretrained": None, "weights": str(tmp_path / "weights.pth")}
    return {
        "backbone": {"name": "timm:test_resnet", **weights},
        "data": {"path": str(tmp_path / "parts"), "views": 2},
        "freeze": POLICIES["freeze-all"],
        "engine": {"cache": "always"},
        "train": {"epochs": 1},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "change", "missing"),
    [
        ("train", {"seed": 1}, 24),  # training views alone
        ("data", {"augment": {"hue": 0.2}}, 24),
        ("data", {"image_size": 40}, 72),
        ("backbone", {"drop_path_rate": 0.1}, 72),
        ("loss", {"name": "contrastive"}, 0),
        ("head", {"name": "linear"}, 0),
    ],
    ids=["view seed", "transform", "size", "structure", "loss", "head"],
)
def test_what_changes_the_rows_misses_the_cache(
    train: Callable[..., Run], fixed: dict[str, Any], section: str, change: Any, missing: int
) -> None:
    (first,) = train("first", **fixed).of("engine")
    assert first["missing"] == first["rows"] == 72
    changed = change if "name" in change else {**fixed[section], **change}
    (second,) = train("second", **{**fixed, section: changed}).of("engine")
    assert (second["missing"], second["rows"]) == (missing, 72)


@pytest.mark.slow
def test_a_changed_image_misses_the_cache(
    train: Callable[..., Run], image_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(image_folder, folder)
    common = {"freeze": POLICIES["freeze-all"], "engine": {"cache": "always"}}
    data = {"path": str(folder), "augment": "none"}
    train("first", data=data, **common)
    (folder / "class0" / "0.png").write_bytes(
        (folder / "class1" / "0.png").read_bytes()[:-1] + b"x"
    )
    assert train("second", data=data, **common).of("engine")[0]["missing"] == 1


@pytest.mark.slow
def test_a_changed_weight_misses_the_cache(
    train: Callable[..., Run], run_values: RunValues, tmp_path: Path
) -> None:
    net = api.create_model("timm:test_resnet", pretrained=False)
    weights = {n: t.clone() for n, t in net.backbone.model.state_dict().items()}
    file = tmp_path / "weights.pth"
    torch.save(weights, file)
    common: dict[str, Any] = {"freeze": POLICIES["freeze-all"], "engine": {"cache": "always"}}
    backbone = {"name": "timm:test_resnet", "pretrained": None, "weights": str(file)}
    train("first", backbone=backbone, **common)
    next(iter(weights.values())).view(-1)[0] += 1e-3
    torch.save(weights, file)
    decided = train("second", backbone=backbone, **common).of("engine")[0]
    assert decided["missing"] == decided["rows"]


@pytest.mark.slow
def test_half_precision_maps_change_little(train: Callable[..., Run]) -> None:
    common: dict[str, Any] = {"freeze": POLICIES["unfreeze-blocks"], "data": {"views": 2}}
    exact = train("exact", engine={"cache": "always"}, **common)
    half = train("half", engine={"cache": "always", "dtype": "float16"}, **common)
    assert half.losses == pytest.approx(exact.losses, rel=0.02, abs=0.01)
    assert half.losses != exact.losses


@pytest.mark.slow
def test_a_small_run_makes_no_files_outside_its_folder(
    train: Callable[..., Run], tmp_path: Path
) -> None:
    run = train()
    assert {data["mode"] for data in run.of("engine")} == {"live"}
    assert not (tmp_path / "cache").exists()


def test_a_network_that_cannot_be_cut_runs_whole(train: Callable[..., Run]) -> None:
    run = train(freeze={"name": "bitfit"}, engine={"cache": "always"}, train={"epochs": 1})
    (decided,) = run.of("engine")
    assert decided["mode"] == "whole" and decided["reason"]


class Branching(torch.nn.Module):
    """A network that does something else for batches with bright images, or of some size."""

    def __init__(self, on: str) -> None:
        super().__init__()
        self.on = on
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU())
        self.top = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, 2), torch.nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.top(self.body(images))
        if self.on == "content" and images.mean() > 0.3:
            maps = maps * 2 + 1
        if self.on == "size" and len(images) > 6:
            maps = maps.tanh()
        return maps.mean((2, 3))


def fit_object(
    net: torch.nn.Module, folder: Path, run_dir: Path, epochs: int = 2, **engine: Any
) -> dict[str, Any]:
    events: list[siamkit.Event] = []
    result = siamkit.fit(
        backbone=net, engine=engine, data=str(folder), run_dir=run_dir, listeners=[events.append],
        freeze={"name": "unfreeze-blocks", "n": 1}, image_size=32, batch_size=8, device="cpu",
        epochs=epochs,
        train={"images_per_class": 2},
    )  # fmt: skip
    losses = [event.data["loss"] for event in events if event.name == "step"]
    decisions = [event.data for event in events if event.name == "engine"]
    notices = [event.data["text"] for event in events if event.name == "notice"]
    return {**result, "losses": losses, "decisions": decisions, "notices": notices}


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["off", "always"])
@pytest.mark.parametrize("on", ["content", "size"])
def test_a_forward_that_branches_trains_as_the_whole_network_does(
    image_folder: Path, tmp_path: Path, on: str, cache: str
) -> None:
    net = Branching(on)
    whole = fit_object(net, image_folder, tmp_path / "whole", cut="off")
    assert whole["decisions"][0]["mode"] == "whole"
    cut = fit_object(net, image_folder, tmp_path / "cut", cache=cache, dtype="float32")
    assert cut["losses"] == pytest.approx(whole["losses"], rel=1e-4)
    assert cut["metrics"]["last"] == pytest.approx(whole["metrics"]["last"])


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["off", "always"])
def test_a_cut_that_differs_on_a_training_batch_is_said_and_not_used(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    net = Branching("nothing")
    whole = fit_object(net, image_folder, tmp_path / "whole", 5, cut="off")
    asked: list[int] = []

    def differs(self: Any, images: torch.Tensor, *_: Any) -> str | None:
        asked.append(len(images))
        return None if len(asked) == 1 else "the output is off by 0.5"

    monkeypatch.setattr("siamkit.engine.cutting.Cut.differs", differs)
    cut = fit_object(net, image_folder, tmp_path / "cut", 5, cache=cache, dtype="float32")
    assert asked == [8, 8], "at the start of the phase, and four epochs later"
    assert [decision["mode"] for decision in cut["decisions"]][1:] == ["whole"]
    assert any("off by 0.5; this phase runs the whole" in text for text in cut["notices"])
    assert cut["losses"] == pytest.approx(whole["losses"], rel=1e-4)


def fading(stages: Any, progress: siamkit.Progress) -> siamkit.FreezePlan:
    """Train the last stage, at a rate that falls from epoch to epoch."""
    last = stages[-2].name
    return siamkit.FreezePlan.of(stages, [last], lr_mult={last: 1 / (1 + progress.epoch)})


def test_epochs_with_other_rates_alone_share_one_decision_and_resume_to_the_same(
    image_folder: Path, tmp_path: Path
) -> None:
    net = Branching("nothing")

    class Killed(BaseException):
        pass

    def kill(event: siamkit.Event) -> None:
        if event.name == "epoch_end" and event.data["epoch"] == 2:
            raise Killed

    def fit(run: str, *listeners: Any, **engine: Any) -> list[siamkit.Event]:
        events: list[siamkit.Event] = []
        siamkit.fit(
            backbone=net, data=str(image_folder), freeze=fading, image_size=32,
            batch_size=8, device="cpu", epochs=4, train={"images_per_class": 2}, report=False,
            run_dir=tmp_path / run, listeners=[events.append, *listeners],
            engine={"dtype": "float32", **engine},
        )  # fmt: skip
        return events

    def of(events: list[siamkit.Event], name: str, key: str) -> list[Any]:
        return [event.data[key] for event in events if event.name == name]

    cached, whole = fit("cached", cache="always"), fit("whole", cut="off")
    assert of(cached, "engine", "mode") == ["cached"] and of(whole, "engine", "mode") == ["whole"]
    assert of(cached, "phase_start", "epoch") == [1, 2, 3, 4]
    assert of(cached, "step", "loss") == pytest.approx(of(whole, "step", "loss"), rel=1e-4)
    with pytest.raises(Killed):
        fit("killed", kill, cache="always")
    events: list[siamkit.Event] = []
    siamkit.resume(tmp_path / "killed", backbone=net, freeze=fading, listeners=[events.append])
    rest = of(events, "step", "loss")
    assert rest == of(cached, "step", "loss")[-len(rest) :] and len(rest) > 0


class Later(Branching):
    """A network that needs more of its frozen part from its third training step on."""

    def __init__(self, on: str) -> None:
        super().__init__(on)
        self.first, self.body = self.body, torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3))
        self.norm = torch.nn.BatchNorm2d(8)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        early = self.first(images)
        mask = early.mean((2, 3)) > early.mean()
        maps = self.norm(self.top(self.body(early)))
        self.steps += self.training
        later = int(self.steps) > 2
        if later and self.on == "nan":
            maps = maps * early.nan_to_num(0.0).mean()
        if later and self.on == "infinite":  # the blank is lost on the way to a loss without value
            maps = maps + torch.tensor(early.detach().as_subclass(torch.Tensor).mean())
        if not self.training and len(images) > 3 and self.on == "evaluation":
            maps = maps * early.mean()
        features = maps.mean((2, 3))
        return features * mask if later and self.on == "mask" else features


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize("on", ["nan", "mask", "infinite", "evaluation"])
@pytest.mark.parametrize("cache", ["off", "always"])
def test_a_forward_that_needs_more_later_trains_as_the_whole_network_does(
    image_folder: Path, tmp_path: Path, on: str, cache: str
) -> None:
    net = Later(on)
    whole = fit_object(net, image_folder, tmp_path / "whole", cut="off")
    cut = fit_object(net, image_folder, tmp_path / "cut", cache=cache, dtype="float32")
    assert cut["losses"] == pytest.approx(whole["losses"], rel=1e-4)
    assert cut["metrics"]["last"] == pytest.approx(whole["metrics"]["last"])
    assert [decision["mode"] for decision in cut["decisions"]][-1:] == ["whole"]
    a, b = (
        siamkit.load_model(run["run_dir"], "last", backbone=net).state_dict()
        for run in (whole, cut)
    )
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-3, atol=1e-5, msg=name)


class Viewing(Branching):
    """A network whose forward fails on images in channels_last."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        early = self.body(images)
        return self.top(early.view(len(early), -1).view(early.shape)).mean((2, 3))


class Rolling(Branching):
    """A network that draws numbers with Python's and numpy's generators."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scale = random.random() + np.random.rand() if self.training else 1.0
        return self.top(self.body(images)).mean((2, 3)) * scale + scale


@pytest.mark.parametrize("kind", [Viewing, Rolling])
def test_networks_of_other_kinds_train_as_the_whole_network_does(
    image_folder: Path, tmp_path: Path, kind: type[Branching]
) -> None:
    net = kind("nothing")
    whole = fit_object(net, image_folder, tmp_path / "whole", cut="off")
    random.seed(7), np.random.seed(7)
    cut = fit_object(net, image_folder, tmp_path / "cut", cache="always", dtype="float32")
    assert cut["losses"] == pytest.approx(whole["losses"], rel=1e-4)
    assert [decision["mode"] for decision in cut["decisions"]] == ["cached"]


def test_the_prefix_is_timed_precisely_unless_the_cache_holds_all_rows(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamkit.engine import deciding

    asked: list[bool] = []
    right = deciding.time_parts

    def watched(*given: Any, precisely: bool) -> Any:
        asked.append(precisely)
        return right(*given, precisely=precisely)

    monkeypatch.setattr(deciding, "time_parts", watched)
    net = Branching("nothing")
    for number, cache in enumerate(("off", "always", "always")):
        fit_object(net, image_folder, tmp_path / f"run-{number}", 1, cache=cache)
    assert asked == [True, True, False]


def test_a_suffix_that_fails_in_mid_epoch_gives_way_to_the_whole_network(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamkit.engine.suffix import Suffix
    from siamkit.training.step import Stepper

    net = Branching("nothing")
    whole = fit_object(net, image_folder, tmp_path / "whole", cut="off")
    forward, step, steps = Suffix.forward, Stepper.__call__, [0]

    def counted(self: Stepper, work: Any, seed: int = 0) -> float:
        steps[0] += 1
        return step(self, work, seed)

    def failing(self: Suffix, activations: torch.Tensor) -> Any:
        if steps[0] == 2:
            raise RuntimeError("shape '[7]' is invalid")
        return forward(self, activations)

    monkeypatch.setattr(Stepper, "__call__", counted)
    monkeypatch.setattr(Suffix, "forward", failing)
    cut = fit_object(net, image_folder, tmp_path / "cut", cache="always", dtype="float32")
    assert cut["losses"] == pytest.approx(whole["losses"], rel=1e-4)
    assert any("shape '[7]' is invalid" in text for text in cut["notices"])


def held_out(run_dir: str) -> HeldOut:
    kept = HeldOut.load(RunDir(Path(run_dir)), "val")
    assert kept is not None
    return kept


@pytest.mark.parametrize(
    ("policy", "dtype"), [("freeze-all", "float16"), ("stages", "float32"), ("stages", "float16")]
)
def test_held_out_embeddings_come_from_the_cache_and_are_the_networks(
    train: Callable[..., Run], policy: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamkit.training.scoring import Scorer

    asked: list[bool] = []
    right = Scorer.from_rows

    def from_rows(self: Scorer, name: str, execution: Any) -> Any:
        embeddings = right(self, name, execution)
        asked.append(embeddings is not None)
        return embeddings

    monkeypatch.setattr(Scorer, "from_rows", from_rows)
    engine = {"cache": "always", "dtype": dtype}
    run = train(freeze=POLICIES[policy], engine=engine, train={"epochs": 2})
    # Features are kept in float32 whatever the setting. Maps in float16 are rounded, so the whole
    # network computes the embeddings again.
    assert asked == [policy == "freeze-all" or dtype == "float32"]
    kept = held_out(run.result["run_dir"])
    embedder = siamkit.load_embedder(run.result["run_dir"])
    expected = embedder.embed([sample.path for sample in kept.images.samples])
    np.testing.assert_allclose(kept.embeddings, expected, rtol=1e-4, atol=1e-5)


def test_a_best_epoch_of_another_frozen_part_is_embedded_whole(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the last phase are those of a backbone that trained after the best epoch."""
    from siamkit.training import fit

    embeddings: list[Any] = []
    right = fit.embed_held_out

    def embed(trainer: Any, best: Any) -> Any:
        found = trainer.scorer.from_rows("val", trainer.execution)
        with torch.no_grad():
            next(trainer.setup.net.backbone.parameters()).add_(1e-3)
        embeddings.extend([found, trainer.scorer.from_rows("val", trainer.execution)])
        return right(trainer, best)

    monkeypatch.setattr(fit, "embed_held_out", embed)
    train(freeze=POLICIES["freeze-all"], engine={"cache": "always"}, train={"epochs": 1})
    assert embeddings[0] is not None and embeddings[1] is None


@pytest.mark.slow
def test_a_run_that_died_before_its_end_embeds_the_same_on_resuming(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamkit.training import fit

    common: dict[str, Any] = {
        "freeze": POLICIES["freeze-all"],
        "engine": {"cache": "always", "prefix": "folded"},
    }
    whole = train("whole", **common)
    right = fit.embed_held_out
    monkeypatch.setattr(fit, "embed_held_out", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train("died", **common)
    monkeypatch.setattr(fit, "embed_held_out", right)
    folder = Path(whole.result["run_dir"]).parent / "died"
    result = api.resume(folder)
    again, never_died = (held_out(r["run_dir"]).embeddings for r in (result, whole.result))
    assert np.array_equal(again, never_died)
    assert result["metrics"] == whole.result["metrics"]
