"""``siamkit.fit`` with objects in the place of names."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn

import siamkit
from siamkit.errors import CheckpointError, ConfigError, DataError, PluginError
from siamkit.interfaces import FreezePlan, Progress

SETTINGS: dict[str, Any] = {
    "image_size": 32, "epochs": 2, "batch_size": 8, "train": {"images_per_class": 2},
    "engine": {"cache": "off"}, "device": "cpu",
}  # fmt: skip


class Plain(nn.Module):
    """A network as anybody writes it: no preprocessing, no stages, no width."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.top(self.body(images)).mean((2, 3))
        return features


def alternate(stages: Any, progress: Progress) -> FreezePlan:
    """Train the head, and the last stage in every other epoch."""
    body = [stage.name for stage in stages if stage.name != "head"]
    return FreezePlan.of(stages, body[-1:] if progress.epoch % 2 else [])


def pictures(count: int = 6, classes: int = 8) -> list[tuple[Image.Image, str]]:
    """Draw coloured noise, a colour per class."""
    rng = np.random.default_rng(0)
    drawn = []
    for kind in range(classes):
        colour = rng.integers(0, 255, 3)
        for _ in range(count):
            pixels = np.clip(colour + rng.integers(-30, 30, (36, 36, 3)), 0, 255)
            drawn.append((Image.fromarray(pixels.astype(np.uint8)), f"class{kind}"))
    return drawn


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def fit(**given: Any) -> dict[str, Any]:
        defaults = {"data": pictures(), "backbone": Plain(), "freeze": "full"}
        values = {**SETTINGS, "run_dir": str(tmp_path / "run"), **defaults, **given}
        return siamkit.fit(**values)

    return fit


def config_of(result: dict[str, Any]) -> str:
    return (Path(result["run_dir"]) / "config.yaml").read_text()


def test_a_module_a_function_a_loss_object_and_pictures_make_a_run(
    fit: Callable[..., dict[str, Any]],
) -> None:
    net = Plain()
    before = deepcopy(net.state_dict())
    result = fit(
        backbone=net,
        freeze=alternate,
        loss=(losses.TripletMarginLoss(margin=0.1), miners.MultiSimilarityMiner()),
        optimizer=torch.optim.RMSprop,
        scheduler=lambda progress: 1 - progress.fraction / 2,
        head=nn.Sequential(nn.Linear(16, 8), nn.Tanh()),
        lr=1e-3,
    )
    assert result["epochs"] == 2 and len(result["phases"]) == 2
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items()), (
        "a copy trains"
    )
    config = config_of(result)
    for text in ("test_objects.Plain", "test_objects.alternate", "TripletMarginLoss", "RMSprop"):
        assert text in config
    assert "lr: 0.001" in config


@pytest.mark.parametrize(
    "criterion",
    [
        losses.SelfSupervisedLoss(losses.NTXentLoss()),
        losses.VICRegLoss(),
        losses.CrossBatchMemory(losses.ContrastiveLoss(), 16, memory_size=32),
        losses.ArcFaceLoss(4, 16),
        losses.MultipleLosses([losses.TripletMarginLoss(), losses.ContrastiveLoss()]),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_losses_of_pytorch_metric_learning_of_every_kind_train(
    fit: Callable[..., dict[str, Any]], criterion: nn.Module
) -> None:
    result = fit(loss=criterion, head="identity", epochs=1)
    assert result["history"][0]["train_loss"] > 0


def test_a_second_view_is_another_view_of_the_same_images(
    fit: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Watching(siamkit.Loss):
        second_view = True

        def forward(self, embeddings: Tensor, labels: Any, tuples: Any = None) -> Tensor:
            seen.append((embeddings.detach(), labels))
            return embeddings.square().mean()

    fit(loss=Watching(), epochs=1, train={"images_per_class": 2})
    embeddings, labels = seen[0]
    first, second = embeddings.chunk(2)
    assert len(embeddings) == 16 and torch.equal(labels[:8], labels[8:])
    assert not torch.allclose(first, second), "views differ"
    cached = len(seen)
    fit(loss=Watching(), epochs=1, run_dir=str(tmp_path / "cached"), freeze="freeze-all",
        engine={"cache": "always"})  # fmt: skip
    assert len(seen[cached][0]) == 16


@pytest.mark.slow
def test_a_run_with_objects_resumes_when_they_are_given_again(
    fit: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def listen(event: siamkit.Event) -> None:
        if event.name == "checkpoint" and event.data["epoch"] == 1:
            raise Stop

    net = Plain()
    whole = fit(backbone=net, freeze=alternate, run_dir=str(tmp_path / "whole"))
    with pytest.raises(Stop):
        fit(backbone=net, freeze=alternate, listeners=[listen])
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"Plain' was given as a Python object.*backbone="):
        siamkit.resume(run, freeze=alternate)
    with pytest.raises(CheckpointError, match="Plain has other source code"):
        siamkit.resume(run, backbone=Plain(9), freeze=alternate)
    with pytest.raises(CheckpointError, match="freeze: is not what the run was started with"):
        siamkit.resume(run, backbone=Plain(), freeze=lambda stages, progress: None)
    result = siamkit.resume(run, backbone=Plain(), freeze=alternate)
    assert result["history"] == whole["history"]


class Centred(siamkit.Loss):
    """Keeps a running mean where no checkpoint looks for tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(1)

    def forward(self, embeddings: Tensor, labels: Any, tuples: Any = None) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * embeddings.detach().mean(0)
        return (embeddings - self.mean).square().mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    "criterion",
    [
        Centred,
        lambda: losses.CrossBatchMemory(losses.ContrastiveLoss(), 16, memory_size=32),
    ],
    ids=["mean", "memory"],
)
def test_what_a_loss_keeps_in_plain_attributes_is_resumed(
    fit: Callable[..., dict[str, Any]], tmp_path: Path, criterion: Callable[[], nn.Module]
) -> None:
    class Stop(Exception):
        pass

    def listen(event: siamkit.Event) -> None:
        if event.name == "checkpoint" and event.data["epoch"] == 1:
            raise Stop

    given: dict[str, Any] = {"backbone": Plain(), "head": "identity", "epochs": 3}
    whole = fit(loss=criterion(), run_dir=str(tmp_path / "whole"), **given)
    with pytest.raises(Stop):
        fit(loss=criterion(), listeners=[listen], **given)
    result = siamkit.resume(tmp_path / "run", backbone=Plain(), loss=criterion())
    assert [one["train_loss"] for one in result["history"]] == [
        one["train_loss"] for one in whole["history"]
    ]


def test_a_run_refuses_objects_with_other_settings(
    fit: Callable[..., dict[str, Any]],
) -> None:
    def objects(margin: float = 0.1, mined: float = 0.2, rate: float = 0.5) -> dict[str, Any]:
        net = Plain()
        net.rate = rate  # type: ignore[assignment]
        loss = losses.TripletMarginLoss(margin=margin)
        miner = miners.TripletMarginMiner(margin=mined)
        return {"backbone": net, "loss": (loss, miner), "scheduler": lambda progress: rate}

    run = fit(**objects(), epochs=1)["run_dir"]
    for other in ({"margin": 0.9}, {"mined": 0.9}, {"rate": 0.9}):
        with pytest.raises(CheckpointError, match=r"has other source code, settings.*not compared"):
            siamkit.resume(run, **objects(**other))
    assert siamkit.resume(run, **objects())["epochs"] == 1


@pytest.mark.slow
def test_the_images_of_a_run_stay_with_it(
    fit: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    result = fit(
        backbone={"name": "timm:test_resnet", "pretrained": False}, freeze="freeze-all", epochs=1
    )
    moved = Path(result["run_dir"]).rename(tmp_path / "moved")
    assert "path: data/images.csv" in (moved / "config.yaml").read_text()
    assert siamkit.evaluate(moved)["retrieval"]["recall@1"] >= 0


@pytest.mark.slow
def test_a_run_on_a_folder_a_table_and_pictures_is_a_run_like_any_other(
    fit: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    for number, (image, name) in enumerate(pictures()):
        for folder in ("photos", "scans"):
            path = tmp_path / folder / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.rotate(180 * (folder == "scans")).save(path)
    files = sorted((tmp_path / "scans").glob("class[01]/*.png"))
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in files]
    (tmp_path / "test.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    (tmp_path / "photos/class0/notes.txt").write_text("")

    class Stop(Exception):
        pass

    events: list[siamkit.Event] = []

    def listen(event: siamkit.Event) -> None:
        events.append(event)
        if event.name == "checkpoint" and event.data["epoch"] == 1:
            raise Stop

    data = {
        "train": str(tmp_path / "photos"), "val": pictures(2), "test": tmp_path / "test.csv",
    }  # fmt: skip
    net = {"name": "timm:test_resnet", "pretrained": False}
    with pytest.raises(Stop):
        fit(data=data, backbone=net, listeners=[listen])
    start = next(event.data for event in events if event.name == "run_start")
    assert start["data"]["train_images"] == 48 and start["data"]["val_images"] == 16
    assert any("data['train']: ignored 1 file" in notice for notice in start["notices"])
    run = tmp_path / "run"
    result = siamkit.resume(run)
    assert len(result.history) == 2 and "test" in result.metrics
    assert len(list((run / "data").glob("*.png"))) == 16, "files are not copied"
    evaluated = siamkit.evaluate(run)
    assert evaluated["images"] == 12
    other = siamkit.evaluate(run, {"test": tmp_path / "test.csv", "val": pictures(2)})
    assert other.retrieval == evaluated.retrieval
    assert siamkit.write_report(run)["part"] == "test"


def test_inspection_counts_the_classes_of_data_in_memory() -> None:
    loss = losses.ArcFaceLoss(4, 16)  # of 8 classes, half are held out
    given = {"backbone": Plain(), "head": "identity", "freeze": "full", "image_size": 32}
    found = siamkit.inspect(data=pictures(), loss=loss, **given)
    assert found["loss"]["parameters"] == 64
    with pytest.raises(
        ConfigError, match="loss: ArcFaceLoss is made for another number of classes"
    ):
        siamkit.inspect(data=pictures(classes=10), loss=loss, **given)


def test_a_refused_run_leaves_no_folder(fit: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fit(data=pictures(classes=1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backbone": Plain}, r"backbone: is of a wrong type.*pass an instance: Plain\(\.\.\.\)"),
        ({"loss": 3}, r"loss: is of a wrong type, got.*int.*pytorch-metric-learning"),
        ({"freeze": FreezePlan}, r"freeze: is of a wrong type"),
        ({"margin": 0.2}, r"margin: no such argument; write loss=.*'margin': 0.2"),
        ({"patience": 3}, r"patience: no such argument; write train={'patience': 3}"),
        ({"learning_rate": 3}, r"learning_rate: no such argument; "),
        ({"epochs": -1}, r"epochs: must be greater than or equal to 0, got -1"),
        ({"train": {"patience": 0}}, r"train={'patience': \.\.\.}: must be greater"),
        ({"data": {}}, r"data: a mapping of data must have splits as keys, got 'nothing'"),
        ({"data": []}, r"data: there are no images"),
        ({"data": ""}, r"data: must be the path of a file or a folder, but is empty"),
        ({"run_dir": ""}, r"run_dir: must be the path of the run's directory, but is empty"),
        ({"config": {"run_dir": ""}, "run_dir": None}, r"run_dir: must not be empty"),
        ({"listeners": print}, r"listeners: must be a list of functions.*listeners=\[print\]"),
        ({"listeners": [3]}, r"listeners: must be a list of functions of a siamkit.Event"),
        ({"config": 3}, r"config: is not a configuration, got <class 'int'>"),
        ({"config": nn.Linear(1, 1)}, r"config: is not a configuration.*passed by their names"),
        ({"head": nn.Linear(3, 4)}, r"the forward failed on features \[2, 16\]"),
    ],
)
def test_a_wrong_argument_points_to_the_right_one(
    fit: Callable[..., dict[str, Any]], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(siamkit.SiamkitError, match=message):
        fit(**given)


def test_an_optimizer_that_loses_a_group_is_refused(fit: Callable[..., dict[str, Any]]) -> None:
    def some(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups[1:], lr=0.1)

    with pytest.raises(siamkit.SiamkitError, match="does not own every parameter"):
        fit(optimizer=some)


class Late(Plain):
    """Registers a buffer in its forward, in some modes."""

    training_only = True

    def forward(self, images: Tensor) -> Tensor:
        wanted = self.training if self.training_only else SWITCH["on"]()
        if wanted and not hasattr(self, "seen"):
            self.register_buffer("seen", torch.zeros(1))
        return super().forward(images)


SWITCH: dict[str, Callable[[], bool]] = {"on": lambda: False}
"""A global object, which no hash of a module covers."""


def test_tensors_that_come_or_go_are_an_error_with_their_names(
    fit: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PluginError, match=r"backbone\.model\.seen: appeared or .*__init__"):
        fit(backbone=Late())
    assert siamkit.load_model(tmp_path / "run", "last", backbone=Late())
    net = Late()
    net.training_only = False
    run = fit(backbone=net, run_dir=str(tmp_path / "other"), epochs=1)["run_dir"]
    monkeypatch.setitem(SWITCH, "on", lambda: True)
    missing = (
        r"the tensors do not fit the module \(1 missing: backbone\.model\.seen\); the network mu"
    )
    calls = (
        lambda: siamkit.load_model(run, "last", backbone=net),
        lambda: siamkit.save_pretrained(run, tmp_path / "saved", backbone=net),
        lambda: siamkit.resume(run, backbone=net),
    )
    for call in calls:
        with pytest.raises(CheckpointError, match=missing):
            call()


def test_a_second_view_is_asked_for_with_true_or_false(fit: Callable[..., dict[str, Any]]) -> None:
    class Asking(siamkit.Loss):
        second_view = "yes"  # type: ignore[assignment]

        def forward(self, embeddings: Tensor, labels: Any, tuples: Any = None) -> Tensor:
            return embeddings.square().mean()

    with pytest.raises(PluginError, match=r"Asking' given in Python: second_view must be True"):
        fit(loss=Asking())


def test_an_object_takes_no_options_and_has_no_version(
    fit: Callable[..., dict[str, Any]],
) -> None:
    for call in (
        lambda: siamkit.create_model(Plain(), width=3),
        lambda: fit(config={"backbone": {"width": 3}}),
    ):
        with pytest.raises(
            ConfigError, match=r"backbone\.width: takes no options: backbone '.*Plain"
        ):
            call()
    events: list[siamkit.Event] = []
    fit(listeners=[events.append], epochs=1)
    (start,) = (event.data for event in events if event.name == "run_start")
    assert sorted(start["versions"]) == ["platform", "python", "siamkit", "timm", "torch"]


class WithPart(nn.Module):
    """A plain network with another part at its end."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.body, self.part = Plain(), part

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.part(self.body(images))
        return features


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchscript_and_lazy_layers_train_and_quantised_ones_are_refused(
    fit: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    for number, part in enumerate((torch.jit.script(nn.Linear(16, 8)), nn.LazyLinear(8))):
        net, run = WithPart(part), str(tmp_path / str(number))
        saved = []
        for epochs in (1, 3):
            result = fit(backbone=net, epochs=epochs, run_dir=f"{run}-{epochs}", lr=0.1)
            model = siamkit.load_model(result.run_dir, "last", backbone=net)
            saved.append(model.state_dict()["backbone.model.part.bias"])
        assert not torch.equal(*saved), "it trains"
    part = torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Linear(16, 8)), {nn.Linear}, dtype=torch.qint8
    )
    with pytest.raises(
        ConfigError, match=r"part\.0\..*no dense tensor.*quantise the network after"
    ):
        fit(backbone=WithPart(part))
    assert not (tmp_path / "run").exists()


def test_a_run_shows_its_log_where_that_is_wanted(
    fit: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fit(epochs=1, run_dir=str(tmp_path / "silent"))
    assert capsys.readouterr().err == "", "stderr is no terminal here"
    fit(epochs=1, progress=True)
    assert "epoch 1/1  loss" in capsys.readouterr().err


class Tied(Plain):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.end = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
        self.end[2].weight = self.end[0].weight

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.end(super().forward(images))
        return features


class Repeated(Plain):
    """One layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(16, 16)
        self.end = nn.ModuleList([layer, layer])

    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        for layer in self.end:
            features = layer(features).relu()
        return features


class Viewing(Plain):
    """A buffer that is a part of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.end = nn.Linear(16, 16)
        self.register_buffer("table", torch.arange(64.0).reshape(4, 16) / 64)
        self.register_buffer("row", self.table[1])

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.end(super().forward(images) + self.row)
        return features


def memory_of(net: nn.Module) -> list[list[str]]:
    """The names of the tensors that share memory."""
    shared: dict[int, list[str]] = {}
    for name, tensor in net.state_dict().items():
        shared.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    return [names for names in shared.values() if len(names) > 1]


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["full", "freeze-all"])
@pytest.mark.parametrize("kind", [Tied, Repeated, Viewing])
def test_tensors_that_share_memory_are_saved_and_restored(
    fit: Callable[..., dict[str, Any]], tmp_path: Path, kind: type[nn.Module], freeze: str
) -> None:
    class Stop(Exception):
        pass

    def listen(event: siamkit.Event) -> None:
        if event.name == "checkpoint" and event.data["epoch"] == 1:
            raise Stop

    net = kind()
    given = {"backbone": net, "freeze": freeze}
    whole = fit(**given, run_dir=str(tmp_path / "whole"))
    with pytest.raises(Stop):
        fit(**given, listeners=[listen])
    run = tmp_path / "run"
    assert siamkit.resume(run, backbone=net)["history"] == whole["history"]

    loaded = siamkit.load_model(run, backbone=net)
    expected = siamkit.load_model(tmp_path / "whole", backbone=net)
    siamkit.save_pretrained(run, tmp_path / "saved", backbone=net)
    again = siamkit.from_pretrained(tmp_path / "saved", backbone=net)
    for other in (loaded, again):
        assert memory_of(other.backbone.model) == memory_of(net) != []
        for name, tensor in other.state_dict().items():
            assert torch.equal(tensor, expected.state_dict()[name]), name
    trained = any(
        not torch.equal(tensor, net.state_dict()[name])
        for name, tensor in loaded.backbone.model.state_dict().items()
    )
    assert trained == (freeze == "full")
