"""The folder of a saved network: its files, what ``config.json`` says of them, and their check.

``config.json`` and ``model.safetensors`` are timm's own format where the backbone is a timm model.
What siamkit needs beyond that stands in the config's section ``siamkit``. It holds the SHA-256 of
each file of tensors and a seal over the whole config, so damage to any of them is noticed.
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
from siamkit.files import is_there, put_back, reading, replacing, sha256_of, writing
from siamkit.interfaces import Preprocessing
from siamkit.json_files import digest_of, read_json
from siamkit.spelling import setting

FORMAT = 2
CONFIG, CARD = "config.json", "README.md"
BACKBONE, REST = "model.safetensors", "siamkit.safetensors"
"""The backbone's tensors, under the names that timm gives them; the head's, and those to check."""

SECTION = "siamkit"
_GITS = {".git", ".gitattributes"}
_HINT = "choose another folder with room"
_DAMAGED = "fetch or save it again"

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SavedPart(_Frozen):
    """How to build the backbone or the head again.

    Attributes:
        kind: ``timm``: from the architecture in the config; ``plugin``: from a registered entry;
            ``object``: from an object that whoever loads the folder must give.
        name: The entry's name, or the qualified name of the object's class.
        options: The entry's options.
        distribution: The distribution that registers the entry.
        version: Its version when the network was saved.
        layout: The layout of a module's output.
        select: Which part of a module's output to take.
    """

    kind: Literal["timm", "plugin", "object"]
    name: str
    options: dict[str, Any] = {}
    distribution: str | None = None
    version: str | None = None
    layout: str | None = None
    select: str | int | None = None


class Images(_Frozen):
    """How images must be prepared: :class:`siamkit.Preprocessing` with bounds."""

    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    interpolation: str
    crop_pct: float = Field(gt=0)
    fit: Literal["crop", "pad", "squash"]
    value_range: Annotated[int, Field(ge=1, le=16)] | tuple[float, float] | None

    def preprocessing(self) -> Preprocessing:
        """Return them as the backbone states them."""
        return Preprocessing(**self.model_dump())


class Saved(_Frozen):
    """The section ``siamkit`` of ``config.json``.

    Attributes:
        format: The version of this format.
        versions: Those of siamkit, torch and timm when the network was saved.
        backbone: How to build the backbone.
        head: How to build the head.
        normalize: Whether the embeddings are L2-normalised.
        embedding_dim: Their width.
        image_size: Pixels a side that a plugin's backbone was asked for.
        preprocessing: How images must be prepared.
        weights: In words, the weights that training started from.
        fingerprint: :attr:`siamkit.Embedder.fingerprint`.
        calibration: The threshold and what it rests on, as its own ``from_json`` reads it.
        files: The SHA-256 of each file of tensors.
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


@dataclass(frozen=True)
class Folder:
    """A folder whose every file was checked.

    Attributes:
        path: The folder.
        saved: What siamkit says of it.
        timm: What timm says of it: the rest of ``config.json``.
    """

    path: Path
    saved: Saved
    timm: Mapping[str, Any]


def read_config(path: Path) -> dict[str, Any]:
    """Return the ``config.json`` of a folder, siamkit's or another.

    Raises:
        ConfigError: There is no such folder, or it is a run.
        CheckpointError: It has no config, or a damaged one.
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
    """Read the config of a folder that siamkit wrote, and check its files.

    Args:
        path: The folder.
        files: Those to check, where not all are needed.

    Raises:
        ConfigError: There is no such folder, or siamkit didn't write it.
        CheckpointError: A file is missing or damaged, or of another format.
    """
    config = read_config(path)
    if SECTION not in config:
        raise ConfigError(
            f"its {CONFIG} has no section {SECTION!r}: siamkit did not write it",
            where=str(path),
            hint="a folder that timm wrote is a backbone: "
            + setting("backbone.name", f"timm:local-dir:{path}"),
        )
    section = config.pop(SECTION)
    where = str(path / CONFIG)
    if isinstance(section, dict) and section.get("format") != FORMAT:
        raise CheckpointError(
            "unknown format of a saved network", where=where,
            got=section.get("format"), allowed=str(FORMAT),
            hint="install the version of siamkit that wrote it, or a newer one",
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
    return Folder(path, saved, config)


def config_text(saved: Saved, timm: Mapping[str, Any]) -> str:
    """Return the text of ``config.json``."""
    section = saved.model_dump(mode="json")
    sealed = {**section, "seal": _seal(timm, section)}
    return json.dumps({**timm, SECTION: sealed}, indent=2, allow_nan=False) + "\n"


def _seal(timm: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    return digest_of([timm, section])


def require_free(path: Path, force: bool) -> None:
    """Refuse a place that holds what must not be lost.

    Free is what doesn't exist or is an empty folder; with ``force`` also a folder that holds
    nothing but the files of a saved network (and git's).

    Raises:
        ConfigError: The folder is not empty.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    ours = {CONFIG, CARD, BACKBONE, REST}
    if not path.is_dir() or not (path / CONFIG).is_file():
        what, hint = "already exists and is not a saved network", "choose another folder"
    elif foreign := sorted({entry.name for entry in path.iterdir()} - ours - _GITS):
        what = f"holds more than a saved network: {', '.join(foreign[:5])}"
        hint = "choose another folder, or move them away"
    elif force:
        return
    else:
        what, hint = "a saved network is there already", "choose another folder, or give force=True"
    raise ConfigError(what, where=str(path), hint=hint)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of ``path`` when the block ends without an error.

    A clone of the hub's stays one: its ``.git`` stays.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    path = path.absolute()
    with writing(path, _HINT):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, _HINT) as new:
        new.mkdir()
        yield new
