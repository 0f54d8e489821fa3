"""A run that is exported: the folder, its checks, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import siamkit
from siamkit import api
from siamkit.cli.app import main
from siamkit.errors import CheckpointError, ConfigError, DataError
from siamkit.inference.export.runners import onnx_runner
from siamkit.inference.export.timing import Pace
from siamkit.portable.manifest import MANIFEST, read_files, read_manifest


@pytest.fixture(scope="module")
def run(tmp_path_factory, values_of) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "run"
    head = {"name": "mlp", "hidden": 32, "dim": 32}
    siamkit.fit(values_of(folder, train={"epochs": 4}, head=head))
    return folder


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Speed is a benchmark's matter; here it would only take time."""
    from siamkit.inference.export import measuring

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "paces", lambda runners, _: {n: Pace(1e-3, 10.0) for n in runners})
        yield


@pytest.fixture(scope="module")
def onnx(run, tmp_path_factory):
    target = tmp_path_factory.mktemp("onnx") / "model"
    return siamkit.export(run, target, license="mit")


@pytest.fixture(scope="module")
def torch_export(run, tmp_path_factory):
    return siamkit.export(run, tmp_path_factory.mktemp("torch") / "model", format="torch").output


def hashes(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*") if p.is_file()}  # fmt: skip


@pytest.mark.slow
def test_an_export_is_one_folder_with_network_manifest_and_card(run, onnx):
    assert {path.name for path in onnx.output.iterdir()} == {"model.onnx", "README.md", MANIFEST}
    manifest = read_manifest(onnx.output)
    assert set(read_files(onnx.output, manifest)) == {"model.onnx", "README.md"}
    embedder = siamkit.load_embedder(run, device="cpu")
    assert manifest.fingerprint == onnx["fingerprint"] == embedder.fingerprint
    assert manifest.images.preprocessing == embedder.net.preprocessing
    assert manifest.calibration.threshold == embedder.calibration.threshold == onnx["threshold"]
    assert manifest.tensors.width == 32 and manifest.tensors.normalized
    assert manifest.origin.run == "run" and manifest.origin.which == "best"
    assert [(row.kind, row.precision) for row in manifest.quality] == [
        ("torch", "float32"), ("onnx", "float32"),
    ]  # fmt: skip
    assert manifest.measured.images == onnx["images"]


def test_the_exported_network_gives_the_embeddings_of_the_run(run, onnx, image_folder):
    embedder = siamkit.load_embedder(run, device="cpu", workers=0)
    files = sorted(image_folder.rglob("*.png"))[:7]
    from siamkit.data.images import ImageSet, Sample
    from siamkit.inference.export.images import PreparedImages

    images = ImageSet(tuple(Sample(file, 0, file.name) for file in files), ("all",))
    prepared = PreparedImages(images, embedder.net.preprocessing, 10**6).together()
    got = onnx_runner(onnx.output / "model.onnx")(prepared)
    assert np.allclose(got, embedder.embed(files), atol=1e-5)


def test_the_table_agrees_with_evaluate(run, onnx):
    found = siamkit.evaluate(run)
    torch_row, row = onnx.quality
    for metrics in (torch_row["metrics"], row["metrics"]):
        assert metrics["recall@1"] == pytest.approx(found.retrieval["recall@1"])
        assert metrics["map@r"] == pytest.approx(found.retrieval["map@r"], abs=1e-6)
        assert metrics["eer"] == pytest.approx(found.verification["eer"], abs=1e-6)
        at = found.verification["at_threshold"]
        assert metrics["far"] == pytest.approx(at["far"], abs=1e-6)


def test_the_card_says_what_it_is_and_holds_no_paths(run, onnx, image_folder):
    card = (onnx.output / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: onnx")
    for text in (
        "siamkit-runtime verify model",
        "| onnx float32 |",
        "## Threshold",
        "license: mit",
    ):
        assert text in card
    folder = str(onnx.output.parent)
    for text in (card, (onnx.output / MANIFEST).read_text()):
        assert str(image_folder.parent) not in text and folder not in text
        assert str(run.parent) not in text


@pytest.mark.slow
def test_the_run_stays_as_it_is(run, tmp_path):
    before = hashes(run)
    siamkit.export(run, tmp_path / "model")
    assert hashes(run) == before


@pytest.fixture(scope="module")
def int8(run, tmp_path_factory):
    target = tmp_path_factory.mktemp("int8") / "model"
    said: list[str] = []
    return siamkit.export(run, target, quantize="int8", progress=said.append), said


@pytest.mark.slow
def test_int8_keeps_the_quality_and_is_told_apart(run, int8):
    result, said = int8
    assert [(row["kind"], row["precision"]) for row in result.quality] == [
        ("torch", "float32"), ("onnx", "float32"), ("onnx", "int8"),
    ]  # fmt: skip
    _, plain, quantized = result.quality
    assert quantized["metrics"]["recall@1"] >= plain["metrics"]["recall@1"] - 0.02
    assert quantized["bytes"] < plain["bytes"] / 2
    manifest = read_manifest(result.output)
    assert manifest.precision == "int8"
    assert manifest.fingerprint != siamkit.load_embedder(run, device="cpu").fingerprint
    assert {path.name for path in result.output.iterdir()} == {"model.onnx", "README.md", MANIFEST}
    assert any("quantizes, calibrated on" in text for text in said)
    assert result["layers"] > len(result["float_layers"])


def test_a_threshold_that_moved_is_fitted_again_and_said(run, int8):
    result, _ = int8
    stored = siamkit.load_embedder(run, device="cpu").calibration.threshold
    manifest = read_manifest(result.output)
    moved = abs(manifest.calibration.threshold - stored) > 1e-9
    assert result["refitted"] == moved
    assert moved == any("the threshold moved in int8" in text for text in result.notices)
    if moved:
        assert result.quality[2]["metrics"]["far_refitted"] is not None


@pytest.mark.slow
def test_a_layer_that_stays_in_float_is_named_and_said(run, tmp_path, monkeypatch):
    import onnx

    from siamkit.inference.quantizing import deciding
    from siamkit.inference.quantizing.search import Choice

    first = lambda layers, *_, **__: Choice((layers[0],), 0.0, len(layers))  # noqa: E731
    monkeypatch.setattr(deciding, "choose", first)
    monkeypatch.setattr(deciding, "LIMIT", 1.0)  # how good it is does not matter
    result = siamkit.export(run, tmp_path / "model", quantize="int8")
    assert any("the validation images chose them" in text for text in result.notices)
    assert "the validation images chose them" in (tmp_path / "model/README.md").read_text()
    graph = onnx.load(tmp_path / "model/model.onnx").graph
    stored = {tensor.name for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    plain = [node.name for node in convolutions if node.input[1] in stored]
    assert plain == result["float_layers"] and len(convolutions) > 1


@pytest.mark.slow
def test_int8_that_costs_too_much_is_refused_and_nothing_is_written(run, tmp_path, monkeypatch):
    from siamkit.inference.quantizing import deciding

    monkeypatch.setattr(deciding, "LIMIT", -2.0)  # int8 must be better by 2
    with pytest.raises(
        ConfigError, match="costs too much quality, so nothing was written: recall@1"
    ):
        siamkit.export(run, tmp_path / "model", quantize="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_openvino_is_exported_too(run, tmp_path, quantize):
    result = siamkit.export(run, tmp_path / "model", format="openvino", quantize=quantize)
    assert set(read_manifest(result.output).files) == {"model.xml", "model.bin", "README.md"}
    before, after = (row["metrics"]["recall@1"] for row in result.quality[-2:])
    assert after >= before - 0.02 if quantize else after == pytest.approx(before)


def test_torch_is_a_folder_that_siamkit_loads(run, tmp_path, image_folder):
    result = siamkit.export(run, tmp_path / "model", format="torch", license="mit")
    embedder = siamkit.Embedder.from_pretrained(result.output, device="cpu", workers=0)
    first = siamkit.load_embedder(run, device="cpu", workers=0)
    assert torch.equal(embedder.embed(image_folder), first.embed(image_folder))
    assert embedder.calibration.threshold == first.calibration.threshold
    assert not list(result.output.rglob("optimizer*"))
    manifest = read_manifest(result.output)
    assert set(read_files(result.output, manifest)) == {
        "config.json", "model.safetensors", "siamkit.safetensors", "README.md",
    }  # fmt: skip
    assert "| torch float32 |" in (result.output / "README.md").read_text()


@pytest.mark.parametrize(
    "load",
    [siamkit.load_embedder, siamkit.Embedder.from_pretrained, siamkit.from_pretrained,
     lambda folder: siamkit.push_to_hub(folder, "me/model"),
     lambda folder: siamkit.create_model(f"timm:local-dir:{folder}")],
    ids=["embedder", "from_pretrained", "network", "hub", "backbone"],
)  # fmt: skip
def test_a_damaged_export_for_torch_is_refused_by_everyone(run, torch_export, tmp_path, load):
    folder = shutil.copytree(torch_export, tmp_path / "model")
    card, manifest = folder / "README.md", folder / MANIFEST
    text, values = card.read_text(), manifest.read_text()
    card.write_text(text.replace("#", "##"))
    with pytest.raises(CheckpointError, match=r"README\.md: does not match export\.json"):
        load(folder)
    card.write_text(text)
    manifest.write_text(json.dumps({**json.loads(values), "format": 7}))
    with pytest.raises(CheckpointError, match="exported in another version of the format, got 7"):
        load(folder)
    changed = json.loads(values)
    changed["calibration"]["threshold"] = 0.1
    manifest.write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match=r"export\.json: the file is damaged or was edited"):
        load(folder)


def test_every_way_to_load_an_export_for_torch_has_its_limits(torch_export):
    for load in (siamkit.load_embedder, siamkit.Embedder.from_pretrained):
        embedder = load(torch_export, device="cpu")
        assert embedder.decoding.max_pixels == read_manifest(torch_export).images.max_pixels
        assert embedder.calibration == read_manifest(torch_export).calibration


def test_timm_is_a_folder_that_plain_timm_loads(run, tmp_path):
    import timm

    result = siamkit.export(run, tmp_path / "model", format="timm")
    backbone = timm.create_model(f"local-dir:{result.output}", pretrained=True, num_classes=0)
    net = siamkit.load_model(run)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(backbone.eval()(images), net.features(images), atol=1e-5)
    assert any("loads the backbone without the head" in text for text in result.notices)
    manifest = read_manifest(result.output)
    assert manifest.calibration is None, "the threshold says nothing about the backbone's features"
    assert manifest.quality[1].kind == "timm" and manifest.quality[1].metrics["far"] is None


@pytest.mark.slow
def test_a_backbone_that_timm_lacks_is_refused_for_timm(values_of, tmp_path):
    from torch import nn

    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    values = values_of(tmp_path / "run", train={"epochs": 1})
    del values["backbone"]
    siamkit.fit(values, backbone=backbone)
    with pytest.raises(ConfigError, match="plain timm cannot build this backbone"):
        siamkit.export(tmp_path / "run", tmp_path / "model", format="timm", backbone=backbone)
    assert not (tmp_path / "model").exists()
    result = siamkit.export(tmp_path / "run", tmp_path / "model", backbone=backbone)
    assert result["cosine"] > 0.99999


# --- folders -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_export_is_only_replaced_on_request(run, onnx, tmp_path):
    target = shutil.copytree(onnx.output, tmp_path / "model")
    with pytest.raises(ConfigError, match=r"already holds an exported model; .*force=True"):
        siamkit.export(run, target)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds more than an exported model: notes\.txt"):
        siamkit.export(run, target, force=True)
    (target / "notes.txt").unlink()
    (target / "model.onnx").write_bytes(b"damaged")
    siamkit.export(run, target, force=True)
    assert read_files(target, read_manifest(target))


def test_a_damaged_export_can_be_replaced(run, torch_export, tmp_path):
    target = shutil.copytree(torch_export, tmp_path / "model")
    (target / "config.json").write_text("{}")
    (target / "README.md").unlink()
    siamkit.export(run, target, format="torch", force=True)
    assert read_files(target, read_manifest(target))


@pytest.mark.parametrize("manifest", ["{}", "x", '{"format": 7, "siamkit": "9"}', '{"a": [1, 2]}'])
def test_a_folder_whose_manifest_cannot_be_read_is_never_replaced(run, tmp_path, manifest):
    """It may be somebody else's, and its other files too, whatever their names are."""
    target = tmp_path / "model"
    target.mkdir()
    for name, text in ((MANIFEST, manifest), ("config.json", "mine"), ("README.md", "mine")):
        (target / name).write_text(text)
    before = hashes(target)
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"so it is not replaced: .*; remove it yourself"):
            siamkit.export(run, target, format="torch", force=force)
    assert hashes(target) == before


@pytest.mark.parametrize("force", [False, True])
def test_other_folders_and_files_are_never_replaced(run, tmp_path, force):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is not an exported model, so it is not replaced"):
        siamkit.export(run, tmp_path / "photos", force=force)
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        siamkit.export(run, tmp_path / "file", force=force)
    with pytest.raises(ConfigError):
        siamkit.export(run, run, force=force)
    assert (tmp_path / "photos" / "a.txt").read_text() == "mine"


@pytest.mark.slow
def test_the_cards_commands_work_for_odd_names(run, tmp_path):
    siamkit.export(run, tmp_path / "my $model")
    card = (tmp_path / "my $model/README.md").read_text()
    assert "siamkit-runtime verify 'my $model' one.jpg" in card


def test_a_link_to_an_empty_folder_stays_a_link(run, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    siamkit.export(run, tmp_path / "link", format="torch")
    assert (tmp_path / "link").is_symlink() and read_manifest(tmp_path / "real").kind == "torch"
    siamkit.export(run, tmp_path / "link", format="torch", force=True)
    assert (tmp_path / "link").is_symlink()


def test_what_appears_in_the_place_during_an_export_is_not_replaced(run, tmp_path):
    target = tmp_path / "model"

    def somebody_else(_: str) -> None:
        target.mkdir(exist_ok=True)
        (target / "notes.txt").write_text("mine")

    with pytest.raises(ConfigError, match="is not an exported model, so it is not replaced"):
        siamkit.export(run, target, format="torch", progress=somebody_else)
    assert [path.name for path in target.iterdir()] == ["notes.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("place", ["model", "checkpoints/epoch-1", "link/model"])
def test_no_export_is_written_into_a_run(run, tmp_path, place):
    (tmp_path / "link").symlink_to(run)
    target = tmp_path / place if place.startswith("link") else run / place
    with pytest.raises(ConfigError, match=r"lies in the run .*run; choose another output"):
        siamkit.export(run, target, format="torch")
    assert not target.exists()


@pytest.mark.slow
def test_a_complete_folder_is_checked_as_its_readers_open_it(run, tmp_path, monkeypatch):
    from siamkit.inference.export import folder

    wrong = lambda *_: lambda images: np.ones((len(images), 32), np.float32)  # noqa: E731
    monkeypatch.setattr(folder, "open_session", wrong)
    with pytest.raises(CheckpointError, match="computes other embeddings than torch"):
        siamkit.export(run, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_failure_leaves_the_old_export(run, onnx, tmp_path, monkeypatch):
    from siamkit.api import exporting

    target = shutil.copytree(onnx.output, tmp_path / "model")
    before = hashes(target)
    monkeypatch.setattr(
        exporting, "write_export", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        siamkit.export(run, target, force=True)
    assert hashes(target) == before and [p.name for p in tmp_path.iterdir()] == ["model"]


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_without_a_threshold_is_exported_and_says_so(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "calibration.json").unlink()
    result = siamkit.export(copy, tmp_path / "model")
    assert result["threshold"] is None and read_manifest(result.output).calibration is None
    assert any("cannot verify pairs; siamkit.calibrate(" in text for text in result.notices)
    assert "siamkit-runtime embed" in (result.output / "README.md").read_text()


def test_a_damaged_threshold_is_never_left_out_in_silence(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    text = (copy / "calibration.json").read_text()
    (copy / "calibration.json").write_text(text.replace('"threshold": 0', '"threshold": 0.9', 1))
    with pytest.raises(CheckpointError, match=r"calibration\.json"):
        siamkit.export(copy, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_run_whose_images_are_gone_says_how_to_name_their_new_place(
    values_of, image_folder, tmp_path
):
    moved = shutil.copytree(image_folder, tmp_path / "images")
    siamkit.fit(values_of(tmp_path / "run", data={"path": str(moved)}, train={"epochs": 1}))
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="measured on the run's images; if the data was moved"):
        siamkit.export(tmp_path / "run", tmp_path / "model")


def test_no_run_and_wrong_arguments_are_refused_before_any_work(run, tmp_path):
    with pytest.raises(CheckpointError, match="is not a run directory"):
        siamkit.export(tmp_path, tmp_path / "model")
    with pytest.raises(ConfigError, match="output: must be the path"):
        siamkit.export(run, None)
    with pytest.raises(ConfigError, match="license: must be text that is not blank, got 3"):
        siamkit.export(run, tmp_path / "model", license=3)
    with pytest.raises(ConfigError, match="license: must be text that is not blank, got 3"):
        siamkit.save_pretrained(run, tmp_path / "model", license=3)
    with pytest.raises(ConfigError, match="no such format"):
        siamkit.export(run, tmp_path / "model", format="tflite")


def test_an_export_in_place_of_a_run_is_told_from_one(onnx, tmp_path):
    for verb in (siamkit.calibrate, siamkit.inspect, siamkit.resume):
        with pytest.raises(CheckpointError, match="name the run that it was exported from"):
            verb(onnx.output)


def test_a_slim_run_is_exported_like_others(values_of, tmp_path):
    siamkit.fit(values_of(tmp_path / "run", train={"epochs": 1, "keep": "slim"}))
    assert siamkit.export(tmp_path / "run", tmp_path / "model", format="torch").output.is_dir()


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_the_table_or_json(run, tmp_path, capsys):
    assert main(["export", str(run), "-o", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr()
    assert "onnx float32" in printed.out and "recall@1" in printed.out
    assert "compares onnx with torch in batches of 1, 2, 7" in printed.err
    assert main(["export", str(run), "-o", str(tmp_path / "b"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["schema"] == "siamkit.export/1" and result["format"] == "onnx"
    assert main(["export", str(run), "-o", str(tmp_path / "b")]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["export", str(run), "-o", str(tmp_path / "c"), "--format", "timm",
                 "--quantize", "int8"]) == 2  # fmt: skip
    assert "--quantize int8: works only with the formats onnx, openvino" in capsys.readouterr().err


def test_the_result_prints_as_the_commands_table(onnx):
    assert "onnx float32" in str(onnx)
    assert api.export is siamkit.export
