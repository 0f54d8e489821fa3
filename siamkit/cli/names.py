"""The index of registered names and keys, which shell completion reads.

Loading the plugins imports torch, which takes seconds. So the index is kept in the user's cache
folder, with a stamp: a digest of the installed packages. If the stamp is out of date, for example
after an installation, a separate process loads the plugins and writes a new index. Completion waits
some seconds for the new index. If writing takes longer, completion offers no names until then.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import siamkit
from siamkit.files import cache_home, write_atomic

_WAIT, _STALE = 4.0, 120.0  # seconds
_NO_VALUES = ("int", "float", "text", "path", "name", "mapping")

Index = dict[str, Any]
"""``entries``, ``options`` and ``chosen`` (the default entry) by section; ``keys``, ``presets``,
``timm`` and ``stamp``."""


def read() -> Index:
    """Return the index; an empty one if there is none yet."""
    deadline = time.monotonic() + _WAIT
    if (index := _read()) is None:
        _start_writing()
    while index is None and time.monotonic() < deadline:
        time.sleep(0.05)
        index = _read()
    return index or {}


def _file() -> Path:
    """Return the index file of this installation. Each installation has its own."""
    place = hashlib.sha256(siamkit.__file__.encode()).hexdigest()[:8]
    return cache_home() / "siamkit" / f"names-{place}.json"


def _read() -> Index | None:
    try:
        index = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return index if isinstance(index, dict) and index.get("stamp") == _stamp() else None


def write() -> None:
    """Write the index for the installed packages. This loads the plugins."""
    stamp = _stamp()
    _file().parent.mkdir(parents=True, exist_ok=True)
    write_atomic(_file(), json.dumps({**build(), "stamp": stamp}))


def _start_writing() -> None:
    """Start a process that writes the index, if none is running."""
    marker = _file().with_suffix(".writing")
    try:
        if marker.exists() and time.time() - marker.stat().st_mtime < _STALE:
            return
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        environment = {k: v for k, v in os.environ.items() if k != "_SIAMKIT_COMPLETE"}
        subprocess.Popen(
            [sys.executable, "-m", __name__], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except OSError:
        return  # without a folder for the index, names are not completed


def _stamp() -> str:
    """Return a digest that changes when a package is installed or removed."""
    folders = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    times = [os.stat(p).st_mtime_ns for p in folders if os.path.isdir(p)]  # noqa: PTH112, PTH116
    chosen = os.environ.get("SIAMKIT_DISABLE_PLUGINS", "")
    text = repr((siamkit.__version__, siamkit.__file__, folders, times, chosen))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build() -> Index:
    """Return the index for the installed packages, without its stamp."""
    import timm
    from pydantic import BaseModel

    from siamkit import api
    from siamkit.config import ENTRY_MODELS, RunConfig, preset_names
    from siamkit.report.options import describe_options

    def described(model: Any) -> dict[str, Any]:
        return {
            option["name"]: [option["meaning"], _values(option["type"])]
            for option in describe_options(model)
        }

    sections = {
        name: ENTRY_MODELS.get(name, field.annotation)
        for name, field in RunConfig.model_fields.items()
    }
    keys: dict[str, Any] = {}
    for name, model in sections.items():
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or name == "track":
            continue
        for key, value in described(model).items():
            inner = model.model_fields[key].annotation
            nested = described(inner) if hasattr(inner, "model_fields") else {}
            keys |= {f"{name}.{key}.{k}": v for k, v in nested.items()}
            if not nested:
                keys[f"{name}.{key}"] = value
    registries = api.registries()
    entries = {
        section: {entry.name: entry.summary.replace("``", "'") for entry in registry}
        for section, registry in registries.items()
    }
    return {
        "entries": entries,
        "options": {
            section: {entry.name: described(entry.options) for entry in registry}
            for section, registry in registries.items()
        },
        "chosen": {s: getattr(RunConfig(), s).name for s in ENTRY_MODELS if s != "track"},
        "keys": keys,
        "presets": preset_names(),
        "timm": timm.list_models(),
    }


def _values(kind: str) -> list[str]:
    """Return the fixed values that an option's type allows, such as ``auto`` or ``null``."""
    return [v for v in kind.split(" | ") if v not in _NO_VALUES and not v.startswith(("list", "["))]


if __name__ == "__main__":
    write()
