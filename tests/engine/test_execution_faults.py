"""What goes wrong with the cache is told, and costs time at most."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import siamkit
from siamkit import api
from siamkit.config import yaml_text
from siamkit.data import rowkeys
from siamkit.engine import kernels, prefix_store
from siamkit.engine.cache.budget import list_stores
from siamkit.runs import checkpoint

RunValues = Callable[..., dict[str, Any]]
Events = list[tuple[str, dict[str, Any]]]

CACHED: dict[str, Any] = {
    "freeze": {"name": "freeze-all"},
    "engine": {"cache": "always", "prefix": "eager"},
    "data": {"views": 2},
}


def fit(values: dict[str, Any]) -> Events:
    events: Events = []
    api.fit(values, listeners=[lambda event: events.append((event.name, dict(event.data)))])
    return events


def of(events: Events, name: str) -> list[dict[str, Any]]:
    return [data for found, data in events if found == name]


def losses(events: Events) -> list[float]:
    return [data["loss"] for data in of(events, "step")]


def tensors(run_dir: str | Path) -> dict[str, torch.Tensor]:
    root = Path(run_dir) / "checkpoints"
    saved = checkpoint.load(root / str(checkpoint.pointed_to(root, checkpoint.LATEST)))
    return {**saved.model, **{f"o/{name}": t for name, t in saved.optimizer.items()}}


def assert_bit_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.slow
def test_a_cache_that_differs_from_the_network_is_told_and_not_used(
    run_values: RunValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = fit(run_values(**{**CACHED, "engine": {"cache": "off", "prefix": "eager"}}))
    right = prefix_store.run

    def spoil(kernel: Any, images: torch.Tensor) -> torch.Tensor:
        """Only the last image of a batch is wrong."""
        rows = right(kernel, images)
        rows[-1] *= 1.01
        return rows

    monkeypatch.setattr(prefix_store, "run", spoil)
    run = fit(run_values(**CACHED, run_dir=str(tmp_path / "wrong")))
    (notice,) = [n["text"] for n in of(run, "notice") if "differ from" in n["text"]]
    assert "differ from the network's by" in notice and "without the cache" in notice
    first, decided = of(run, "engine")
    assert first["mode"] == "cached"
    assert decided["mode"] == "live" and "differs" in decided["reason"]
    assert losses(run) == losses(live)


@pytest.mark.slow
def test_a_damaged_shard_is_found_told_and_filled_again(
    run_values: RunValues, tmp_path: Path
) -> None:
    first = fit(run_values(**CACHED))
    shards = list((tmp_path / "cache").glob("*/shard-*"))
    assert shards
    for shard in shards:
        content = bytearray(shard.read_bytes())
        content[-9] ^= 4
        shard.write_bytes(content)
    second = fit(run_values(**CACHED, run_dir=str(tmp_path / "second")))
    assert any(shards[0].name in notice["text"] for notice in of(second, "notice"))
    assert of(second, "engine")[0]["missing"] > 0 and of(second, "fill")
    assert losses(second) == losses(first)


def test_what_a_run_reads_is_in_use_while_it_reads_and_not_afterwards(
    run_values: RunValues, tmp_path: Path
) -> None:
    seen: list[list[bool]] = []

    def listen(event: siamkit.Event) -> None:
        if event.name == "epoch_end":
            seen.append([store.in_use for store in list_stores(tmp_path / "cache")])

    values = run_values(
        **{**CACHED, "freeze": {"name": "stages", "warmup": 1}}, train={"epochs": 2}
    )
    api.fit(values, listeners=[listen])
    assert seen[0] == [True] and sorted(seen[1]) == [False, True], "the phase before let go"
    assert [store.in_use for store in list_stores(tmp_path / "cache")] == [False, False]


def test_only_the_views_that_are_reached_are_computed(
    run_values: RunValues, tmp_path: Path
) -> None:
    done: list[tuple[str, Any]] = []

    def listen(event: siamkit.Event) -> None:
        if event.name in ("fill", "epoch_end"):
            told = event.name, event.data.get("total", event.data.get("epoch"))
            if told not in done[-1:]:  # a slow fill tells its progress several times
                done.append(told)

    api.fit(run_values(**CACHED, train={"epochs": 4}), listeners=[listen])
    # The first view with the held-out images and the probe, then the second one.
    assert done[:4] == [("fill", 24 * 3), ("epoch_end", 1), ("fill", 24), ("epoch_end", 2)]
    assert done[4:] == [("epoch_end", 3), ("epoch_end", 4)]


def test_without_augmentation_there_is_one_view(run_values: RunValues) -> None:
    data = {"augment": "none"}
    (decided,) = of(fit(run_values(**{**CACHED, "data": data})), "engine")
    assert decided["views"] == 1
    assert decided["rows"] == 24 + 24, "the probe's images are training images, as they are"


@pytest.mark.slow
def test_rows_of_other_seeds_make_room_in_their_store(
    run_values: RunValues, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pth"
    net = api.create_model("timm:test_resnet", pretrained=False)
    torch.save(net.backbone.model.state_dict(), weights)
    backbone = {"name": "timm:test_resnet", "pretrained": None, "weights": str(weights)}
    root = tmp_path / "cache"

    def train(seed: int, gigabytes: float) -> dict[str, Any]:
        engine = {**CACHED["engine"], "cache_gb": gigabytes}
        values = run_values(
            **{**CACHED, "engine": engine}, backbone=backbone, train={"seed": seed, "epochs": 2},
            run_dir=str(tmp_path / f"run-{seed}-{gigabytes}"),
        )  # fmt: skip
        (decided,) = of(fit(values), "engine")
        assert decided["mode"] == "cached"
        return decided

    train(0, 1)
    (store,) = list_stores(root)
    budget = 1.5 * store.bytes / 1e9
    for seed in (1, 2, 3):
        train(seed, budget)
        (store,) = list_stores(root)
        assert store.bytes <= budget * 1e9
    assert train(3, 1.01 * budget)["missing"] == 0, "the newest are there still"
    assert train(0, 1.02 * budget)["missing"] > 0, "the oldest went"


@pytest.mark.slow
def test_a_resumed_phase_keeps_its_boundary_although_fewer_views_are_left(
    run_values: RunValues, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {
        **CACHED,
        "backbone": {"name": "timm:resnet26t", "pretrained": False},
        "freeze": {"name": "unfreeze-blocks", "names": ["layer2", "layer3", "layer4"]},
        "train": {"epochs": 4},
        "data": {"views": 4},
    }
    (deep,) = of(fit(run_values(**sections, run_dir=str(tmp_path / "deep"))), "engine")
    rows = deep["rows"] * deep["row_bytes"]
    engine = {**CACHED["engine"], "cache_gb": (rows - 1) / 1e9}
    values = run_values(**{**sections, "engine": engine})

    class Killed(BaseException):
        pass

    def kill(event: siamkit.Event) -> None:
        if event.name == "checkpoint" and event.data["epoch"] == 3:
            raise Killed

    events: list[siamkit.Event] = []
    with pytest.raises(Killed):
        api.fit(values, listeners=[events.append, kill])
    api.resume(values["run_dir"], listeners=[events.append])
    first, second = (event.data for event in events if event.name == "engine")
    assert first["boundary"] == second["boundary"] == "stem"
    whole = run_values(**{**values, "run_dir": str(tmp_path / "whole")})
    api.fit(whole)
    assert_bit_equal(tensors(values["run_dir"]), tensors(whole["run_dir"]))


def test_without_a_cache_no_file_is_hashed(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the images were read for nothing")

    monkeypatch.setattr(rowkeys, "digests", refuse)
    (decided,) = of(fit(run_values(**{**CACHED, "engine": {"cache": "off"}})), "engine")
    assert decided["mode"] == "live" and decided["missing"] == decided["rows"] > 0


@pytest.mark.slow
def test_an_image_that_changes_meanwhile_ends_the_run_before_it_is_kept(
    run_values: RunValues, image_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(image_folder, folder)
    values = run_values(**{**CACHED, "data": {"path": str(folder), "views": 2}})

    def rewrite(event: siamkit.Event) -> None:
        if event.name == "epoch_end":
            for file in folder.glob("*/0.png"):
                file.write_bytes(file.read_bytes() + b"\0")

    with pytest.raises(siamkit.SiamkitError, match=r"0\.png.*changed while the run read it"):
        api.fit(values, listeners=[rewrite])


class Steady(siamkit.FreezePolicy):
    """Means to unfreeze after two epochs unless there are metrics; there always are."""

    metric_driven = True

    def plan(self, stages: Any, progress: Any) -> siamkit.FreezePlan:
        backbone = [stage.name for stage in stages if stage.name != "head"]
        unfreeze = progress.epoch >= 2 and len(progress.history) < 2
        return siamkit.FreezePlan.of(stages, backbone[-1:] if unfreeze else [])


def test_a_phase_that_lasts_longer_than_foreseen_goes_on(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamkit.training.build.build_policy", lambda *_: Steady())
    events = fit(run_values(**{**CACHED, "data": {"views": 4}}, train={"epochs": 4}))
    assert len(of(events, "epoch_end")) == 4
    decided = of(events, "engine")
    assert len(decided) == 2 and {data["mode"] for data in decided} == {"cached"}
    assert len(of(events, "phase_start")) == 1


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(
    run_values: RunValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(run_values(**CACHED, run_dir=str(tmp_path / "before")))  # all rows would be there
    monkeypatch.setattr("siamkit.engine.cache.budget.os.access", lambda *_: False)
    monkeypatch.setattr("siamkit.engine.planner.WORTHWHILE", -1e9)
    monkeypatch.setattr("siamkit.engine.deciding.PhaseCache", None)
    values = run_values(**{**CACHED, "engine": {"cache": "auto"}})
    (decided,) = of(fit(values), "engine")
    assert decided["mode"] == "live" and "not writable" in decided["reason"]


@pytest.mark.slow
def test_a_kernel_that_is_gone_is_told_on_resuming(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values(**{**CACHED, "engine": {"cache": "off"}}, train={"epochs": 2})

    class Killed(BaseException):
        pass

    def kill(event: siamkit.Event) -> None:
        if event.name == "checkpoint" and event.data["epoch"]:
            raise Killed

    right = kernels.choose

    def onnx(*args: Any, **options: Any) -> Any:
        return right(*args, **{**options, "wanted": "onnxruntime"})

    monkeypatch.setattr("siamkit.engine.deciding.choose", onnx)
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill])
    monkeypatch.setattr("siamkit.engine.deciding.choose", right)
    monkeypatch.setattr(
        "siamkit.engine.kernels.onnxruntime.missing", lambda device: "onnx not installed"
    )
    events: list[siamkit.Event] = []
    api.resume(values["run_dir"], listeners=[events.append])
    texts = [event.data["text"] for event in events if event.name == "notice"]
    (notice,) = [text for text in texts if "kernel" in text]
    assert "the phase started with is replaced" in notice and "not installed" in notice


@pytest.mark.parametrize(
    ("numerics", "dtype", "least"),
    [
        ("cpu-fp32", torch.float32, 1e-3),
        ("cpu-fp32", torch.float16, 5e-3),
        ("cuda-tf32", torch.float32, 1e-2),
        ("cuda-bf16", torch.float32, 5e-2),
    ],
)
def test_rows_may_differ_by_their_type_and_by_their_arithmetic(
    numerics: str, dtype: torch.dtype, least: float
) -> None:
    assert prefix_store.allowed(dtype, numerics) == least


@pytest.mark.slow
def test_a_boundary_that_is_too_large_for_the_budget_gives_way_to_a_smaller_one(
    run_values: RunValues, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {
        **CACHED,
        "backbone": {"name": "timm:resnet26t", "pretrained": False},
        "freeze": {"name": "unfreeze-blocks", "names": ["layer2", "layer3", "layer4"]},
        "train": {"epochs": 2},
        "engine": {**CACHED["engine"], "dtype": "float32"},
    }
    deep = fit(run_values(**sections))
    (decided,) = of(deep, "engine")
    assert (decided["mode"], decided["boundary"]) == ("cached", "layer1")
    budget = decided["rows"] * decided["row_bytes"] - 1
    small = {**sections, "engine": {**sections["engine"], "cache_gb": budget / 1e9}}
    shallow = fit(run_values(**small, run_dir=str(tmp_path / "small")))
    (chosen,) = of(shallow, "engine")
    assert (chosen["mode"], chosen["boundary"]) == ("cached", "stem")
    assert chosen["bytes"] <= budget
    assert any(
        "its cache would exceed engine.cache_gb" in reason
        for reason in chosen["rejected_boundaries"]
    )
    assert losses(shallow) == pytest.approx(losses(deep), rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_values_too_large_for_half_precision_are_kept_in_single(
    run_values: RunValues, tmp_path: Path
) -> None:
    net = api.create_model("timm:resnet10t", pretrained=False)
    state = {n: t.clone() for n, t in net.backbone.model.state_dict().items()}
    for name in ("layer1.0.bn2.weight", "layer1.0.bn2.bias"):
        state[name].fill_(1e6)  # what comes out of layer1 is beyond 65504
    torch.save(state, tmp_path / "large.pth")
    run = fit(
        run_values(
            **{**CACHED, "freeze": {"name": "unfreeze-blocks", "n": 3}},
            backbone={
                "name": "timm:resnet10t", "pretrained": None, "weights": str(tmp_path / "large.pth")
            },
            optimizer={"lr": 1e-9},
        )
    )  # fmt: skip
    first, decided = of(run, "engine")
    assert (first["mode"], first["dtype"]) == ("cached", "float16")
    assert (decided["mode"], decided["dtype"]) == ("cached", "float32")
    assert any("float16" in notice["text"] for notice in of(run, "notice"))


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_kernel_it_began_with(
    run_values: RunValues, tmp_path: Path
) -> None:
    values = run_values(**{**CACHED, "engine": {"cache": "always", "prefix": "folded"}})

    class Killed(BaseException):
        pass

    def kill(event: siamkit.Event) -> None:
        if event.name == "checkpoint" and event.data["epoch"]:
            raise Killed

    with pytest.raises(Killed):
        api.fit(values, listeners=[kill])
    for _ in range(2):  # all rows are there, then none is
        events: list[siamkit.Event] = []
        with pytest.raises(Killed):
            api.resume(values["run_dir"], listeners=[events.append, kill])
        (decided,) = (event.data for event in events if event.name == "engine")
        assert (decided["mode"], decided["kernel"]) == ("cached", "folded")
        shutil.rmtree(tmp_path / "cache")


PROGRAM = """
import sys
from siamkit.engine.cache import store
begin = store.Fill.__init__
store.Fill.__init__ = lambda fill, of, nbytes, seconds: begin(fill, of, nbytes, 0.2)
from siamkit.cli.app import main
sys.argv = ["siamkit", "train", *sys.argv[1:], "--json"]
sys.exit(main())
"""


def command(values: dict[str, Any], folder: Path) -> list[str]:
    (folder / "config.yaml").write_text(yaml_text.dump(values))
    return [sys.executable, "-c", PROGRAM, "--config", str(folder / "config.yaml")]


def environment() -> dict[str, str]:
    # Sums in another order differ in the last bit: as many threads as this process has.
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_kill_9_in_mid_fill_then_resume_gives_the_uninterrupted_run(
    run_values: RunValues, tmp_path: Path
) -> None:
    values = run_values(
        **{**CACHED, "data": {"views": 8, "image_size": 160}}, train={"epochs": 8}, head="bnneck"
    )
    values["backbone"]["name"] = "timm:resnet26t"
    child = subprocess.Popen(
        command(values, tmp_path), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "cache").glob("*/shard-*"))) < 2:
        assert child.poll() is None and time.monotonic() < deadline, "it was not caught filling"
        time.sleep(0.01)
    child.kill()
    child.communicate()
    events: list[siamkit.Event] = []
    api.resume(values["run_dir"], listeners=[events.append])
    (decided,) = (event.data for event in events if event.name == "engine")
    assert 0 < decided["missing"] < decided["rows"], "the fill goes on where it was"
    whole = run_values(**{**values, "run_dir": str(tmp_path / "whole")})
    shutil.rmtree(tmp_path / "cache")
    api.fit(whole)
    assert_bit_equal(tensors(values["run_dir"]), tensors(whole["run_dir"]))


@pytest.mark.slow
def test_a_disk_that_is_full_ends_the_run_with_7_and_what_it_has_intact(
    run_values: RunValues, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=256k none "$0" && exec "$@"']
    inside = [*mount, str(small)]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("needs user namespaces")
    # The first phase's features fit, the second's maps do not.
    values = run_values(
        freeze={"name": "stages", "n": 2, "warmup": 1},
        data={"views": 4, "image_size": 64},
        engine={"cache": "always", "cache_dir": str(small)},
        train={"epochs": 4},
    )
    done = subprocess.run(
        [*inside, *command(values, tmp_path)], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 7, done.stderr
    error = json.loads(done.stdout)["error"]
    assert "the feature cache needs" in error["message"] and "--cache off" in error["hint"]
    root = Path(values["run_dir"]) / "checkpoints"
    saved = checkpoint.load(root / str(checkpoint.pointed_to(root, checkpoint.LATEST)))
    assert saved.state["epoch"] == 1, "the epoch before is there"
    config = Path(values["run_dir"]) / "config.yaml"
    changed = yaml_text.load(config.read_text())
    changed["engine"]["cache_dir"] = str(tmp_path / "large")
    config.write_text(yaml_text.dump(changed))
    assert api.resume(values["run_dir"])["epochs"] == 4
