"""The manifest of an exported model: ``export.json``, which describes the folder and seals it.

::

    EXPORT/
      export.json   this manifest; the only file that a reader has to know by name
      README.md     the card, for people
      model.onnx    the network, in the format and the files that the manifest names

The manifest holds the size and SHA-256 of every other file, and a digest of its own values. So a
changed network, card or threshold is noticed before any image is embedded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from ..errors import CheckpointError, ConfigError
from ..files import open_regular, put_back, reading
from ..json_files import digest_of, read_json, sealed, unsealed, write_json
from .calibration import Calibration
from .preprocessing import PILLOWS_LIMIT, Fit, Interpolation, Preprocessing
from .records import Invalid, Matches, NotEmpty, Within, record

MANIFEST = "export.json"
CARD = "README.md"
FORMAT = 1
"""The version of the manifest's format. A reader refuses every other version."""

Kind = Literal["onnx", "openvino", "torch", "timm"]
"""The format of the network's files."""

Precision = Literal["float32", "int8"]

_HINT = "export the run again, or copy the folder again from its source"

Digest = Annotated[str, Matches("[0-9a-f]{64}")]
Size = Annotated[int, Within(1, 1 << 16)]
Positive = Annotated[float, Within(above=0)]
FileName = Annotated[str, Matches(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")]


@dataclass(frozen=True)
class FileSeal:
    """The size and digest of a file.

    Attributes:
        bytes: The size of the file.
        sha256: The SHA-256 of its content.
    """

    bytes: Annotated[int, Within(0)]
    sha256: Digest


@dataclass(frozen=True)
class Images:
    """How images are decoded and prepared.

    Attributes:
        mean: See :class:`siamkit.Preprocessing`, as for all fields but the last.
        std: See there.
        size: See there.
        interpolation: See there.
        crop_pct: See there.
        fit: See there.
        value_range: See there.
        max_pixels: The most pixels that an image file may have; larger ones are refused.
    """

    mean: Annotated[tuple[float, ...], NotEmpty()]
    std: Annotated[tuple[Positive, ...], NotEmpty()]
    size: tuple[Size, Size]
    interpolation: Interpolation
    crop_pct: Positive
    fit: Fit
    value_range: Annotated[int, Within(1, 16)] | tuple[float, float] | None
    max_pixels: Annotated[int, Within(1, PILLOWS_LIMIT)]

    @classmethod
    def of(cls, preprocessing: Preprocessing, max_pixels: int) -> Self:
        """Return the values of a network's preprocessing and of its run's pixel limit."""
        return cls(**asdict(preprocessing), max_pixels=max_pixels)

    @property
    def preprocessing(self) -> Preprocessing:
        """The values as a :class:`siamkit.Preprocessing`."""
        values = asdict(self)
        del values["max_pixels"]
        return Preprocessing(**values)


@dataclass(frozen=True)
class Tensors:
    """The input and the output of the network. The first dimension of both is the batch, any size.

    Attributes:
        input: The name of the input: images ``[N, C, H, W]``, float32, normalised.
        shape: C, H and W of the input.
        output: The name of the output: embeddings ``[N, E]``, float32.
        width: E, the width of the embeddings.
        normalized: Whether the embeddings are L2-normalised.
    """

    input: Annotated[str, Matches(".+")]
    shape: tuple[Annotated[int, Within(1, 4)], Size, Size]
    output: Annotated[str, Matches(".+")]
    width: Annotated[int, Within(1, 1 << 20)]
    normalized: bool


@dataclass(frozen=True)
class Origin:
    """The network that was exported.

    Attributes:
        run: The name of the run, for people.
        which: The checkpoint: ``best`` or ``last``.
        checkpoint: The name of the checkpoint.
        epoch: The epoch of the checkpoint, from 1; 0 for the network before the first step.
        fingerprint: The :attr:`siamkit.Embedder.fingerprint` of the network: a SHA-256 of its
            tensors, its preprocessing and its normalisation.
        config: The SHA-256 of the run's resolved config.
        data: The :func:`siamkit.data.digest.digest` of each part of the run's data, by its name.
    """

    run: str
    which: Literal["best", "last"]
    checkpoint: str
    epoch: Annotated[int, Within(0)]
    fingerprint: Digest
    config: Digest
    data: Mapping[str, Digest]


@dataclass(frozen=True)
class Quality:
    """A row of the quality table: one form of the network, measured on held-out images.

    Attributes:
        kind: The format; ``torch`` is the run's own network.
        precision: The numeric type.
        metrics: The metrics by name, such as ``recall@1``, ``map@r``, ``eer`` and ``far`` (the
            false accept rate at the stored threshold); None for one that the images do not allow.
        bytes: The size of the network's files.
        latency: Seconds per image at batch 1.
        throughput: Images per second at batch 32.
    """

    kind: Kind
    precision: Precision
    metrics: Mapping[str, float | None]
    bytes: Annotated[int, Within(0)]
    latency: Positive | None = None
    throughput: Positive | None = None


@dataclass(frozen=True)
class Measured:
    """The images and the machine of the quality table.

    Attributes:
        part: The part of the run's data: ``val``.
        images: The number of images.
        classes: The number of their classes.
        cpu: The name of the CPU.
        threads: The number of threads that each network used.
    """

    part: str
    images: Annotated[int, Within(1)]
    classes: Annotated[int, Within(1)]
    cpu: str
    threads: Annotated[int, Within(1)]


@dataclass(frozen=True)
class Manifest:
    """The content of ``export.json``.

    Attributes:
        siamkit: The version of siamkit that wrote the folder.
        kind: The format of the network's files.
        precision: The numeric type of the network.
        model: The network's main file, which is among ``files``.
        files: The size and digest of every other file in the folder, by POSIX path.
        images: How images are decoded and prepared.
        tensors: The input and the output of the network.
        calibration: The threshold and the probabilities; None if the run has none.
        origin: The run that the network is from.
        quality: The quality table.
        measured: The images and the machine of the quality table.
        notices: What a user of the model should know.
    """

    siamkit: str
    kind: Kind
    precision: Precision
    model: FileName
    files: Mapping[str, FileSeal]
    images: Images
    tensors: Tensors
    calibration: Calibration | None
    origin: Origin
    quality: tuple[Quality, ...] = ()
    measured: Measured | None = None
    notices: tuple[str, ...] = field(default=())

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that says whose embeddings can be compared.

        In float32, the exported network computes the run's embeddings up to rounding, so it has the
        run's fingerprint and can search the run's indexes. An int8 network has one of its own, of
        all files but the card.
        """
        if self.precision == "float32":
            return self.origin.fingerprint
        network = {name: seal.sha256 for name, seal in self.files.items() if name != CARD}
        return digest_of([self.origin.fingerprint, network])

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values, without its own digest."""
        values = asdict(self)
        if self.calibration is not None:
            values["calibration"] = self.calibration.to_json()
        return {"format": FORMAT, **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str = MANIFEST) -> Self:
        """Return the manifest from the values of :meth:`to_json`.

        Args:
            values: The JSON values.
            where: The source of the values, for messages.

        Raises:
            CheckpointError: The values have another format, or are no manifest.
        """
        require_version(values, where)
        given = {key: value for key, value in values.items() if key != "format"}
        calibration = given.pop("calibration", None)
        try:
            manifest = record(cls, {**given, "calibration": None})
            _require_consistent(manifest)
        except Invalid as error:
            raise CheckpointError(
                f"the file is damaged: {error}", where=where, hint=_HINT
            ) from None
        if calibration is None:
            return manifest
        threshold = Calibration.from_json(calibration, f"{where}: calibration", _HINT)
        return type(manifest)(**{**vars(manifest), "calibration": threshold})


def require_version(values: Any, where: str) -> None:
    """Check that JSON values are a manifest of this version.

    Raises:
        CheckpointError: They are not.
    """
    if not isinstance(values, Mapping) or "format" not in values:
        raise CheckpointError("is not the manifest of an exported model", where=where, hint=_HINT)
    version = values["format"]
    if version != FORMAT or isinstance(version, bool):
        raise CheckpointError(
            "the model was exported in another version of the format",
            where=where,
            got=version,
            allowed=str(FORMAT),
            hint="export the run again with this version of siamkit, or install the version that "
            f"exported the model: {values.get('siamkit', 'unknown')}",
        )


def _require_consistent(manifest: Manifest) -> None:
    """Check that the values of a manifest do not contradict one another.

    Raises:
        Invalid: They do.
    """
    images, tensors = manifest.images, manifest.tensors
    if manifest.model not in manifest.files:
        raise Invalid("model", f"is not among the files: {manifest.model!r}")
    for name in manifest.files:
        Matches(FileName.__metadata__[0].pattern).check(name, "files")  # type: ignore[attr-defined]
    if MANIFEST in manifest.files:
        raise Invalid("files", f"lists {MANIFEST} itself")
    if len(images.mean) != len(images.std):
        raise Invalid("images", "has another number of means than of standard deviations")
    if tensors.shape != (len(images.mean), *images.size):
        raise Invalid("tensors.shape", f"does not match the images: {list(tensors.shape)}")
    if isinstance(images.value_range, tuple) and not images.value_range[0] < images.value_range[1]:
        raise Invalid("images.value_range", "is not ascending")


def seal_of(path: Path) -> FileSeal:
    """Return the size and digest of a file.

    Raises:
        OSError: The file cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        return FileSeal(size, hashlib.file_digest(file, "sha256").hexdigest())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into the folder of an export, whose other files must be complete.

    Raises:
        CheckpointError: The manifest contradicts itself, or a file differs from its seal.
        ResourceError: The disk is full or not writable.
    """
    values = sealed(manifest.to_json())
    path = folder / MANIFEST
    read = Manifest.from_json(unsealed(values, str(path)), str(path))
    require_whole(folder, read)
    write_json(path, values)


def is_export(path: Any) -> bool:
    """Return whether something is the path of an exported folder, damaged or not."""
    if not isinstance(path, str | os.PathLike):
        return False
    try:
        put_back(Path(path))
        return os.path.lexists(os.path.join(path, MANIFEST))  # noqa: PTH118
    except (OSError, ValueError):
        return False


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an exported folder, without a look at the other files.

    Raises:
        ConfigError: The path is not an exported folder.
        CheckpointError: The manifest is damaged, was edited, or is of another version.
    """
    path = folder / MANIFEST
    if not is_export(folder):
        what = f"is not an exported model: it has no {MANIFEST}"
        raise ConfigError(
            what if folder.is_dir() else "no such folder",
            where=str(folder),
            hint="'siamkit export RUN -o DIR' writes an exported model",
        )
    values = read_json(path, _HINT)
    require_version(values, str(path))
    return Manifest.from_json(unsealed(values, str(path), _HINT), str(path))


def read_files(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Return the content of each file of an exported folder, by name.

    The content that was checked is the content to be used: a file that changes later does no harm.

    Raises:
        CheckpointError: A file is missing or differs from its seal. The message names it.
    """
    return {name: _content(folder, name, seal) for name, seal in manifest.files.items()}


def require_whole(folder: Path, manifest: Manifest) -> None:
    """Check every file of an exported folder, with the errors of :func:`read_files`.

    Unlike there, only one file at a time is in memory.
    """
    for name, seal in manifest.files.items():
        _content(folder, name, seal)


def _content(folder: Path, name: str, seal: FileSeal) -> bytes:
    path = folder / name
    with reading(path, _HINT), open_regular(path) as file:
        content = file.read()
    if FileSeal(len(content), hashlib.sha256(content).hexdigest()) != seal:
        what = "was edited" if name == CARD else "is damaged, or of another export"
        raise CheckpointError(
            f"does not match {MANIFEST}: the file {what}", where=str(path), hint=_HINT
        )
    return content
