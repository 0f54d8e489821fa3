"""The readers that get damaged and invented input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from inputs import (
    HEADERS,
    JSON,
    KEYS,
    LFW,
    TABLE,
    TABLES,
    YAML,
    damaged,
    image,
    npy_file,
    pickled,
    table_file,
)

import siamkit
from siamkit.api import load_config
from siamkit.config import RunConfig
from siamkit.config.layers import parse_sets, read_file
from siamkit.data.opening import open_source
from siamkit.engine.cache.budget import list_stores
from siamkit.engine.cache.layout import STORE_FILE, StoreSpec
from siamkit.engine.cache.shards import Shard
from siamkit.engine.cache.store import DTYPES, open_store
from siamkit.errors import SiamkitError
from siamkit.inference.gallery.index import Index
from siamkit.interfaces import Preprocessing
from siamkit.json_files import read_json, read_sealed, sealed
from siamkit.keys import KEY_BYTES
from siamkit.model.pretrained.folder import read_folder
from siamkit.model.pruning import Cut, PrunedLayer, Pruning
from siamkit.model.weights import read_tensors
from siamkit.portable.calibration import Calibration
from siamkit.portable.decode import Decoding, decode
from siamkit.portable.embedding_files import read_embeddings
from siamkit.portable.gallery import Gallery
from siamkit.portable.looking import look
from siamkit.portable.manifest import (
    Images,
    Manifest,
    Origin,
    Tensors,
    read_manifest,
    require_whole,
    seal_of,
    write_manifest,
)
from siamkit.portable.pair_lists import read_pairs
from siamkit.runs import checkpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut
from siamkit.runs.log import read_log


class Readers:
    """The readers by name, each with a strategy for its input and a function that reads a file."""

    def __init__(self, folder: Path, run: Path, index: Path, cache: Path) -> None:
        self.folder = folder
        self.run, self.index = run, index
        self.shard = min(cache.rglob("shard-*"))
        self.store = self.shard.parent
        self.export, self.pretrained = _export(folder / "export"), folder / "pretrained"
        siamkit.save_pretrained(run, self.pretrained)
        _PRUNING.save(folder / "pruning.json")
        (folder / "a.png").write_bytes(image("png"))
        newest = checkpoint.newest_first(run / "checkpoints")[0]
        images = [image(k) for k in ("png", "jpeg", "bmp", "gif", "webp", "tiff", "tiff16")]
        tables = [text.encode() for text in TABLES]
        table = (
            damaged(tables)
            | st.builds(lambda h, body: f"{h}\n{body}".encode(), st.sampled_from(HEADERS), TABLE)
            | st.binary(max_size=60)
        )
        jsons = JSON.map(lambda v: json.dumps(v).encode()) | st.binary(max_size=40)
        resealed = st.dictionaries(st.text(max_size=8), JSON, max_size=4).map(
            lambda v: json.dumps(sealed(json.loads(json.dumps(v, default=str)))).encode()
        )

        parquets = damaged([table_file(text) for text in TABLES]) | st.binary(max_size=60)

        def whole(path: Path) -> Any:
            return damaged([path.read_bytes()])

        def overwritten(path: Path) -> Any:
            """Damage that keeps the file's size, which is often checked first."""
            content = path.read_bytes()
            return st.builds(
                lambda at, new: (content[:at] + new + content[at + len(new) :])[: len(content)],
                st.integers(0, len(content) - 1),
                st.binary(max_size=9)
                | st.sampled_from([b"null", b"[]", b"1e999", b'"', b"{", b"}"]),
            )

        self.all: dict[str, tuple[Any, Callable[[Path], Any]]] = {
            "images": (damaged(images) | st.binary(max_size=60), self._image),
            "tables of images": (table, partial(self._source, ".csv")),
            "lists of pairs": (table, read_pairs),
            "tables of images (.parquet)": (parquets, partial(self._source, ".parquet")),
            "lists of pairs (.parquet)": (
                parquets, lambda path: read_pairs(path.rename(path.with_suffix(".parquet")))),
            "LFW's pairs.txt": (
                damaged([LFW.encode()]) | st.binary(max_size=60), partial(self._source, ".txt")),
            "YAML": (YAML.map(str.encode) | damaged([RunConfig().to_yaml().encode()]), self._yaml),
            "--set": (
                st.builds("{}={}".format, st.sampled_from(KEYS), YAML).map(str.encode),
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
                damaged([pickled()]) | st.binary(max_size=60), partial(self._weights, ".pth")),
            "indices": (
                whole(index / "meta.json") | jsons | resealed, partial(self._index, "meta.json")),
            **{
                f"indices ({name})": (
                    whole(index / name) | overwritten(index / name), partial(self._index, name))
                for name in ("items.jsonl", "offsets.npy", "embeddings.npy")
            },
            "embedding files (.npy)": (
                damaged([npy_file()]) | st.binary(max_size=60),
                partial(self._embeddings, b"path\na.png\nb.png\n"),
            ),
            "embedding files (.csv)": (
                damaged([b"path\na.png\nb.png\n"]) | table,
                lambda path: self._embeddings(path.read_bytes(), path, npy_file()),
            ),
            "exports": (whole(self.export / "export.json") | jsons | resealed, self._exported),
            "pruning records": (
                whole(folder / "pruning.json") | jsons | resealed, Pruning.load),
            "pretrained folders": (
                whole(self.pretrained / "config.json") | jsons, self._pretrained),
            "caches (store.json)": (
                whole(self.store / STORE_FILE) | jsons, partial(self._cache, STORE_FILE)),
            "caches (shard)": (
                whole(self.shard) | overwritten(self.shard),
                partial(self._cache, self.shard.name),
            ),
        }  # fmt: skip

    def _image(self, path: Path) -> None:
        list(look([path], full=True))
        decode(path, Decoding(3))

    def _source(self, ending: str, path: Path) -> None:
        open_source(str(path.rename(path.with_suffix(ending))))

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
        with suppress(SiamkitError):
            Index(place)
        gallery = Gallery(place, verify=False)  # now only the sizes of files are checked
        for number in range(len(gallery)):
            gallery.item(number)
        with np.errstate(all="ignore"):  # any number may stand for an embedding's
            gallery.search(np.ones((1, gallery.embedding_dim), np.float32), 2)

    def _embeddings(self, names: bytes, path: Path, content: bytes | None = None) -> None:
        path.with_suffix(".npy").write_bytes(content or path.read_bytes())
        path.with_suffix(".csv").write_bytes(names)
        read_embeddings(path.with_suffix(".npy"), 8)

    def _exported(self, path: Path) -> None:
        place = path.with_suffix(".export")
        shutil.copytree(self.export, place)
        path.rename(place / "export.json")
        require_whole(place, read_manifest(place))

    def _pretrained(self, path: Path) -> None:
        place = path.with_suffix(".pretrained")
        shutil.copytree(self.pretrained, place)
        path.rename(place / "config.json")
        read_folder(place)

    def _cache(self, name: str, path: Path) -> None:
        """Read a store with a damaged file. It raises nothing, because rows can be made again."""
        spec = StoreSpec.read(self.store)
        assert spec is not None
        found = Shard.open(self.shard, self.store.name, spec).keys
        keys = [bytes(key).ljust(KEY_BYTES, b"\0") for key in found]  # numpy drops zeros at the end
        place = path.with_suffix(".cache") / self.store.name
        shutil.copytree(self.store, place)
        (place / name).write_bytes(path.read_bytes())
        list_stores(place.parent)
        dtype = next(dtype for dtype, name in DTYPES.items() if name == spec.dtype)
        with open_store(place.parent, spec.description, spec.shape, dtype) as store:
            if not store.missing(keys):
                store.rows(keys).gather(torch.arange(len(keys)))


_PRUNING = Pruning(
    {
        "conv": PrunedLayer({"out_channels": 3}, {"weight": (Cut(8, (0, 2, 5)), None, None, None)}),
        "fc": PrunedLayer({"in_features": 3}, {"weight": (None, Cut(8, (0, 2, 5)))}),
    },
    {"ratio": 0.5},
)


def _export(folder: Path) -> Path:
    """Write an exported folder without a real network."""
    folder.mkdir()
    for name in ("model.onnx", "README.md"):
        (folder / name).write_text(name)
    sha = "0" * 64
    write_manifest(
        folder,
        Manifest(
            siamkit="0.1.0",
            kind="onnx",
            precision="float32",
            model="model.onnx",
            files={path.name: seal_of(path) for path in folder.iterdir()},
            images=Images.of(Preprocessing(size=(24, 24)), 1_000_000),
            tensors=Tensors("images", (3, 24, 24), "embeddings", 32, True),
            calibration=None,
            origin=Origin("a", "best", "epoch-1", 1, sha, sha, {"train": sha}),
            quality=(),
            notices=("read this",),
        ),
    )
    return folder
