from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

import siamkit
from siamkit.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from siamkit.json_files import sealed
from siamkit.portable import sessions
from siamkit.portable.manifest import MANIFEST, read_manifest, seal_of
from siamkit.portable.model import ExportedModel

from .odd import odd_images


@pytest.fixture(scope="module")
def embedder(exported_run):
    return siamkit.load_embedder(exported_run[0], device="cpu", workers=0, kernel="eager")


@pytest.fixture(scope="module")
def model(exported_run):
    return ExportedModel(exported_run[1], threads=1)


@pytest.fixture
def folder(exported_run, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(exported_run[1], tmp_path / "model")


def resealed(folder: Path, change) -> None:
    """Change the manifest as nobody does by accident: with a new seal."""
    values = read_manifest(folder).to_json()
    change(values)
    (folder / MANIFEST).write_text(json.dumps(sealed(values)))


def test_it_embeds_odd_images_as_the_run_does(model, embedder, tmp_path: Path):
    files = odd_images(tmp_path / "odd")
    ours, theirs = model.embed(tmp_path / "odd"), embedder.embed(tmp_path / "odd").numpy()
    assert ours.shape == theirs.shape == (len(files), 8) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert model.fingerprint == embedder.fingerprint
    for path in list(files.values())[:3]:
        np.testing.assert_allclose(model.embed(path), embedder.embed(path).numpy(), atol=2e-6)


def test_batches_threads_and_streams_change_no_embedding(model, image_folder):
    whole = model.embed(image_folder)
    parts = list(model.stream(image_folder, batch_size=7))
    assert [len(part.paths) for part in parts] == [7, 7, 7, 7, 7, 7, 6]
    np.testing.assert_allclose(np.concatenate([p.embeddings for p in parts]), whole, atol=1e-6)
    assert [path for part in parts for path in part.paths] == sorted(image_folder.rglob("*.png"))
    assert [len(part.paths) for part in model.stream(image_folder / "class0", batch_size=1)] == [
        1, 1, 1, 1, 1, 1,
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="batch_size"):
        model.stream(image_folder, batch_size=0)


def test_images_in_memory_are_prepared_like_files(model, image_folder):
    path = image_folder / "class1/2.png"
    image = Image.open(path)
    forms = [path, str(path), image, np.asarray(image), torch.tensor(np.asarray(image)).numpy()]
    expected = model.embed(path)[0]
    for row in model.embed(forms):
        np.testing.assert_allclose(row, expected, atol=1e-6)
    with pytest.raises(DataError, match="images: is not an image, got 'int'"):
        model.embed(3)
    with pytest.raises(DataError, match="image 1: is not an image, got 'dict'"):
        model.embed([path, {}])
    assert model.embed([]).shape == (0, 8)


def test_one_opened_image_that_comes_several_times_is_read_once(model, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    reads, load = [], PngImageFile.load

    def counted(image):
        reads.append(threading.get_ident())
        time.sleep(0.01)  # so that other threads would begin to read too
        return load(image)

    expected = model.embed(tmp_path / "a.png")
    once = Image.open(tmp_path / "a.png")
    monkeypatch.setattr(PngImageFile, "load", counted)
    found = model.embed([once] * 8)
    assert len(set(reads)) == 1
    np.testing.assert_allclose(found, np.repeat(expected, 8, axis=0), atol=1e-6)


def test_verdicts_are_those_of_the_run(model, embedder, image_folder):
    files = sorted(image_folder.rglob("*.png"))[::7]
    for a, b in pairwise(files):
        ours, theirs = model.verify(a, b), embedder.verify(a, b)
        assert ours.same == theirs.same and ours.threshold == theirs.threshold
        assert ours.score == pytest.approx(theirs.score, abs=5e-6)
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-3)
    assert model.verify(files[0], files[0]).score == 1
    similar = model.similarity(files[:3], files)
    np.testing.assert_allclose(similar, embedder.similarity(files[:3], files), atol=5e-6)


def test_an_image_is_compared_with_one_image(model, image_folder):
    with pytest.raises(DataError, match="compares one image with one other image, got '48 and 1'"):
        model.verify(image_folder, image_folder / "class0/0.png")


def test_it_searches_the_indexes_of_its_run(exported_run, model, embedder, image_folder, tmp_path):
    siamkit.build_index(exported_run[0], image_folder, tmp_path / "index", device="cpu", workers=0)
    queries = sorted(image_folder.rglob("*.png"))[::9]
    ours = model.search(queries, tmp_path / "index", k=5)
    theirs = embedder.search(queries, siamkit.load_index(tmp_path / "index"), k=5)
    assert ours.paths == theirs.paths and ours.labels == theirs.labels
    assert ours.indices.tolist() == theirs.indices.tolist()
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=5e-6)


def test_an_index_of_another_network_is_refused(model, image_folder, tmp_path):
    other = siamkit.Embedder(siamkit.create_model("timm:test_resnet", pretrained=False))
    from siamkit.inference.gallery.build import build_index

    build_index(other, image_folder / "class0", tmp_path / "index", run=Path("run"))
    with pytest.raises(CheckpointError, match="was built with another network"):
        model.search(image_folder / "class0/0.png", tmp_path / "index")


def test_a_network_of_another_export_is_refused(folder, tmp_path):
    """A flipped bit anywhere in the folder is an error that names the file."""
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for place in sorted({0, len(content) - 1, *rng.integers(0, len(content), 40).tolist()}):
            bit = 1 << int(rng.integers(8))
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            if path.name == MANIFEST and same_values(path, content):
                continue
            with pytest.raises(CheckpointError, match=path.name) as caught:
                ExportedModel(folder)
            assert "\n" not in str(caught.value)
        path.write_bytes(content)
    assert ExportedModel(folder).embedding_dim == 8


def same_values(path: Path, content: bytes) -> bool:
    """Return whether a file still holds the values of ``content``, in another layout."""
    try:
        return json.loads(path.read_bytes()) == json.loads(content)
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["model.onnx", "README.md"])
def test_a_missing_file_is_refused(name, folder):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}.*the file is missing; export the run"):
        ExportedModel(folder)


def tensors(**changes):
    return lambda values: values["tensors"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (tensors(width=9), r"does not match export.json, got 'inputs .*; outputs .*\[N, 8\]'"),
        (tensors(input="x"), "allowed: the input x"),
        (tensors(output="y"), "the output y"),
        (lambda v: (v["images"].update(size=[48, 48]), tensors(shape=[3, 48, 48])(v)),
         r"got 'inputs images tensor\(float\) \[N, 3, 32, 32\]"),
    ],
)  # fmt: skip
def test_a_card_that_describes_another_network_is_refused(change, message, folder):
    resealed(folder, change)
    with pytest.raises(CheckpointError, match=message):
        ExportedModel(folder)


def test_a_sealed_file_that_is_no_network_is_refused(folder):
    path = folder / "model.onnx"
    path.write_bytes(b"no network")
    seal = seal_of(path)
    resealed(folder, lambda v: v["files"].update({path.name: vars(seal)}))
    with pytest.raises(CheckpointError, match="onnxruntime cannot load the network") as caught:
        ExportedModel(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        ("", "RuntimeError; "),
        (" \n first \nsecond", "RuntimeError: first; "),
        ("x" * 200, f"RuntimeError: {'x' * 200}; "),
        ("x" * 201, f"RuntimeError: {'x' * 200}; "),
    ],
)
def test_the_first_line_of_a_packages_message_is_told(problem, told, folder, monkeypatch):
    def fails(content, threads, **how):
        raise RuntimeError(problem)

    monkeypatch.setattr(sessions, "onnx_network", fails)
    with pytest.raises(CheckpointError) as caught:
        ExportedModel(folder)
    assert f": onnxruntime cannot load the network: {told}" in str(caught.value)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("out of memory")])
def test_memory_that_runs_out_is_no_damage(error, folder, monkeypatch):
    def fails(content, threads, **how):
        raise error

    monkeypatch.setattr(sessions, "onnx_network", fails)
    with pytest.raises(type(error)) as caught:
        ExportedModel(folder)
    assert caught.value is error


def test_a_network_that_gives_nan_is_refused(model, image_folder, monkeypatch):
    path = image_folder / "class0/0.png"
    monkeypatch.setattr(model, "_run", lambda images: np.full((len(images), 8), np.nan, "f"))
    with pytest.raises(NonFiniteError, match=str(path)):
        model.embed(path)
    monkeypatch.setattr(model, "_run", lambda images: np.zeros((len(images), 8), "f"))
    with pytest.raises(DataError, match="consists of zeros"):
        model.verify(path, path)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")
def test_openvino_gives_the_same_embeddings(exported_run, model, image_folder, tmp_path):
    siamkit.export(exported_run[0], tmp_path / "model", format="openvino")
    by_openvino = ExportedModel(tmp_path / "model", threads=1)
    assert by_openvino.kernel_name == "openvino"
    np.testing.assert_allclose(
        by_openvino.embed(image_folder), model.embed(image_folder), atol=2e-6
    )
    resealed(tmp_path / "model", tensors(width=9))
    with pytest.raises(CheckpointError, match=r"outputs embeddings f32 \[N, 8\]"):
        ExportedModel(tmp_path / "model")


@pytest.mark.parametrize("kind", ["torch", "timm"])
def test_a_model_for_torch_is_refused(kind, folder):
    resealed(folder, lambda values: values.update(kind=kind))
    with pytest.raises(ConfigError, match=f"was exported for {kind}, which cannot run without"):
        ExportedModel(folder)


def test_a_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError) as caught:
        ExportedModel(folder)
    assert caught.value.what == "needs the package onnxruntime"
    assert caught.value.hint == "pip install onnxruntime"


@pytest.mark.parametrize("error", [ImportError("libgomp.so"), ModuleNotFoundError("x", name="x")])
def test_a_package_that_does_not_load_is_told_with_the_reason(error, folder, monkeypatch):
    def fails(name):
        raise error

    monkeypatch.setattr(sessions, "_package", fails)
    with pytest.raises(ConfigError) as caught:
        ExportedModel(folder)
    assert caught.value.what == f"needs the package onnxruntime, which does not load: {error}"


def test_without_a_threshold_there_are_embeddings_but_no_verdicts(folder, image_folder):
    resealed(folder, lambda values: values.update(calibration=None))
    model = ExportedModel(folder)
    assert "no threshold" in repr(model) and len(model.embed(image_folder)) == 48
    with pytest.raises(CheckpointError, match="has no threshold; run 'siamkit calibrate RUN'"):
        model.verify(image_folder / "class0/0.png", image_folder / "class0/1.png")


def test_images_above_the_limit_of_the_run_are_refused(folder, tmp_path):
    resealed(folder, lambda values: values["images"].update(max_pixels=1000))
    Image.new("RGB", (100, 100)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match=r"large\.png: the image has too many pixels: 10,000"):
        ExportedModel(folder).embed(tmp_path / "large.png")
