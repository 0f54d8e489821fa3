"""The inputs of the readers: valid files, ways to damage them, and invented ones."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet


def image(kind: str) -> bytes:
    """Return an image of a format as the content of a file."""
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


def pickled() -> bytes:
    """Return the content of a .pth file."""
    stream = io.BytesIO()
    torch.save({"a.weight": torch.ones(3, 2), "a.bias": torch.zeros(3)}, stream)
    return stream.getvalue()


def table_file(text: str) -> bytes:
    """Return a table, given as CSV, as the content of a Parquet file."""
    header, *rows = [line.split(",") for line in text.splitlines()]
    stream = io.BytesIO()
    columns = zip(*rows, strict=True)
    parquet.write_table(pa.table(dict(zip(header, map(list, columns), strict=True))), stream)
    return stream.getvalue()


def npy_file() -> bytes:
    """Return two embeddings of width 8 as the content of a .npy file."""
    stream = io.BytesIO()
    np.save(stream, np.eye(2, 8, dtype=np.float32))
    return stream.getvalue()


CELLS = ["a.png", "../x.png", "/etc/passwd", "", "nan", "None", "1.0", "true", '"', "ü", "=1+1"]
TABLE = st.lists(
    st.lists(st.sampled_from(CELLS) | st.text(max_size=8), min_size=1, max_size=4), max_size=6
).map(lambda rows: "\n".join(",".join(row) for row in rows))
TABLES = [
    "path,label\na.png,x\nb.png,x\nc.png,y\nd.png,y\n",
    "path,label,split\na.png,x,train\nb.png,x,train\nc.png,y,val\nd.png,y,val\n",
    "a,b,same\na.png,b.png,1\nc.png,d.png,0\n",
    "anchor,positive,negative\na.png,b.png,c.png\n",
]
LFW = "2\t1\nanna\t1\t2\nanna\t1\tben\t1\nben\t1\t2\nben\t2\tcleo\t1\n"
HEADERS = ["path,label", "path,label,split", "a,b,same", "anchor,positive,negative", "x"]
KEYS = ["train.epochs", "data.path", "optimizer.lr", "loss", "freeze.patterns", "data.fit", "x"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
YAML = st.lists(
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
