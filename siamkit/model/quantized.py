"""The record of a quantized backbone: the first part of the network, computed in int8.

The part never trains, so it can be any fixed function of the image. The record replaces it, in a
freshly built backbone, by a graph for ONNX Runtime that computes in int8. The network that trains,
is evaluated, saved and used is then this one: nothing has to be converted later.

The graph's bytes are a buffer of the network. So they are frozen, fingerprinted, part of the
cache's key, saved in checkpoints and compared with their hash like any other tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.errors import CheckpointError, ConfigError
from siamkit.json_files import digest_of, read_sealed, write_sealed
from siamkit.portable.sessions import Network, Session, needs_exact_sums, onnx_network
from siamkit.words import plural

FORMAT = 2
ROWS = 8
"""The images that one run of the graph computes; fewer are padded. So an image's result does not
depend on the number of images."""

BUFFER = "int8_graph"


@dataclass(frozen=True)
class Quantized:
    """The record of a quantized backbone.

    Attributes:
        module: The backbone's module whose output the graph computes from the images.
        skipped: The modules before it, which pass the images on.
        image: The shape ``(C, H, W)`` of the images that the graph takes.
        shape: The shape of the module's output for one image.
        size: The size of the graph, in bytes.
        graph: The SHA-256 of the graph.
        about: How the graph was made and measured, as JSON values.
    """

    module: str
    skipped: tuple[str, ...]
    image: tuple[int, ...]
    shape: tuple[int, ...]
    size: int
    graph: str
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The SHA-256 of the record's JSON values."""
        return digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "format": FORMAT,
            **asdict(self),
            "skipped": list(self.skipped),
            "image": list(self.image),
            "shape": list(self.shape),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> Quantized:
        """Return the record that JSON values describe.

        Args:
            values: The values that :meth:`to_json` returned.
            where: The file, for errors.

        Raises:
            CheckpointError: The values are no record, or one of another format.
        """
        if values.get("format") != FORMAT:
            raise CheckpointError(
                "unknown format of a quantization record", where=where, got=values.get("format"),
                allowed=str(FORMAT),
            )  # fmt: skip
        try:
            return cls(
                str(values["module"]),
                tuple(map(str, values["skipped"])),
                tuple(int(n) for n in values["image"]),
                tuple(int(n) for n in values["shape"]),
                int(values["size"]),
                str(values["graph"]),
                dict(values["about"]),
            )
        except (KeyError, TypeError, ValueError):
            raise CheckpointError("holds no quantization record", where=where) from None

    def save(self, path: Path) -> None:
        """Write the record, sealed by its hash.

        Raises:
            ResourceError: The disk is full or not writable.
        """
        write_sealed(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Quantized:
        """Return the record in a file.

        Raises:
            CheckpointError: The file is missing, damaged or edited, or holds no record.
        """
        return cls.from_json(read_sealed(path, "restore the file int8.json of the run"), str(path))

    def apply(self, backbone: nn.Module, where: str, graph: bytes | None = None) -> None:
        """Let a backbone compute its first part by the graph, in place.

        Args:
            backbone: The backbone in float32, on the CPU. Its stages must be known: they cannot be
                discovered afterwards, because the modules of the first part no longer run.
            where: The source of the record, for errors.
            graph: The graph. None if a state that is loaded later holds it.

        Raises:
            CheckpointError: The record belongs to another network.
        """
        modules = dict(backbone.named_modules())
        missing = [name for name in (self.module, *self.skipped) if name not in modules]
        if missing:
            raise CheckpointError(
                "the quantization record belongs to another network", where=where,
                got=f"a backbone without a module {missing[0]!r}",
                hint="build the backbone by the name and options that the quantized run has",
            )  # fmt: skip
        held = torch.zeros(self.size, dtype=torch.uint8)
        if graph is not None:
            held = torch.frombuffer(bytearray(graph), dtype=torch.uint8)
        target = modules[self.module]
        target.register_buffer(BUFFER, held)
        target.__dict__["forward"] = partial(_computed, target, self)
        for name in self.skipped:
            modules[name].__dict__["forward"] = passed

    def content(self, backbone: nn.Module) -> bytes:
        """Return the graph that a backbone computes its first part by."""
        held: Tensor = getattr(backbone.get_submodule(self.module), BUFFER)
        content: bytes = held.cpu().numpy().tobytes()
        return content

    @property
    def part(self) -> str:
        """The part in words, such as ``the backbone up to layer2``."""
        stage = self.about.get("stage", self.module)
        return f"the backbone up to {stage}" if stage else "the whole backbone"

    @property
    def sentence(self) -> str:
        """What the part is and what it costs, without a full stop."""
        about = self.about
        metric = ""
        if about["float32"] is not None:
            change = f"{about['float32']:.3f} -> {about['int8']:.3f}"
            metric = f", {about['metric']} of its output {change}"
        count = len(about["floats"])
        floats = f", {count} of {about['layers']} layers in float32" if count else ""
        reasons = "; ".join(about["rejected"])
        return (
            f"{self.part} is computed in int8{floats}: calibrated on "
            f"{about['calibrated_on']} training views; on {about['judged_on']} validation images, "
            f"mean centred cosine to float32 {about['cosine']:.3f}{metric}"
            + (f". It does not reach further: {reasons}" if reasons else "")
        )

    def is_applied(self, backbone: nn.Module) -> bool:
        """Return whether a backbone already computes its first part by a graph."""
        target = dict(backbone.named_modules()).get(self.module)
        return target is not None and hasattr(target, BUFFER)

    def require_frozen(self, trainable: Iterable[str], prefix: str) -> None:
        """Check that nothing in the quantized part trains.

        Args:
            trainable: The names of the parameters that train.
            prefix: The name of the backbone in the network, with a dot.

        Raises:
            ConfigError: A parameter of the part trains.
        """
        inside = tuple(f"{prefix}{name}." for name in (self.module, *self.skipped))
        if wrong := sorted(name for name in trainable if name.startswith(inside)):
            raise ConfigError(
                f"the policy trains {plural(len(wrong), 'parameter')} of the part that is computed "
                f"in int8, such as {wrong[0]!r}",
                where="engine.prefix",
                got="int8",
                hint="choose a policy that keeps this part frozen, or engine.prefix auto",
            )


def require_float(record: Quantized | None, what: str, hint: str) -> None:
    """Refuse work on a network that has an int8 part.

    Args:
        record: The network's record; None if it has no such part.
        what: What cannot be done with it, such as ``cannot be pruned``.
        hint: What to do instead.

    Raises:
        ConfigError: There is a record.
    """
    if record is not None:
        raise ConfigError(
            f"{what}, because a part of it is computed in int8",
            where="backbone",
            got=f"{record.part} in int8",
            hint=hint,
        )


def passed(images: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the images: the graph computes what the module would."""
    return images


def _computed(module: nn.Module, record: Quantized, images: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the output ``[N, *shape]`` of the graph that a module holds.

    Raises:
        ConfigError: The graph cannot compute these images, or not with this network.
    """
    _require_images(module, record, images)
    graph = getattr(module, BUFFER)
    result: Tensor = torch.ops.siamkit.int8(images, graph, record.graph, list(record.shape))
    return result


def _require_images(module: nn.Module, record: Quantized, images: Tensor) -> None:
    """Check that the graph can compute images.

    Raises:
        ConfigError: It cannot; the message says why.
    """
    types = {tensor.dtype for tensor in (images, *module.parameters())}
    if wrong := sorted(str(t).removeprefix("torch.") for t in types - {torch.float32}):
        raise _refused(
            "takes and gives float32 only", wrong[0],
            "float32", "leave the network and the images in float32; torch.autocast is possible",
        )  # fmt: skip
    if tuple(images.shape[1:]) != record.image:
        raise _refused(
            "was calibrated for images of one size", list(images.shape),
            f"[N, {', '.join(map(str, record.image))}]",
            "prepare the images by the network's own preprocessing",
        )  # fmt: skip
    if images.requires_grad and torch.is_grad_enabled():
        raise _refused(
            "has no gradient of its images", "images that require a gradient",
            "images without one",
            "detach the images, or use a network that was trained without engine.prefix=int8",
        )  # fmt: skip


def _refused(why: str, got: object, allowed: str, hint: str) -> ConfigError:
    return ConfigError(
        f"the part of the network that is computed in int8 {why}",
        where="images", got=got, allowed=allowed, hint=hint,
    )  # fmt: skip


@torch.library.custom_op("siamkit::int8", mutates_args=())
def _int8(images: Tensor, graph: Tensor, digest: str, shape: list[int]) -> Tensor:
    """Return the output of a graph for images ``[N, C, H, W]``, as an operation of torch.

    As an operation it can be traced, counted and captured, unlike a call of ONNX Runtime.
    """
    if not len(images):
        return images.new_zeros(0, *shape, dtype=torch.float32)
    network = _network(_Graph(digest, torch.get_num_threads(), graph))
    return in_rows(network.run, images.detach().cpu().float()).to(images.device)


def in_rows(run: Session, images: Tensor) -> Tensor:
    """Return the output of a session that takes :data:`ROWS` images, for one or more images."""
    parts = []
    for part in images.split(ROWS):
        padding = part[:1].expand(ROWS - len(part), *part.shape[1:])
        output = run(torch.cat([part, padding]).contiguous().numpy())
        parts.append(torch.from_numpy(output)[: len(part)])
    return torch.cat(parts)


@_int8.register_fake
def _shape_of_int8(images: Tensor, graph: Tensor, digest: str, shape: list[int]) -> Tensor:
    return images.new_empty(images.shape[0], *shape, dtype=torch.float32)


@dataclass(frozen=True)
class _Graph:
    """A graph and the threads that run it. Graphs of one digest are equal."""

    digest: str
    threads: int
    content: Tensor = field(compare=False, repr=False)


@lru_cache(maxsize=4)
def _network(graph: _Graph) -> Network:
    """Return the session of a graph, which takes a second to open."""
    content = graph.content.cpu().numpy().tobytes()
    if hashlib.sha256(content).hexdigest() != graph.digest:
        raise CheckpointError(
            "the int8 part of the network is not the one that the run's int8.json names",
            hint="restore the run's checkpoints and int8.json",
        )
    try:
        # Weights of 8 bits overflow on a CPU that adds products in 16 bits.
        return onnx_network(content, graph.threads, exact=needs_exact_sums())
    except ImportError:
        raise ConfigError(
            "a part of the network is computed in int8, which needs the package onnxruntime",
            hint="pip install onnxruntime",
        ) from None
