"""Formats: what a network can be exported to, and the packages that each format needs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from siamkit.errors import ConfigError
from siamkit.portable.manifest import Kind
from siamkit.spelling import argument

INT8: Final = "int8"


@dataclass(frozen=True)
class Format:
    """A format of exported networks.

    Attributes:
        name: The name on the command line.
        model: The main file of the network.
        packages: The packages that write and run the format.
        quantizers: The packages that quantize the format; None if it cannot be quantized.
    """

    name: Kind
    model: str
    packages: tuple[str, ...] = ()
    quantizers: tuple[str, ...] | None = None


FORMATS = {
    format.name: format
    for format in (
        Format("onnx", "model.onnx", ("onnx", "onnxscript", "onnxruntime"), ()),
        Format("openvino", "model.xml", ("openvino",), ("nncf",)),
        Format("torch", "model.safetensors"),
        Format("timm", "model.safetensors"),
    )
}
"""The formats by name."""


def format_of(name: object, quantize: object = None) -> Format:
    """Return a format, after a check that it can be written here.

    Args:
        name: The name of the format.
        quantize: ``int8``, or None for float32.

    Raises:
        ConfigError: There is no such format, it cannot be quantized, or a package is missing.
    """
    if not isinstance(name, str) or name not in FORMATS:
        raise ConfigError(
            "no such format", where=argument("format"), got=name, allowed=", ".join(FORMATS)
        )
    if quantize not in (None, INT8):
        raise ConfigError(
            "no such type", where=argument("quantize"), got=quantize, allowed=INT8,
            hint=f"leave {argument('quantize')} out for float32",
        )  # fmt: skip
    format = FORMATS[name]
    if quantize and format.quantizers is None:
        able = ", ".join(one.name for one in FORMATS.values() if one.quantizers is not None)
        raise ConfigError(
            f"works only with the formats {able}", where=argument("quantize", INT8), got=name,
            hint=f"add {argument('format', 'onnx')}, or leave {argument('quantize')} out",
        )  # fmt: skip
    needed = (*format.packages, *(format.quantizers or () if quantize else ()))
    if absent := [package for package in needed if find_spec(package) is None]:
        verb = "is" if len(absent) == 1 else "are"
        raise ConfigError(
            f"needs {', '.join(absent)}, which {verb} not installed",
            where=argument("format", name),
            hint="pip install 'siamkit[export]'",
        )
    return format
