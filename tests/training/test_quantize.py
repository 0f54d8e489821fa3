from __future__ import annotations

import copy
import errno
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
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
from siamkit.engine.planner import AUTO_VIEWS
from siamkit.errors import CheckpointError, ConfigError, DataError, ResourceError
from siamkit.json_files import read_sealed, write_sealed
from siamkit.model import quantized
from siamkit.model.quantized import Quantized
from siamkit.runs import checkpoint
from siamkit.training import find_lr, fit, judging, making, quantize
from siamkit.training.speeds import Speeds

REQUIRE_FASTER = quantize._require_faster
pytestmark = pytest.mark.skipif(
    missing(torch.device("cpu")) is not None, reason="needs ONNX Runtime"
)
RunValues = Callable[..., dict[str, Any]]
INT8 = {"engine": {"prefix": "int8", "cache": "always"}, "data": {"views": 2}}

UNKEPT = {"engine": {"prefix": "int8", "cache": "off"}}
"""Values without a cache, so that no graph of an earlier run is used."""


@pytest.fixture(autouse=True, scope="module")
def fast() -> Iterator[None]:
    """Whether int8 is faster for the tests' tiny networks is left to chance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize, "_require_faster", lambda speeds: None)
        yield


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


@pytest.mark.slow
def test_quality_that_falls_is_refused(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "_MOST", -1.0)
    with pytest.raises(ConfigError, match="the quality of the features falls by"):
        api.fit(run_values(**UNKEPT))


@pytest.mark.slow
def test_an_int8_run_can_be_neither_pruned_nor_quantized_again(
    staged: dict[str, Any], tmp_path: Path
) -> None:
    run, place = staged["values"]["run_dir"], tmp_path / "model"
    with pytest.raises(ConfigError, match="cannot be pruned, because a part of it is computed in"):
        siamkit.prune(run, ratio=0.5)
    with pytest.raises(ConfigError, match=r"cannot be quantized again, .*keeps the int8 part"):
        siamkit.export(run, place, quantize="int8")
    with pytest.raises(ConfigError, match=r"cannot be exported to openvino, .*keeps the int8 part"):
        siamkit.export(run, place, format="openvino")
    assert not place.exists()


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["up to a stage", "the whole backbone"])
def test_an_int8_run_is_exported_with_its_own_graph(
    staged: dict[str, Any], run_values: RunValues, tmp_path: Path, whole: bool
) -> None:
    run = staged["values"]["run_dir"]
    if whole:
        run = api.fit(run_values(**INT8, freeze={"name": "freeze-all"}))["run_dir"]
    made = siamkit.export(run, tmp_path / "model")
    record = Quantized.load(Path(run) / "int8.json")
    assert f"as in the run, {record.part} is computed in int8" in made["notices"]
    assert made["cosine"] > 0.999999
    # The graph is stored once, and what it replaces is not stored.
    size = (tmp_path / "model" / "model.onnx").stat().st_size
    assert record.size < size < record.size + (500_000 if whole else 1_500_000)
    embedder = siamkit.load_embedder(run)
    exported = siamkit.ExportedModel(tmp_path / "model")
    images = sorted(Path(staged["values"]["data"]["path"]).rglob("*.png"))[:11]
    np.testing.assert_allclose(exported.embed(images), embedder.embed(images), atol=1e-5)


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


def test_a_run_without_epochs_quantizes_the_whole_backbone(run_values: RunValues) -> None:
    result = api.fit(run_values(**INT8, head={"name": "identity"}, train={"epochs": 0}))
    run = siamkit.api.open_run(result["run_dir"])
    assert run.config.backbone.int8 is not None
    assert Quantized.load(run.config.backbone.int8).part == "the whole backbone"


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


@pytest.mark.slow
def test_the_graph_of_an_earlier_run_is_used_again(
    staged: dict[str, Any], run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("quantized again")

    values = run_values(**INT8)
    first = api.fit({**values, "train": {**values["train"], "epochs": 1}})
    monkeypatch.setattr(quantize, "made_graph", refuse)
    again = {**values, "run_dir": f"{values['run_dir']}2"}
    second = api.fit({**again, "train": {**values["train"], "epochs": 1}})
    one, other = (Path(result["run_dir"]) / "int8.json" for result in (first, second))
    assert Quantized.load(one) == Quantized.load(other)
    assert first["history"] == second["history"]
    assert "An earlier run has quantized it" in notices_of(second["run_dir"])
    off = {
        **again,
        "run_dir": f"{values['run_dir']}3",
        "engine": {**values["engine"], "cache": "off"},
    }
    with pytest.raises(ConfigError, match="quantized again"):
        api.fit(off)


@pytest.mark.slow
def test_a_kept_graph_of_edited_code_is_not_used(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values(**INT8, train={"epochs": 1})
    api.fit(values)
    monkeypatch.setattr(torch.nn.MaxPool2d, "forward", lambda self, x: -3 * x[:, :, ::2, ::2])
    again = api.fit({**values, "run_dir": f"{values['run_dir']}2"})
    assert "An earlier run has quantized it" not in notices_of(again["run_dir"])


@pytest.mark.slow
def test_two_runs_choose_the_same_layers(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search is forced: no whole network keeps this quality."""
    monkeypatch.setattr(judging, "DIFFERENT", 1e-4)
    monkeypatch.setattr(making, "_MOST", 1.0)
    values = run_values(**UNKEPT, train={"epochs": 1})
    records = []
    for number in range(2):
        run = api.fit({**values, "run_dir": f"{values['run_dir']}{number}"})["run_dir"]
        records.append(Quantized.load(Path(run) / "int8.json"))
    assert records[0] == records[1] and records[0].about["floats"]


def test_a_part_that_is_not_faster_is_refused(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = Speeds(float32=1e-3, int8=1.5e-3)
    with pytest.raises(ConfigError, match=r"would not be faster on this CPU: 1\.5 ms per image"):
        REQUIRE_FASTER(speeds)
    REQUIRE_FASTER(Speeds(1.5e-3, 1e-3))
    with pytest.raises(ConfigError, match="would not be faster"):
        REQUIRE_FASTER(Speeds(1e-3, 1e-3))
    monkeypatch.setattr(quantize, "_require_faster", lambda _: REQUIRE_FASTER(speeds))
    values = run_values(**INT8)
    with pytest.raises(ConfigError, match=r"engine\.prefix: .*would not be faster"):
        api.fit(values)
    assert not Path(values["run_dir"]).exists()


def test_the_reasons_why_a_part_ends_early_are_told(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of ONNX Runtime at one boundary leaves the shallower ones to be tried."""
    make = quantize.made_graph

    def fail(net: Any, cut: Any, *others: Any) -> Any:
        if cut.boundary.name == "layer2":
            raise RuntimeError("Node 'x' is not supported\nmore lines")
        return make(net, cut, *others)

    monkeypatch.setattr(quantize, "made_graph", fail)
    run = api.fit(run_values(**INT8))["run_dir"]
    record = Quantized.load(Path(run) / "int8.json")
    assert record.about["stage"] == "layer1"
    reason = "It does not reach further: layer2: RuntimeError: Node 'x' is not supported"
    assert reason in record.sentence and "more lines" not in record.sentence
    assert reason in notices_of(run)


def named(*names: str) -> list[Any]:
    return [SimpleNamespace(name=name, module=name) for name in names]


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        (["a: cannot"], "a: cannot"),
        (["a: cannot", "b: neither"], "a: cannot; b: neither"),
        (["a: cannot", "a: cannot"], "a: cannot"),
        (["a: cannot", "b: neither", "c: nor this"], "a: cannot; ..."),
    ],
)
def test_why_no_part_can_be_quantized_is_told_in_a_few_words(
    monkeypatch: pytest.MonkeyPatch, reasons: list[str], told: str
) -> None:
    left = list(reasons)
    monkeypatch.setattr(quantize, "first_exact_cut", lambda *_: (None, [left.pop(0)]))
    boundaries, setup = named(*reasons), SimpleNamespace(net=None)
    with pytest.raises(ConfigError) as raised:
        quantize._made(setup, boundaries, torch.zeros(3), None)  # type: ignore[arg-type]
    assert raised.value.what == f"an int8 prefix is not possible: {told}"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("first line\nsecond line"), "RuntimeError: first line"),
        (RuntimeError(200 * "x" + "y"), f"RuntimeError: {200 * 'x'}"),
        (RuntimeError(), "RuntimeError"),
        (ConfigError("is wrong\nin two lines", where="a"), "a: is wrong\nin two lines"),
    ],
)
def test_an_error_of_a_library_is_told_in_its_first_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(quantize, "first_exact_cut", lambda *_: (object(), []))
    monkeypatch.setattr(quantize, "made_graph", fail)
    monkeypatch.setattr(quantize, "_title", lambda boundary: boundary.name)
    with pytest.raises(ConfigError) as raised:
        quantize._made(SimpleNamespace(net=None), named("layer1"), torch.zeros(3), None)  # type: ignore[arg-type]
    assert raised.value.what == f"an int8 prefix is not possible: layer1: {told}"


@pytest.mark.parametrize(
    ("module", "output", "apart"),
    [
        ("conv", lambda x: x, 0.0),
        ("conv", lambda x: 1.25 * x, 0.25),
        ("conv", lambda x: x[:, :1], math.inf),
        ("unused", lambda x: x, math.inf),
        ("missing", lambda x: x, math.inf),
        ("conv", lambda x: x * math.nan, math.nan),
    ],
)
def test_a_kept_graph_is_held_against_the_network(
    monkeypatch: pytest.MonkeyPatch, module: str, output: Any, apart: float
) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.unused = torch.nn.Conv2d(3, 2, 1), torch.nn.ReLU()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.conv(images).mean((2, 3))

    net = torch.nn.Module()
    net.backbone = Net()
    monkeypatch.setattr(
        quantize, "part_of", lambda graph: lambda image: output(net.backbone.conv(image).detach())
    )
    made = SimpleNamespace(record=SimpleNamespace(module=module), graph=b"")
    image = torch.ones(1, 3, 4, 4)
    found = quantize._apart(SimpleNamespace(net=net), made, image)  # type: ignore[arg-type]
    assert found == pytest.approx(apart, nan_ok=True)
    assert not net.backbone.conv._forward_hooks


def test_the_views_to_calibrate_on_are_spread_over_the_images() -> None:
    few: Any = range(5)
    assert quantize._calibration(few, 7) == [(n, 0) for n in range(5)] + [(0, 1), (1, 1)]
    many: Any = range(100)
    assert quantize._calibration(many, 4) == [(0, 0), (33, 0), (66, 0), (99, 0)]


@pytest.mark.parametrize(
    ("random", "views", "epochs", "computed"),
    [(True, 3, 9, 10 * 3 + 4), (True, 3, 2, 10 * 2 + 4), (True, None, 99, 10 * AUTO_VIEWS + 4),
     (False, 3, 9, 14), (True, 3, 0, 14)],
)  # fmt: skip
def test_the_images_that_a_run_computes_are_each_image_and_view_once(
    random: bool, views: int | None, epochs: int, computed: int
) -> None:
    augment = SimpleNamespace(is_random=random)
    config = SimpleNamespace(
        data=SimpleNamespace(augment=augment, views=views), train=SimpleNamespace(epochs=epochs)
    )
    sets: Any = {"train": range(10), "val": range(4)}
    assert quantize._computed(SimpleNamespace(config=config), sets) == computed  # type: ignore[arg-type]


def test_gradient_checkpointing_says_why_only_a_small_part_is_in_int8(
    run_values: RunValues,
) -> None:
    values = run_values(**INT8, train={"grad_checkpointing": True})
    record = Quantized.load(Path(api.fit(values)["run_dir"]) / "int8.json")
    assert record.about["stage"] != "layer2"
    assert "It does not reach further: layer2" in record.sentence


@pytest.mark.parametrize(
    "error", [ResourceError("no space"), MemoryError(), DataError("cannot read the image")]
)
def test_what_is_no_fault_of_the_part_is_no_reason_to_try_a_smaller_part(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tried = []

    def fail(*_: Any) -> None:
        tried.append(1)
        raise error

    monkeypatch.setattr(quantize, "made_graph", fail)
    with pytest.raises(type(error)):
        api.fit(run_values(**INT8))
    assert len(tried) == 1


def test_a_full_folder_for_temporary_files_is_an_error_about_resources(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(making.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(fit, "require_space", lambda *_: None)
    with pytest.raises(
        ResourceError, match=r"quantizing needs .* [kM]B for temporary files, got '1\.00 kB free'"
    ) as raised:
        api.fit(run_values(**UNKEPT))
    assert "TMPDIR" in str(raised.value) and raised.value.exit_code == 7


def test_a_folder_for_temporary_files_that_fills_up_is_an_error_about_resources() -> None:
    with pytest.raises(ResourceError, match="cannot write: No space left"), making._temporary(1):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
def test_the_learning_rate_is_found_on_the_int8_network(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = []
    run_range_test = find_lr.run_range_test

    def watch(setup: Any, *others: Any) -> Any:
        tested.append(setup.net.quantized)
        return run_range_test(setup, *others)

    monkeypatch.setattr(find_lr, "run_range_test", watch)
    values = run_values(**INT8, train={"epochs": 1})
    values["optimizer"] = {"name": "adamw", "lr": "auto"}
    try:
        run = api.fit(values)["run_dir"]
        assert tested == [Quantized.load(Path(run) / "int8.json")]
    except ConfigError as error:  # the tiny network may suggest no rate
        assert "no learning rate was found" in str(error) and tested[0] is not None
    found = siamkit.find_lr({**values, "run_dir": None}, steps=20)
    assert tested[-1] == tested[0] and any("in int8" in text for text in found["notices"])


def test_the_runs_own_settings_may_be_given_again_on_resume(
    staged: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(staged["values"]["run_dir"], run)
    from siamkit.api.continuing import continued

    given = {"engine": {"prefix": "int8"}, "train": {"epochs": staged["result"]["epochs"]}}
    assert continued(run, Layer(given, str))["history"] == staged["result"]["history"]
    for other in ({"engine": {"prefix": "auto"}}, {"freeze": {"name": "full"}}):
        with pytest.raises(ConfigError, match="cannot be changed when a run goes on") as raised:
            continued(run, Layer({**given, **other}, str))
        assert "epochs" not in str(raised.value).partition(":")[0]


def test_the_report_says_what_is_in_int8(staged: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    siamkit.write_report(staged["values"]["run_dir"], page)
    text = page.read_text()
    assert "The backbone up to layer2 is computed in int8" in text


def test_where_no_part_can_be_in_int8_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "missing", lambda device: None)

    def told(
        device: str = "cpu", cut: str = "auto", driven: bool = False, reader: Any = None
    ) -> str:
        setup: Any = SimpleNamespace(
            device=torch.device(device), net=SimpleNamespace(reader=reader),
            schedule=SimpleNamespace(policy=SimpleNamespace(metric_driven=driven)),
            config=SimpleNamespace(
                engine=SimpleNamespace(cut=cut), freeze=SimpleNamespace(name="mine")
            ),
        )  # fmt: skip
        try:
            quantize._require_possible(setup)
        except ConfigError as error:
            return error.what.removeprefix("an int8 prefix is not possible: ")
        return ""

    assert told() == ""
    assert told("cuda") == "it runs on a CPU only, and this run is on cuda"
    assert told(cut="off") == "engine.cut is off"
    assert told(driven=True).startswith("the policy 'mine' decides by metrics")
    assert told(reader=object()).startswith("the head reads several stages")
    monkeypatch.setattr(quantize, "missing", lambda device: "no onnxruntime")
    assert told() == "no onnxruntime"
