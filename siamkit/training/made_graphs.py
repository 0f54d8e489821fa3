"""The int8 graphs of earlier runs, which are kept beside the cached features.

Quantizing takes seconds, and gives the same for the same weights and images. At most
:data:`_MOST` graphs are kept, for 30 days.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from siamkit.engine.cache.layout import GRAPHS
from siamkit.errors import SiamkitError
from siamkit.files import replacing
from siamkit.json_files import digest_of, read_sealed, write_sealed
from siamkit.model.quantized import Quantized
from siamkit.training.speeds import Speeds

_MOST = 8
_OLD = 30 * 86_400  # seconds after which a graph is made again, because systems change
_RECORD, _GRAPH = "record.json", "graph.onnx"


@dataclass(frozen=True)
class MadeGraph:
    """A graph with its record and its speeds.

    Attributes:
        record: What was quantized, and how good it is.
        graph: The graph, in ONNX.
        speeds: The speeds of the part in float32 and in int8.
        apart: How far its output was from the network's when it was made.
    """

    record: Quantized
    graph: bytes
    speeds: Speeds
    apart: float = 0.0


@dataclass(frozen=True)
class MadeGraphs:
    """The graphs that one part of a network was quantized to.

    Attributes:
        root: The folder of all caches.
        facts: What a graph and its record depend on, as JSON values.
    """

    root: Path
    facts: Mapping[str, Any]

    @property
    def _folder(self) -> Path:
        return self.root / GRAPHS / digest_of(self.facts)

    def read(self) -> MadeGraph | None:
        """Return the graph; None if there is none, or if it is damaged or too old."""
        try:
            values = read_sealed(self._folder / _RECORD)
            record = Quantized.from_json(values["record"], str(self._folder))
            graph = (self._folder / _GRAPH).read_bytes()
            speeds = Speeds(**values["speeds"])
            apart = float(values["apart"])
            fresh = 0 <= time.time() - values["time"] < _OLD
        except (SiamkitError, OSError, KeyError, TypeError, AttributeError, ValueError):
            return None
        whole = hashlib.sha256(graph).hexdigest() == record.graph
        return MadeGraph(record, graph, speeds, apart) if fresh and whole else None

    def write(self, made: MadeGraph) -> None:
        """Keep a graph, and remove the oldest ones. Nothing is kept if that is impossible."""
        with suppress(SiamkitError, OSError):
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder) as folder:
                folder.mkdir()
                (folder / _GRAPH).write_bytes(made.graph)
                values = {
                    "record": made.record.to_json(), "speeds": asdict(made.speeds),
                    "apart": made.apart,
                }  # fmt: skip
                write_sealed(folder / _RECORD, {"time": time.time(), **values})
            folders = [f for f in self._folder.parent.iterdir() if not f.name.startswith(".")]
            newest = sorted(folders, key=lambda folder: -folder.stat().st_mtime)
            for folder in newest[_MOST:]:
                shutil.rmtree(folder, ignore_errors=True)
