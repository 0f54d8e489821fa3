"""Damaged and invented input: each reader must return a value or raise a siamkit error."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from records import Record

from siamkit.api import load_config
from siamkit.config import RunConfig
from siamkit.config.layers import parse_sets, read_file
from siamkit.data.opening import open_source
from siamkit.errors import SiamkitError
from siamkit.inference.gallery.index import Index
from siamkit.json_files import read_json, read_sealed, sealed
from siamkit.model.weights import read_tensors
from siamkit.portable.calibration import Calibration
from siamkit.portable.decode import Decoding, decode
from siamkit.portable.looking import look
from siamkit.portable.pair_lists import read_pairs
from siamkit.runs import checkpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut
from siamkit.runs.log import read_log


def _image(kind: str) -> bytes:
    rng = np.random.default_rng(0)
    modes: dict[str, Any] = {
        "tiff16": Image.fromarray(rng.integers(0, 4096, (9, 7), dtype=np.uint16)),
        "gif": Image.fromarray(rng.integers(0, 255, (9, 7), dtype=np.uint8)).convert("P"),
    }
    image = modes.get(kind, Image.fromarray(rng.integers(0, 255, (9, 7, 3), dtype=np.uint8)))
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x112] = 6
    named = {"exif": exif} if kind in ("jpeg", "png", "webp") else {}
    image.save(stream, "tiff" if kind == "tiff16" else kind, **named)
    return stream.getvalue()


def _pickled() -> bytes:
    stream = io.BytesIO()
    torch.save({"a.weight": torch.ones(3, 2), "a.bias": torch.zeros(3)}, stream)
    return stream.getvalue()


_CELLS = ["a.png", "../x.png", "/etc/passwd", "", "nan", "None", "1.0", "true", '"', "ü", "=1+1"]
_TABLE = st.lists(
    st.lists(st.sampled_from(_CELLS) | st.text(max_size=8), min_size=1, max_size=4), max_size=6
).map(lambda rows: "\n".join(",".join(row) for row in rows))
_TABLES = [
    "path,label\na.png,x\nb.png,x\nc.png,y\nd.png,y\n",
    "path,label,split\na.png,x,train\nb.png,x,train\nc.png,y,val\nd.png,y,val\n",
    "a,b,same\na.png,b.png,1\nc.png,d.png,0\n",
    "anchor,positive,negative\na.png,b.png,c.png\n",
]
_HEADERS = ["path,label", "path,label,split", "a,b,same", "anchor,positive,negative", "x"]
_KEYS = ["train.epochs", "data.path", "optimizer.lr", "loss", "freeze.patterns", "data.fit", "x"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_YAML = st.lists(
    st.sampled_from([*"abz019:-[]{}&*!|>#'\" \n\t.,?%@", "data", "epochs", "\0", "é"]), max_size=60
).map("".join)


@st.composite
def damaged(draw: Callable[..., Any], wholes: list[bytes]) -> bytes:
    """Damage a valid file: flip, cut, repeat, overwrite, or splice with another one."""
    content = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(0, 4))):
        size = max(len(content), 1)
        at = draw(st.integers(0, size - 1))
        way = draw(st.sampled_from(["flip", "cut", "insert", "repeat", "zero", "splice"]))
        if way == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif way == "cut":
            del content[at:]
        elif way == "insert":
            content[at:at] = draw(st.binary(max_size=8))
        elif way == "repeat":
            content[at:at] = content[at : at + draw(st.integers(0, 64))]
        elif way == "zero":
            content[at : at + 8] = bytes(len(content[at : at + 8]))
        elif way == "splice":
            other = draw(st.sampled_from(wholes))
            content[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(content)


class Readers:
    """The readers by name, each with a strategy for its input and a function that reads a file."""

    def __init__(self, folder: Path, run: Path, index: Path) -> None:
        self.folder = folder
        self.run, self.index = run, index
        (folder / "a.png").write_bytes(_image("png"))
        newest = checkpoint.newest_first(run / "checkpoints")[0]
        images = [_image(k) for k in ("png", "jpeg", "bmp", "gif", "webp", "tiff", "tiff16")]
        tables = [text.encode() for text in _TABLES]
        table = (
            damaged(tables)
            | st.builds(lambda h, body: f"{h}\n{body}".encode(), st.sampled_from(_HEADERS), _TABLE)
            | st.binary(max_size=60)
        )
        jsons = _JSON.map(lambda v: json.dumps(v).encode()) | st.binary(max_size=40)
        resealed = st.dictionaries(st.text(max_size=8), _JSON, max_size=4).map(
            lambda v: json.dumps(sealed(json.loads(json.dumps(v, default=str)))).encode()
        )

        def whole(path: Path) -> Any:
            return damaged([path.read_bytes()])

        self.all: dict[str, tuple[Any, Callable[[Path], Any]]] = {
            "images": (damaged(images) | st.binary(max_size=60), self._image),
            "tables of images": (table, self._source),
            "lists of pairs": (table, read_pairs),
            "YAML": (_YAML.map(str.encode) | damaged([RunConfig().to_yaml().encode()]), self._yaml),
            "--set": (
                st.builds("{}={}".format, st.sampled_from(_KEYS), _YAML).map(str.encode),
                self._set,
            ),
            "JSON": (jsons, read_json),
            "sealed JSON": (jsons | resealed, read_sealed),
            "calibrations": (whole(run / "calibration.json") | resealed, Calibration.load),
            "manifests": (
                whole(newest / "manifest.json") | resealed,
                partial(self._checkpoint, newest, "manifest.json"),
            ),
            "states": (
                whole(newest / "state.json"),
                partial(self._checkpoint, newest, "state.json"),
            ),
            "event logs": (whole(run / "events.jsonl") | jsons, read_log),
            "held-out embeddings": (whole(run / "embeddings/val.safetensors"), self._held_out),
            "weights (.safetensors)": (
                whole(newest / "model.safetensors"), partial(self._weights, ".safetensors")),
            "weights (.pth)": (
                damaged([_pickled()]) | st.binary(max_size=60), partial(self._weights, ".pth")),
            "indices": (
                whole(index / "meta.json") | jsons | resealed, partial(self._index, "meta.json")),
        }  # fmt: skip

    def _image(self, path: Path) -> None:
        list(look([path], full=True))
        decode(path, Decoding(3))

    def _source(self, path: Path) -> None:
        open_source(str(path))

    def _yaml(self, path: Path) -> None:
        load_config(read_file(path.rename(path.with_suffix(".yaml"))))

    def _set(self, path: Path) -> None:
        load_config(parse_sets([path.read_bytes().decode(errors="replace")]))

    def _checkpoint(self, newest: Path, name: str, path: Path) -> None:
        place = path.with_suffix(".ckpt") / newest.name
        shutil.copytree(newest, place)
        (place / name).write_bytes(path.read_bytes())
        try:
            checkpoint.load(place)
        finally:
            shutil.rmtree(place.parent)

    def _held_out(self, path: Path) -> None:
        run = path.with_suffix(".run")
        (run / "embeddings").mkdir(parents=True)
        path.rename(run / "embeddings/val.safetensors")
        HeldOut.load(RunDir(run), "val")

    def _weights(self, suffix: str, path: Path) -> None:
        read_tensors(path.rename(path.with_suffix(suffix)))

    def _index(self, name: str, path: Path) -> None:
        place = path.with_suffix(".index")
        shutil.copytree(self.index, place)
        (place / name).write_bytes(path.read_bytes())
        Index(place)


def cases(kills: Any, count: int, number: int) -> Iterator[tuple[str, Callable[[], Record]]]:
    """Yield the name of each reader, and a function that tries it; ``count`` inputs in all."""
    if not count:
        return
    from subjects import Subject

    whole, _, _ = kills.whole(Subject("stages", True))
    folder = Path(tempfile.mkdtemp(dir=kills.folder, prefix="fuzz-"))
    made = kills.programs.run(
        ["index", whole, kills.images, "-o", folder / "index", "--workers", "0"], folder / "none"
    )
    assert made.code == 0, made.err
    readers = Readers(folder, whole, folder / "index")
    each = -(-count // len(readers.all))
    for name in readers.all:
        yield name, partial(case, readers, name, each, number)


def case(readers: Readers, name: str, count: int, number: int) -> Record:
    """Give one reader ``count`` inputs."""
    strategy, read = readers.all[name]
    told = {"read": 0, "refused": 0}

    @seed(number)
    @settings(
        max_examples=count, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip
    @given(strategy)
    def attempt(content: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=readers.folder) as place:
            suffix = {"images": ".png", "tables of images": ".csv", "lists of pairs": ".csv"}
            path = Path(place) / f"input{suffix.get(name, '.json')}"
            path.write_bytes(content)
            for copy in "abcd":
                shutil.copy(readers.folder / "a.png", f"{place}/{copy}.png")
            try:
                read(path)
                told["read"] += 1
            except SiamkitError as error:
                assert error.exit_code != 1, error
                told["refused"] += 1

    problem = None
    try:
        attempt()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        notes = " ".join(getattr(error, "__notes__", []))
        problem = f"{type(error).__name__}: {error} {notes}"[:1500]
    total = sum(told.values())
    happened = problem or f"{told['read']} read, {told['refused']} refused"
    return Record("fuzz", f"{number}/{name}", name, f"{total} inputs", happened, problem, total)
