"""The folder of a saved network: reads, checks and writes ``config.json``, and checks all files.

If the backbone is a timm model, ``config.json`` and ``model.safetensors`` are in timm's own format.
Everything else that siamkit needs is in the section ``siamkit`` of ``config.json``. This section
holds the SHA-256 of each file of tensors and a seal over the whole config, so damage to the config
or to these files is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from siamkit.errors import CheckpointError, ConfigError
from siamkit.files import (
    is_there,
    put_back,
    reading,
    replacing,
    require_free_folder,
    require_unicode,
    sha256_of,
    writing,
)
from siamkit.interfaces import Preprocessing
from siamkit.json_files import digest_of, read_json
from siamkit.portable.manifest import Manifest, is_export, read_manifest, require_whole
from siamkit.spelling import setting

FORMAT = 2
CONFIG, CARD = "config.json", "README.md"
BACKBONE, REST = "model.safetensors", "siamkit.safetensors"
"""The file of the backbone's tensors, under timm's names; and the file of the head's tensors and of
the embeddings by which a loaded network is checked."""

SECTION = "siamkit"
_HINT = "choose another folder with room"
_DAMAGED = "fetch or save the network again"

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SavedPart(_Frozen):
    """How to build the backbone or the head again.

    Attributes:
        kind: ``timm``: by timm, from the architecture in the config. ``plugin``: by a registered
            entry. ``object``: from an object that the caller must pass when loading the folder.
        name: The entry's name, or the qualified name of the object's class.
        options: The options of the entry, or of timm.
        distribution: The distribution that registers the entry.
        version: The version of the distribution when the network was saved.
        layout: The layout of the backbone's output.
        select: The part of the backbone's output to use.
    """

    kind: Literal["timm", "plugin", "object"]
    name: str
    options: dict[str, Any] = {}
    distribution: str | None = None
    version: str | None = None
    layout: str | None = None
    select: str | int | None = None


class Images(_Frozen):
    """How images must be prepared: :class:`siamkit.Preprocessing` with checks of the values."""

    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    interpolation: str
    crop_pct: float = Field(gt=0)
    fit: Literal["crop", "pad", "squash"]
    value_range: Annotated[int, Field(ge=1, le=16)] | tuple[float, float] | None

    def preprocessing(self) -> Preprocessing:
        """Return the values as a :class:`siamkit.Preprocessing`."""
        return Preprocessing(**self.model_dump())


class Saved(_Frozen):
    """The section ``siamkit`` of ``config.json``.

    Attributes:
        format: The version of this format.
        versions: The versions of siamkit, torch and timm when the network was saved.
        backbone: How to build the backbone.
        head: How to build the head.
        normalize: Whether the embeddings are L2-normalised.
        embedding_dim: The width of the embeddings.
        image_size: The image size, in pixels per side, that the backbone was built with; None for
            the backbone's own.
        preprocessing: How images must be prepared.
        weights: A text about the weights that training started from.
        fingerprint: The value of :attr:`siamkit.Embedder.fingerprint`.
        calibration: The calibration, as :meth:`siamkit.Calibration.from_json` reads it; None if
            there is none.
        files: The SHA-256 of each file of tensors.
        pruning: The record of the channels that the backbone lacks; None if it is whole.
        int8: The record of the backbone's part that is computed in int8; None without one.
        reads: Names of the backbone's modules whose pooled outputs the head gets beside the
            features; None if it gets the features alone.
    """

    format: Literal[2]
    versions: dict[str, str]
    backbone: SavedPart
    head: SavedPart
    normalize: bool
    embedding_dim: int = Field(ge=1)
    image_size: int | None = Field(ge=1)
    preprocessing: Images
    weights: str | None
    fingerprint: Digest
    calibration: dict[str, Any] | None
    files: dict[str, Digest]
    pruning: dict[str, Any] | None = None
    int8: dict[str, Any] | None = None
    reads: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Folder:
    """A folder of a saved network.

    Attributes:
        path: The folder.
        saved: The section ``siamkit`` of ``config.json``.
        timm: The rest of ``config.json``, which timm reads.
        export: The manifest of the folder if ``siamkit export`` wrote it.
    """

    path: Path
    saved: Saved
    timm: Mapping[str, Any]
    export: Manifest | None = None


def read_config(path: Path) -> dict[str, Any]:
    """Return the ``config.json`` of a folder that siamkit or timm wrote.

    Raises:
        ConfigError: There is no such folder, or the folder is a run.
        CheckpointError: The config is missing or damaged.
    """
    put_back(path)
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "no such folder"
        raise ConfigError(what, where=str(path))
    file = path / CONFIG
    with reading(file):
        there = is_there(file)
    if not there:
        if (path / "config.yaml").is_file():
            raise ConfigError(
                "is a run, not a saved network",
                where=str(path),
                hint=f"siamkit.load_model({str(path)!r}) returns its network; "
                "siamkit.save_pretrained(RUN, FOLDER) saves it",
            )
        raise CheckpointError(
            f"is not a saved model: it has no {CONFIG}",
            where=str(path),
            hint="net.save_pretrained(FOLDER) and timm.models.save_for_hf(MODEL, FOLDER) write one",
        )
    values = read_json(file, _DAMAGED)
    if not isinstance(values, dict):
        raise CheckpointError("the file is damaged", where=str(file), hint=_DAMAGED)
    return values


def read_folder(path: Path, files: Sequence[str] = (BACKBONE, REST)) -> Folder:
    """Read the config of a folder that siamkit wrote, and check the files.

    If ``siamkit export`` wrote the folder, every file is compared with the export's manifest.

    Args:
        path: The folder.
        files: The names of the files of tensors to check.

    Raises:
        ConfigError: There is no such folder, or siamkit didn't write it.
        CheckpointError: A file is missing, damaged, or of another format.
    """
    config = read_config(path)
    if SECTION not in config:
        raise ConfigError(
            f"its {CONFIG} has no section {SECTION!r}, so siamkit did not write the folder",
            where=str(path),
            hint="a folder that timm wrote is a backbone: "
            + setting("backbone.name", f"timm:local-dir:{path}"),
        )
    export = read_manifest(path) if is_export(path) else None
    if export is not None:
        require_whole(path, export)
    section = config.pop(SECTION)
    where = str(path / CONFIG)
    if isinstance(section, dict) and section.get("format") != FORMAT:
        raise CheckpointError(
            "unknown format of a saved network", where=where,
            got=section.get("format"), allowed=str(FORMAT),
            hint="install the version of siamkit that wrote the folder, or a newer one",
        )  # fmt: skip
    if not isinstance(section, dict) or section.pop("seal", None) != _seal(config, section):
        raise CheckpointError("the file is damaged or was edited", where=where, hint=_DAMAGED)
    try:
        saved = Saved.model_validate(section)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise CheckpointError(
            f"the file is damaged: {SECTION}.{key}: {problem['msg']}", where=where, hint=_DAMAGED
        ) from None
    for name in files:
        file = path / name
        with reading(file, _DAMAGED):
            whole = sha256_of(file) == saved.files.get(name)
        if not whole:
            raise CheckpointError("the file is damaged", where=str(file), hint=_DAMAGED)
    return Folder(path, saved, config, export)


def config_text(saved: Saved, timm: Mapping[str, Any]) -> str:
    """Return the text of ``config.json``."""
    section = saved.model_dump(mode="json")
    sealed = {**section, "seal": _seal(timm, section)}
    return json.dumps({**timm, SECTION: sealed}, indent=2, allow_nan=False) + "\n"


def _seal(timm: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    return digest_of([timm, section])


def require_free(path: Path, force: bool) -> None:
    """Check that a network may be saved to a path; see :func:`siamkit.files.require_free_folder`.

    Raises:
        ConfigError: Something else is at the path, or the path is not valid Unicode.
        CheckpointError: The path cannot be read.
    """
    require_unicode(path.absolute())
    require_free_folder(path, "a saved network", _own, force)


def _own(path: Path) -> set[str] | None:
    """Return the names of the entries of a saved network's folder; None for other folders."""
    if not (path / CONFIG).is_file() or SECTION not in read_config(path):
        return None
    return {CONFIG, CARD, *read_folder(path, ()).saved.files}


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that replaces ``path`` when the block ends without an error.

    If ``path`` is a clone from the hub, its ``.git`` is kept. If it is a link to a folder, that
    folder is replaced.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    path = path.resolve() if path.is_dir() else path.absolute()
    with writing(path, _HINT):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, _HINT) as new:
        new.mkdir()
        yield new
