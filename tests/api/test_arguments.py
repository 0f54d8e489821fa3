"""Wrong arguments of every public function: an error of siamkit, never a raw one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import siamkit
from siamkit import api
from siamkit.errors import CheckpointError, ConfigError, DataError, SiamkitError
from siamkit.interfaces import FreezePlan, Stage

WRONG: dict[str, Any] = {
    "None": None, "a number": 3, "NaN": float("nan"), "a module": nn.Linear(2, 2),
    "an empty list": [], "a list": [3], "an empty mapping": {}, "an empty text": "",
    "a NUL character": "a\0b", "a path": Path("no/such"), "a class": nn.Linear,
    "an object": object(), "bytes": b"x", "a long text": "x" * 5000, "a tensor": torch.zeros(2, 2),
}  # fmt: skip
# Switches, whose truth counts, what only the model hub reads, and functions that are called back.
NOT_TRIED = {
    "progress", "verify", "force", "parameters", "measure", "private", "token", "revision",
    "create_pr", "message", "watch", "begun",
}  # fmt: skip
LONG = (
    "prune",
    "compare",
    "find_lr",
    "export",
    "build_index",
    "create_model",
    "evaluate",
    "resume",
    "load_embedder",
)
FUNCTIONS = [
    name
    for name in siamkit.__all__
    if inspect.isfunction(getattr(siamkit, name))
    and not name.startswith("list_")
    and name != "hookimpl"
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, values_of: Callable[..., Any]) -> Path:
    folder: Path = tmp_path_factory.mktemp("arguments") / "run"
    siamkit.fit(values_of(folder, train={"epochs": 1}))
    return folder


@pytest.fixture(scope="module")
def right(run: Path, image_folder: Path, values_of: Callable[..., Any]) -> dict[str, Any]:
    """Right arguments, by name."""
    (run.parent / "pairs.csv").write_text("a,b\n")
    one = image_folder / "class0"
    net = siamkit.create_model("timm:test_resnet", pretrained=False, image_size=32)
    return {
        "run_dir": run, "run": run, "net": net, "backbone": "timm:test_resnet", "data": one,
        "images": one, "gallery": one, "queries": one, "pairs": run.parent / "pairs.csv",
        "path": one, "name": "mine", "build": lambda *_: None, "repo_id": "a/b", "kind": "exact",
        "policy": "stages", "output": "new.npy", "folder": "new", "index": one,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        # Some of the wrong values are right for some arguments; then the long work is done.
        pytest.param(name, marks=[pytest.mark.slow] if name in LONG else [])
        for name in FUNCTIONS
    ],
)
def test_wrong_arguments_are_errors_of_siamkit(
    name: str, right: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    function = getattr(siamkit, name)
    parameters = inspect.signature(function).parameters
    given = {
        key: right[key]
        for key, about in parameters.items()
        if about.default is about.empty and key in right
    }
    given |= {
        "fit": {"data": [(np.zeros((8, 8, 3), np.uint8), "a")]},
        "inspect": {"backbone": "timm:test_resnet", "image_size": 32},
        "create_model": {"pretrained": False, "image_size": 32},
        "evaluate": {"run": right["run"]},
        "compare": {
            "data": [
                (np.full((8, 8, 3), 25 * label + i, np.uint8), str(label))
                for label in range(8)
                for i in range(4)
            ],
            "backbone": {"name": "timm:test_resnet", "pretrained": False},
            "image_size": 32,
            "epochs": 0,
            "policies": ["freeze-all"],
            "folds": 2,
            "seeds": 1,
            "head": "identity",
        },
    }.get(name, {})
    for key, about in parameters.items():
        if about.kind is about.VAR_KEYWORD or key in NOT_TRIED:
            continue
        for label, value in WRONG.items():
            if key == "output":
                given = {**given, key: tmp_path / f"{label}.npy"}
            try:
                function(**{**given, key: value})
            except SiamkitError:
                continue  # as it should be; some values are right for some arguments
            except Exception as error:
                pytest.fail(f"{name}({key}={label}) raised {type(error).__name__}: {error}")


def test_wrong_images_are_errors_of_siamkit(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    embedder = siamkit.load_embedder(run, device="cpu", kernel="eager")
    stages = embedder.net.stages()
    pictures = {"an empty image": [np.zeros((0, 4, 3))], "pairs": [(np.zeros((4, 4, 3)), "a")]}
    calls: dict[str, Callable[[Any], Any]] = {
        "embed": embedder.embed,
        "stream": lambda value: list(embedder.stream(value)),
        "verify": lambda value: embedder.verify(value, value),
        "search": partial(embedder.search, run / "pictures"),
        "evaluate on": partial(siamkit.evaluate, embedder),
        "evaluate embeddings": lambda v: siamkit.evaluate(embeddings=v, labels=[1, 2]),
        "evaluate labels": lambda v: siamkit.evaluate(embeddings=torch.eye(2), labels=v),
        "Embedder": siamkit.Embedder,
        "Embedder.from_pretrained": siamkit.Embedder.from_pretrained,
        "save_pretrained": embedder.net.save_pretrained,
        "FreezePlan.of": partial(FreezePlan.of, stages),
        "load_config": api.load_config,
        "open_run": api.open_run,
        "embed to a file": lambda v: api.embed(run, v, tmp_path / f"{id(v)}.npy"),
        "search a file": lambda v: api.search(v, run),
        "a split": lambda v: siamkit.fit(data={"train": v}),
        "a section": lambda v: siamkit.fit(data="no/such", train=v),
        "a head": lambda v: siamkit.fit(data="no/such", head=v),
    }
    for name, call in calls.items():
        for label, value in (WRONG | pictures).items():
            try:
                call(value)
            except SiamkitError:
                continue
            except Exception as error:
                pytest.fail(f"{name} of {label} raised {type(error).__name__}: {error}")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda run: siamkit.resume(None), ConfigError, "run_dir: must be the path of a run's dir"),
        (
            lambda run: siamkit.resume(run, backbone="resnet18"), ConfigError,
            "resume: backbone: is a name.*got 'resnet18'.*leave backbone out",
        ),
        (
            lambda run: siamkit.resume(run, bakbone=nn.Linear(1, 1)), ConfigError,
            "bakbone: no such argument.*did you mean 'backbone'",
        ),
        (
            lambda run: siamkit.resume(run, epochs=3), ConfigError,
            "epochs: cannot be changed when a run goes on.*starts a new run",
        ),
        (
            lambda run: siamkit.evaluate(run, bakbone=nn.Linear(1, 1)), ConfigError,
            "bakbone: no such argument",
        ),
        (
            lambda run: siamkit.evaluate(nn.Linear(1, 1)), ConfigError,
            r"run: is a network.*siamkit.Embedder\(NET\)",
        ),
        (
            lambda run: siamkit.evaluate(siamkit.load_embedder(run), run, backbone=nn.ReLU()),
            ConfigError, "backbone: cannot be used with an embedder",
        ),
        (
            lambda run: siamkit.evaluate(
                siamkit.load_embedder(run), run, which="last", device="cpu"
            ),
            ConfigError, "which, device: cannot be used with an embedder",
        ),
        (
            lambda run: siamkit.evaluate(embeddings=torch.eye(2), labels=[1, 2], root=run),
            ConfigError, "root: cannot be used with embeddings",
        ),
        (
            lambda run: siamkit.evaluate(run, root=run), ConfigError,
            "root: cannot be used with the run's own data",
        ),
        (
            lambda run: siamkit.evaluate(run, [(torch.zeros(3, 8, 8), 1)], root=run), ConfigError,
            "root: cannot be used with images that are given in Python",
        ),
        (
            lambda run: siamkit.evaluate(run, labels=[1]), ConfigError,
            "labels: cannot be used with a run or an embedder",
        ),
        (
            lambda run: siamkit.calibrate(run, root=run), ConfigError,
            "root: cannot be used with the run's own data",
        ),
        (
            lambda run: siamkit.inspect(run, freeze="full", image_size=64), ConfigError,
            r"is the directory of a run, so it cannot be combined with freeze, image_size; "
            r"siamkit\.inspect\('.*config\.yaml', \.\.\.\) takes them",
        ),
        (lambda run: siamkit.evaluate(run, data=[]), DataError, "data: there are no images"),
        (
            lambda run: siamkit.evaluate(embeddings=torch.eye(2), labels=["a", None]), DataError,
            "labels item 1: a label must be a name or a number",
        ),
        (
            lambda run: siamkit.from_pretrained(run), ConfigError,
            r"is a run, not a saved network; siamkit.load_model\('",
        ),
        (
            lambda run: siamkit.from_pretrained(nn.Linear(1, 1)), ConfigError,
            "folder: must be the path of a saved network, or hf-hub:ORG/NAME, got 'Linear'",
        ),
        (
            lambda run: siamkit.build_index(run, [(run, "a")], run / "new-index"), DataError,
            "images item 0: must be a file, got 'tuple'",
        ),
        (
            lambda run: siamkit.check_data([(run, "a")]), ConfigError,
            "data: must be the path of a folder or a table of images, got 'list'",
        ),
        (
            lambda run: siamkit.phases(nn.Linear(1, 1)), ConfigError,
            r"net: is of a wrong type.*create_model\(MODULE\)",
        ),
        (
            lambda run: siamkit.create_model(None),  # type: ignore[arg-type]
            ConfigError, "backbone: is missing, allowed: a name, or a torch.nn.Module",
        ),
        (
            lambda run: siamkit.create_policy(siamkit.create_policy("stages"), last=99),
            ConfigError, "policy: a policy has its options already, got 'last'",
        ),
        (
            lambda run: siamkit.create_policy(lambda stages, progress: None, last=99),  # type: ignore
            ConfigError, "policy: a function takes no options, got 'last'",
        ),
        (
            lambda run: FreezePlan.of([Stage("layer4", ())], "layer4"), ConfigError,
            r"train: must be names.*got 'layer4'; write \['layer4'\]",
        ),
        (
            lambda run: siamkit.load_embedder(run, device=3.5), ConfigError,  # type: ignore
            "train.device: this machine has no such device, got 3.5",
        ),
        (
            lambda run: siamkit.load_model(run.parent), CheckpointError, "is not a run directory",
        ),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named_with_the_right_one(
    call: Callable[[Path], Any], error: type[SiamkitError], message: str, run: Path
) -> None:
    with pytest.raises(error, match=message):
        call(run)


@pytest.mark.parametrize("epochs", [0, -2, "3", 1.5, True, None])
def test_phases_need_a_whole_number_of_epochs(epochs: Any) -> None:
    stages = [Stage("layer", ("layer.weight",))]
    with pytest.raises(ConfigError, match=r"epochs: must be a whole number, got .*1 or more"):
        siamkit.phases(stages, "full", epochs)
    assert len(siamkit.phases(stages, "full", np.int64(2))) == 1  # type: ignore[arg-type]


def test_a_place_that_is_no_run_is_not_offered_to_resume(run: Path, image_folder: Path) -> None:
    file = run / "config.yaml"
    for place, offered in ((image_folder, False), (file, False), (run, True)):
        with pytest.raises(ConfigError, match="choose another run_dir") as caught:
            siamkit.fit(data=image_folder, backbone={"name": "timm:test_resnet",
                        "pretrained": False}, image_size=32, run_dir=place)  # fmt: skip
        assert ("siamkit.resume(" in str(caught.value)) is offered


def test_one_class_is_said_to_show_nothing() -> None:
    found = siamkit.evaluate(embeddings=torch.randn(6, 4), labels=["a"] * 6)
    assert any("all images are of one class" in notice for notice in found.notices)
    numbers = siamkit.evaluate(embeddings=torch.randn(6, 4), labels=[1, 1.0, "1", 2, 2, 2.0])
    assert numbers["classes"] == 2


def test_one_shot_iterables_give_all_their_items(
    run: Path, image_folder: Path, tmp_path: Path, values_of: Callable[..., Any]
) -> None:
    files = sorted((image_folder / "class0").glob("*.png"))
    api.embed(run, iter(files), tmp_path / "e.npy")
    assert len(np.load(tmp_path / "e.npy")) == len(files)
    assert siamkit.build_index(run, iter(files), tmp_path / "i")["images"] == len(files)
    found = api.search(tmp_path / "i", iter(files), 1)
    assert [q["neighbours"][0]["path"] for q in found["queries"]] == [str(f) for f in files]

    embedder = siamkit.load_embedder(run)
    assert embedder.search(iter(files), siamkit.load_index(tmp_path / "i"), 1).scores.shape == (
        6,
        1,
    )
    assert sum(len(part.paths) for part in embedder.stream(iter(files))) == len(files)
    assert embedder.embed(map(str, files)).shape[0] == len(files)
    pairs = [(file, file.parent.name) for file in image_folder.glob("*/*.png")]
    assert siamkit.evaluate(embedder, iter(pairs))["images"] == len(pairs)
    vectors = np.eye(6)[[0, 0, 1, 1, 2, 2]]
    assert siamkit.evaluate(embeddings=vectors, labels=iter("aabbcc"))["classes"] == 3
    with pytest.raises(DataError, match=r"labels item 2: .*got '\{\}'"):
        siamkit.evaluate(embeddings=vectors, labels=iter([*"aa", {}, *"bcc"]))

    net = siamkit.create_model("timm:test_resnet", pretrained=False, image_size=32)
    expected = siamkit.phases(net, "stages", 4)
    assert siamkit.phases(iter(net.stages()), "stages", 4) == expected
    seen: list[str] = []
    values = values_of(tmp_path / "run", train={"epochs": 1})
    del values["data"]
    siamkit.fit(
        {**values, "data": {"image_size": 32, "workers": 0}}, data=iter(pairs),
        listeners=iter([lambda event: seen.append(event.name)]),
    )  # fmt: skip
    assert seen[0] == "run_start" and seen[-1] == "run_end"


def test_stages_of_an_iterator_are_controlled_and_cut() -> None:
    from siamkit.engine import cut
    from siamkit.freezing import FreezeController

    net = siamkit.create_model("timm:test_resnet", pretrained=False, image_size=32)
    controller = FreezeController(net, iter(net.stages()))
    plan = siamkit.phases(net, "freeze-all", 1)[0].plan
    controller.apply(plan)
    assert cut(net, iter(net.stages()), plan, torch.randn(3, 3, 32, 32)).cut is not None
