from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import siamkit
from siamkit import api
from siamkit.api import load_config
from siamkit.config import Layer, read_file
from siamkit.engine.kernels.onnxruntime import missing
from siamkit.errors import CheckpointError, ConfigError
from siamkit.json_files import read_sealed, write_sealed
from siamkit.model import quantized
from siamkit.model.quantized import Quantized
from siamkit.runs import checkpoint
from siamkit.training import quantize

pytestmark = pytest.mark.skipif(
    missing(torch.device("cpu")) is not None, reason="needs ONNX Runtime"
)
RunValues = Callable[..., dict[str, Any]]
INT8 = {"engine": {"prefix": "int8", "cache": "always"}, "data": {"views": 2}}


class Killed(Exception):
    pass


def kill_at(event: str, count: int) -> Callable[[siamkit.Event], None]:
    seen = []

    def listen(happened: siamkit.Event) -> None:
        if happened.name == event:
            seen.append(1)
            if len(seen) == count:
                raise Killed

    return listen


def tensors(run: str | Path) -> dict[str, torch.Tensor]:
    folder = checkpoint.newest_first(Path(run) / "checkpoints")[0]
    saved = checkpoint.load(folder)
    return {**saved.model, **{f"o/{k}": v for k, v in saved.optimizer.items()}}


def notices_of(run: str | Path) -> str:
    return (Path(run) / "events.jsonl").read_text()


@pytest.fixture(scope="module")
def staged(values_of: RunValues, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run whose last two stages train from the second epoch on, with the others in int8."""
    values = values_of(tmp_path_factory.mktemp("int8") / "run", **INT8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIAMKIT_CACHE_DIR", str(tmp_path_factory.mktemp("int8_cache")))
        return {"values": values, "result": api.fit(values)}


def test_what_no_phase_trains_is_computed_in_int8(staged: dict[str, Any]) -> None:
    run = staged["values"]["run_dir"]
    record = Quantized.load(Path(run) / "int8.json")
    assert record.about["stage"] == "layer2" and record.module == "model.layer2"
    assert "model.conv1" in record.skipped and not any("layer3" in n for n in record.skipped)
    model = tensors(run)
    graph = model["backbone.model.layer2.int8_graph"]
    assert graph.dtype == torch.uint8 and len(graph) == record.size
    assert "is computed in int8" in notices_of(run)
    assert record.about["cosine"] > 0.95
    engines = staged["result"]["phases"]
    assert len(engines) == 2, "the warm-up and the second phase"


@pytest.mark.slow
def test_all_uses_of_the_run_compute_it_the_same_way(staged: dict[str, Any]) -> None:
    run = Path(staged["values"]["run_dir"])
    held = load_file(run / "embeddings" / "val.safetensors")
    embeddings = next(v for v in held.values() if v.ndim == 2)
    evaluated = siamkit.evaluate(run)
    best = staged["result"]["metrics"]["best"]
    assert evaluated["retrieval"]["recall@1"] == best["recall@1"]
    embedder = siamkit.load_embedder(run)
    images = siamkit.load_embedder(run).net  # a second one, with a copy of the graph
    view = torch.rand(11, 3, 32, 32)
    assert torch.equal(embedder.net.embed(view), images.embed(view))
    assert torch.equal(copy.deepcopy(embedder.net).embed(view), images.embed(view))
    alone = torch.cat([images.embed(one[None]) for one in view])
    torch.testing.assert_close(alone, images.embed(view), atol=1e-5, rtol=0)
    assert embeddings.shape[1] == images.embedding_dim


@pytest.mark.slow
@pytest.mark.parametrize(("event", "count"), [("checkpoint", 1), ("step", 2), ("checkpoint", 3)])
def test_a_resumed_run_is_bit_equal(
    staged: dict[str, Any], run_values: RunValues, event: str, count: int
) -> None:
    values = run_values(**INT8)
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill_at(event, count)])
    resumed = api.resume(values["run_dir"])
    expected, got = tensors(staged["values"]["run_dir"]), tensors(values["run_dir"])
    assert expected.keys() == got.keys()
    assert [n for n in expected if not torch.equal(expected[n], got[n])] == []
    assert resumed["history"] == staged["result"]["history"]


@pytest.mark.slow
def test_the_calibration_is_part_of_the_key_of_cached_features(
    run_values: RunValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stores() -> set[str]:
        return {p.name for p in (tmp_path / "cache").iterdir() if p.is_dir() and len(p.name) == 32}

    frozen = {**INT8, "freeze": {"name": "freeze-all"}, "train": {"epochs": 1}}
    values = run_values(**frozen)
    api.fit(values)
    first = stores()
    api.fit({**values, "run_dir": str(tmp_path / "same")})
    assert stores() == first
    monkeypatch.setattr(quantize, "CALIBRATION_IMAGES", 8)
    api.fit({**values, "run_dir": str(tmp_path / "other")})
    assert len(stores() - first) == 1
    api.fit({**values, "run_dir": str(tmp_path / "float"), "engine": {"cache": "always"}})
    assert len(stores() - first) == 2


@pytest.mark.slow
def test_a_saved_network_keeps_its_int8_part(staged: dict[str, Any], tmp_path: Path) -> None:
    run = staged["values"]["run_dir"]
    siamkit.export(run, tmp_path / "saved", format="torch")
    loaded = siamkit.Embedder.from_pretrained(tmp_path / "saved").net
    view = torch.rand(3, 3, 32, 32)
    assert loaded.quantized is not None
    assert torch.equal(loaded.embed(view), siamkit.load_embedder(run).net.embed(view))
    assert "int8" in (tmp_path / "saved" / "README.md").read_text()


def test_another_record_is_refused(staged: dict[str, Any], tmp_path: Path) -> None:
    run = tmp_path / "copy"
    shutil.copytree(staged["values"]["run_dir"], run)
    values = read_sealed(run / "int8.json")
    values.pop("sha256", None)
    write_sealed(run / "int8.json", {**values, "size": values["size"] + 1})
    with pytest.raises(CheckpointError, match=r"int8\.json: .*partly in int8"):
        siamkit.load_embedder(run)
    (run / "int8.json").unlink()
    with pytest.raises(CheckpointError, match=r"int8\.json"):
        siamkit.load_embedder(run)


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"freeze": {"name": "full"}}, "no part at the start of the backbone stays frozen"),
        ({"engine": {"prefix": "int8", "cut": "off"}}, "engine.cut is off"),
    ],
)
def test_what_cannot_be_quantized_is_refused_before_anything_is_written(
    run_values: RunValues, sections: dict[str, Any], why: str
) -> None:
    values = run_values(**{**INT8, **sections})
    with pytest.raises(ConfigError, match=rf"engine\.prefix: .*{why}"):
        api.fit(values)
    assert not Path(values["run_dir"]).exists()


def test_a_run_is_inspected_with_its_int8_part(staged: dict[str, Any]) -> None:
    quantized._network.cache_clear()  # another process has no open graph
    found = siamkit.inspect(staged["values"]["run_dir"])
    record = Quantized.load(Path(staged["values"]["run_dir"]) / "int8.json")
    assert record.sentence in found["notices"]
    assert "up to layer2 is computed in int8" in record.sentence


def test_an_int8_run_without_a_best_epoch_is_inspected(run_values: RunValues) -> None:
    values = run_values(**INT8)
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill_at("step", 1)])
    quantized._network.cache_clear()
    assert any("is computed in int8" in n for n in siamkit.inspect(values["run_dir"])["notices"])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("stages", "training would compute the backbone up to layer2 in int8"),
        ("freeze-all", "training would compute the whole backbone in int8"),
        ("gradual-unfreeze", "training would be refused: engine.prefix: an int8 prefix is not"),
    ],
)
def test_inspection_tells_what_would_be_quantized(
    run_values: RunValues, policy: str, expected: str
) -> None:
    values = run_values(**{**INT8, "freeze": {"name": policy}, "train": {"epochs": 8}})
    notices = siamkit.inspect(values)["notices"]
    assert [n for n in notices if n.startswith(expected)], notices


def test_quality_that_falls_is_refused(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "_DIFFERENT", 1e-9)
    monkeypatch.setattr(quantize, "_SECONDS", 0.0)
    with pytest.raises(ConfigError, match="the quality of the features falls by"):
        api.fit(run_values(**INT8))


@pytest.mark.slow
def test_an_int8_run_can_be_neither_pruned_nor_exported_to_onnx(
    staged: dict[str, Any], tmp_path: Path
) -> None:
    run = staged["values"]["run_dir"]
    with pytest.raises(ConfigError, match="cannot be pruned, because a part of it is computed in"):
        siamkit.prune(run, ratio=0.5)
    with pytest.raises(ConfigError, match=r"cannot be exported to onnx, .*keeps the int8 part"):
        siamkit.export(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_network_whose_modules_are_no_chain_is_refused(
    run_values: RunValues,
) -> None:
    values = run_values(**INT8, backbone={"name": "timm:test_vit", "pretrained": False})
    with pytest.raises(ConfigError, match="its modules up to there do not simply follow each"):
        api.fit(values)


@pytest.mark.slow
def test_a_transformer_that_stays_frozen_is_quantized_as_a_whole(run_values: RunValues) -> None:
    values = run_values(
        **INT8,
        backbone={"name": "timm:test_vit", "pretrained": False},
        freeze={"name": "freeze-all"},
    )
    run = api.fit(values)["run_dir"]
    record = Quantized.load(Path(run) / "int8.json")
    assert record.module == "model" and record.skipped == () and record.about["floats"]


def test_the_distance_is_that_of_centred_features() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20, 8)) + 100  # far from the origin, where all cosines are near 1
    assert quantize.distance(features, features) == pytest.approx(0, abs=1e-12)
    assert quantize.distance(features, features[::-1]) > 0.5


@pytest.mark.slow
def test_an_int8_run_can_be_moved_and_its_config_used_again(
    staged: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "moved" / "elsewhere"
    shutil.copytree(staged["values"]["run_dir"], run)
    expected = siamkit.load_embedder(staged["values"]["run_dir"])
    view = torch.rand(3, 3, 32, 32)
    assert torch.equal(siamkit.load_embedder(run).net.embed(view), expected.net.embed(view))
    again = api.fit(
        load_config(read_file(run / "config.yaml"), Layer({"run_dir": str(tmp_path / "new")}, str))
    )
    assert Quantized.load(tmp_path / "new" / "int8.json") == Quantized.load(run / "int8.json")
    assert again["history"] == staged["result"]["history"]
    shutil.rmtree(tmp_path / "new")  # the new run has a record of its own
    assert siamkit.inspect(run).phases


class Between(torch.nn.Module):
    """A network with an operation between its modules, which no module performs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3)
        self.third = torch.nn.Conv2d(4, 6, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(images).relu())).mean((2, 3))


def test_an_operation_between_the_modules_is_not_lost(run_values: RunValues) -> None:
    values = run_values(**{**INT8, "freeze": {"name": "unfreeze-blocks", "n": 1}})
    sections = {k: v for k, v in values.items() if k not in ("backbone", "run_dir", "data")}
    try:
        result = siamkit.fit(
            **{**sections, "data": values["data"]["path"], "image_size": 32},
            backbone=Between(), run_dir=values["run_dir"],
        )  # fmt: skip
    except ConfigError as error:
        assert "do not simply follow each other" in str(error)
        return
    record = Quantized.load(Path(result["run_dir"]) / "int8.json")
    assert record.skipped == (), "the part ends before the operation"


def test_a_policy_that_decides_by_metrics_is_refused(run_values: RunValues) -> None:
    plateau = {"name": "gradual-unfreeze", "trigger": "plateau"}
    with pytest.raises(ConfigError, match="decides by metrics what trains"):
        api.fit(run_values(**INT8, freeze=plateau))


def test_batch_norm_in_the_head_is_no_obstacle(run_values: RunValues) -> None:
    result = api.fit(run_values(**INT8, head={"name": "bnneck"}, train={"epochs": 1}))
    assert (Path(result["run_dir"]) / "int8.json").is_file()


def test_a_new_run_cannot_start_from_an_int8_backbone(
    staged: dict[str, Any], image_folder: Path, tmp_path: Path
) -> None:
    backbone = siamkit.load_embedder(staged["values"]["run_dir"]).net.backbone
    with pytest.raises(ConfigError, match="cannot be trained, so a new run cannot start from it"):
        siamkit.fit(data=str(image_folder), backbone=backbone, run_dir=str(tmp_path / "new"))


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again(run_values: RunValues) -> None:
    values = run_values(**INT8, train={"epochs": 1})
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill_at("run_start", 1)])
    shutil.rmtree(Path(values["run_dir"]) / "checkpoints", ignore_errors=True)
    from siamkit.api.continuing import begin_or_continue

    layers = [Layer(values, str)]
    result = begin_or_continue(layers, str, strict=False, listeners=(), progress=False)
    assert result["epochs"] == 1
