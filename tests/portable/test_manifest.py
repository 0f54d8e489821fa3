from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from siamkit import portable
from siamkit.errors import CheckpointError, ConfigError
from siamkit.json_files import sealed
from siamkit.portable.manifest import (
    CARD,
    MANIFEST,
    FileSeal,
    Images,
    is_export,
    read_files,
    read_manifest,
    write_manifest,
)
from siamkit.portable.preprocessing import Preprocessing

from .exports import SHA, folder_of, manifest_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "export")


def test_what_was_written_is_read(folder: Path):
    read = read_manifest(folder)
    assert read == manifest_of(folder)
    assert read_files(folder, read) == {"model.onnx": b"a network", CARD: b"# A card\n"}
    assert is_export(folder) and not is_export(folder.parent)


@pytest.mark.parametrize("value_range", [None, 1, 12, 16, (0.0, 1.5)])
def test_the_preprocessing_survives(value_range):
    given = Preprocessing((0.5,), (0.25,), (64, 96), "bicubic", 0.9, "pad", value_range)
    assert Images.of(given, 1000).preprocessing == given


def test_a_folder_may_have_no_threshold(tmp_path: Path):
    assert read_manifest(folder_of(tmp_path / "export", calibration=None)).calibration is None


@pytest.mark.slow
def test_every_changed_byte_of_every_file_is_refused(folder: Path):
    manifest = read_manifest(folder)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for place in range(len(content)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            if path.name == MANIFEST:
                refused_or_same(folder, manifest)
            else:
                with pytest.raises(CheckpointError, match=path.name):
                    read_files(folder, manifest)
        path.write_bytes(content[:-2])
        with pytest.raises(CheckpointError, match=path.name):
            read_files(folder, read_manifest(folder))
        path.write_bytes(content)


def refused_or_same(folder: Path, manifest) -> None:
    """A changed byte of the layout, such as a blank that becomes a newline, changes no value."""
    try:
        assert read_manifest(folder) == manifest
    except CheckpointError as error:
        assert MANIFEST in str(error)


@pytest.mark.parametrize(
    "change",
    [
        {"calibration": {**manifest_of(Path("/nowhere")).calibration.to_json(), "threshold": 0.1}},
        {"precision": "int8"},
        {"tensors": {"input": "x", "shape": [3, 64, 64], "output": "y", "width": 1,
                     "normalized": False}},
    ],
)  # fmt: skip
def test_an_edited_value_is_refused_although_it_is_within_bounds(change, folder: Path):
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match="damaged or was edited") as caught:
        read_manifest(folder)
    assert str(path) in str(caught.value) and "export the run again" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"another version of the format, got 2, allowed: 1; .*0\.1\.0"),
        ({"format": True}, "another version"),
        ({"kind": "pickle"}, "kind: must be one of onnx"),
        ({"model": "other.onnx"}, "model: is not among the files"),
        ({"files": {"../model.onnx": {"bytes": 1, "sha256": SHA}}}, "model: is not among"),
        ({"model": "../x", "files": {"../x": {"bytes": 1, "sha256": SHA}}}, "model: is malformed"),
        ({"model": "a", "files": {k: {"bytes": 1, "sha256": SHA} for k in ("a", "/etc/p")}},
         "files: is malformed: '/etc/p'"),
        ({"origin": None}, "origin: is not an object"),
        ({"notices": [1]}, r"notices\.0: must be text, and is 1"),
        ({"surprise": 1}, "surprise: is an unknown key"),
        ({"calibration": {"format": 1}}, "unknown calibration format"),
        ({"calibration": 3}, "is not a calibration"),
    ],
)  # fmt: skip
def test_a_sealed_manifest_that_makes_no_sense_is_refused(change, message, folder: Path):
    values = {**read_manifest(folder).to_json(), **change}
    (folder / MANIFEST).write_text(json.dumps(sealed(values)))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_manifest(folder)
    assert MANIFEST in str(caught.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"interpolation": "random"}, r"images\.interpolation: must be one of nearest, box, bil"),
        ({"max_pixels": 0}, r"images\.max_pixels: is out of bounds"),
        ({"std": (1.0, 1.0, 0.0)}, r"images\.std\.2: is out of bounds"),
        ({"mean": (0.5,), "std": (0.5,)}, "does not match the images"),
        ({"size": (32, 64)}, "does not match the images"),
        ({"value_range": (1.0, 0.0)}, "is not ascending"),
        ({"value_range": (1.0, 1.0)}, "is not ascending"),
        ({"mean": (0.5, 0.5)}, "another number of means than of standard deviations"),
        ({"value_range": 17}, r"images\.value_range"),
        ({"value_range": 0}, r"images\.value_range"),
        ({"fit": "stretch"}, r"images\.fit: must be one of crop, pad, squash"),
    ],
)
def test_the_writer_refuses_what_a_reader_would_refuse(images, message, folder: Path):
    manifest = read_manifest(folder)
    wrong = replace(manifest, images=replace(manifest.images, **images))
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(CheckpointError, match=message):
        write_manifest(folder, wrong)
    assert (folder / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("images", {"size": (1, 1 << 16), "max_pixels": 1}),
        ("images", {"size": (1 << 16, 1)}),
        ("images", {"crop_pct": 1.0}),
        ("tensors", {"width": 1}),
        ("tensors", {"width": 1 << 20}),
    ],
)
def test_values_at_their_bounds_are_valid(part, changes, tmp_path: Path):
    about = manifest_of(tmp_path)
    changed = {part: replace(getattr(about, part), **changes)}
    if "size" in changes:
        changed["tensors"] = replace(about.tensors, shape=(3, *changes["size"]))
    folder = folder_of(tmp_path / "export", **changed)
    assert getattr(read_manifest(folder), part) == changed[part]


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("images", {"size": (0, 64)}), ("images", {"size": (64, (1 << 16) + 1)}),
        ("images", {"crop_pct": 0.0}),
        ("tensors", {"width": 0}), ("tensors", {"width": (1 << 20) + 1}),
        ("tensors", {"shape": (5, 64, 64)}), ("tensors", {"shape": (0, 64, 64)}),
        ("tensors", {"input": ""}), ("tensors", {"output": ""}),
    ],
)  # fmt: skip
def test_values_beyond_their_bounds_are_refused(part, changes, folder: Path):
    about = read_manifest(folder)
    (name,) = changes
    with pytest.raises(CheckpointError, match=rf"{part}\.{name}"):
        write_manifest(folder, replace(about, **{part: replace(getattr(about, part), **changes)}))


def test_the_writer_refuses_files_that_changed_since_they_were_sealed(folder: Path):
    manifest = read_manifest(folder)
    (folder / "model.onnx").write_bytes(b"another network")
    with pytest.raises(CheckpointError, match=r"model\.onnx.*does not match export\.json"):
        write_manifest(folder, manifest)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(content: bytes, folder: Path):
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match=MANIFEST):
        read_manifest(folder)


def test_a_folder_without_a_manifest_is_no_export(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"has no export\.json; .*siamkit export"):
        read_manifest(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        read_manifest(tmp_path / "none")


def test_embeddings_of_float32_compare_with_those_of_the_run_and_those_of_int8_do_not(folder: Path):
    manifest = read_manifest(folder)
    assert manifest.fingerprint == manifest.origin.fingerprint
    assert replace(manifest, precision="int8").fingerprint != manifest.origin.fingerprint


def test_int8_networks_are_the_same_if_all_their_files_but_the_card_are(folder: Path):
    whole = replace(read_manifest(folder), precision="int8")

    def with_other(name: str) -> str:
        files = {**whole.files, name: FileSeal(1, "0" * 64)}
        return replace(whole, files=files).fingerprint

    assert with_other(CARD) == whole.fingerprint
    names = ("model.onnx", "model.bin", "model.xml", "LICENSE", "A")
    prints = [with_other(name) for name in names]
    assert len({whole.fingerprint, *prints}) == 6


def test_the_room_needs_neither_torch_nor_pydantic():
    code = (
        "import sys, siamkit.portable.manifest;"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"torch", "pydantic", "timm", "scipy"} & set(loaded.stdout.split())


def test_types_that_only_annotations_name_are_not_imported():
    """They would make the first import longer."""
    names = sorted(path.stem for path in Path(portable.__path__[0]).glob("[a-z]*.py"))
    modules = ", ".join(f"siamkit.portable.{name}" for name in names)
    code = f"import sys, {modules}; sys.exit('numpy.typing' in sys.modules)"
    assert len(names) > 20
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_with_a_manifest_is_an_export_damaged_or_not(folder: Path, tmp_path: Path):
    assert is_export(folder) and is_export(str(folder))
    (folder / MANIFEST).write_bytes(b"damaged")
    assert is_export(folder)
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to("nowhere")
    assert is_export(folder)
    assert not is_export(tmp_path) and not is_export(tmp_path / "missing")
    for thing in (None, 3, b"bytes", "nul\0"):
        assert not is_export(thing)
