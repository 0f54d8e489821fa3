"""Held-out embeddings: computed by the best epoch's network and stored with the run.

Calibration and the report read them, so neither has to embed the images again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open

from siamkit.data.images import ImageSet, Sample, Tuples
from siamkit.errors import CheckpointError
from siamkit.files import (
    is_there,
    open_regular,
    reading,
    replacing,
    require_unicode,
    writing,
)
from siamkit.json_files import parsed
from siamkit.portable.preprocessing import Preprocessing
from siamkit.runs.directory import RunDir
from siamkit.spelling import command
from siamkit.tensor_files import save_arrays

Embeddings = NDArray[np.float32]

_FIELDS = ("paths", "labels", "keys", "boxes")

_PREPROCESSING = TypeAdapter(Preprocessing)


@dataclass(frozen=True)
class HeldOut:
    """Held-out images and their embeddings.

    Attributes:
        part: ``val`` or ``test``.
        images: The images.
        embeddings: ``[N, E]``, by the best epoch's network.
        epoch: The best epoch, from 0.
        network: The hash of the network that made the embeddings; see
            :attr:`.SavedCheckpoint.network`.
        preprocessing: How the images were prepared.
        digest: The hash of the images when they were embedded; see
            :func:`siamkit.data.digest.digest`.
    """

    part: str
    images: ImageSet
    embeddings: Embeddings
    epoch: int
    network: str
    preprocessing: Preprocessing
    digest: str

    def save(self, run: RunDir) -> Path:
        """Write the embeddings to a file in the run's ``embeddings/``, and return the file.

        Earlier embeddings of the same part are replaced.
        """
        path = self.file(run, self.part)
        about = json.dumps(
            {
                "part": self.part,
                "epoch": self.epoch,
                "network": self.network,
                "classes": list(self.images.classes),
                "labels": self.images.labels,
                "paths": [str(sample.path) for sample in self.images.samples],
                "keys": [sample.key for sample in self.images.samples],
                "boxes": [sample.box for sample in self.images.samples],
                "query": self.images.query,
                "gallery": self.images.gallery,
                "tuples": self.images.tuples and asdict(self.images.tuples),
                "preprocessing": asdict(self.preprocessing),
                "digest": self.digest,
            }
        )
        embeddings = np.ascontiguousarray(self.embeddings, np.float32)
        with writing(path):
            path.parent.mkdir(exist_ok=True)
        with replacing(path) as new:
            metadata = {"about": about, "sha256": _digest(about, embeddings)}
            save_arrays({"embeddings": embeddings}, new, metadata)
        return path

    @staticmethod
    def file(run: RunDir, part: str) -> Path:
        """Return the file of the embeddings of ``val`` or ``test``."""
        return run.embeddings / f"{part}.safetensors"

    @classmethod
    def load(cls, run: RunDir, part: str) -> HeldOut | None:
        """Return the held-out images that :meth:`save` wrote, or None if the run has no such part.

        Raises:
            CheckpointError: The file cannot be read, or is damaged.
            ConfigError: The path is not valid Unicode.
        """
        path = cls.file(run, part)
        hint = f"remove it, and {command('train --resume', run.path)} writes it again"
        require_unicode(path)
        with reading(path, hint):
            if not is_there(path):
                return None
            open_regular(path).close()
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata()
                embeddings = file.get_tensor("embeddings")
            if metadata["sha256"] != _digest(metadata["about"], embeddings):
                raise ValueError
            about: dict[str, Any] = parsed(metadata["about"])
            samples = tuple(
                Sample(Path(path), label, key, box and tuple(box))
                for path, label, key, box in zip(*(about[f] for f in _FIELDS), strict=True)
            )
            images = ImageSet(
                samples,
                tuple(about["classes"]),
                _tuples(about["tuples"]),
                *(about[role] and tuple(about[role]) for role in ("query", "gallery")),
            )
            if about["part"] != part or len(embeddings) != len(samples):
                raise ValueError
            preprocessing = _PREPROCESSING.validate_python(about["preprocessing"])
            facts = (about["epoch"], about["network"], preprocessing, about["digest"])
            return cls(part, images, embeddings, *facts)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            raise CheckpointError("the file is damaged", where=str(path), hint=hint) from None


def _digest(about: str, embeddings: Embeddings) -> str:
    """Return the SHA-256 of ``about`` and of the embeddings with their type and shape."""
    head = json.dumps([about, f"torch.{embeddings.dtype}", list(embeddings.shape)])
    result = hashlib.sha256(head.encode())
    content: Any = embeddings
    result.update(content)
    return result.hexdigest()


def _tuples(plain: dict[str, Any] | None) -> Tuples | None:
    if plain is None:
        return None
    same, folds = (plain[name] and tuple(plain[name]) for name in ("same", "folds"))
    return Tuples(tuple(tuple(row) for row in plain["rows"]), same, folds)
