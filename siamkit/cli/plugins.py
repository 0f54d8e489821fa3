"""``siamkit plugins``."""

from __future__ import annotations

from typing import Any

from siamkit.cli import output
from siamkit.cli.options import Json


def plugins(json: Json = False) -> None:
    """List the plugins: what each registers, and what failed to load and why."""
    from siamkit import plugins as loading

    loaded = loading.get()
    infos: list[dict[str, Any]] = [
        {
            "name": info.name,
            "distribution": info.distribution,
            "version": info.version,
            "registers": {kind: list(names) for kind, names in info.registers.items()},
            "hooks": list(info.hooks),
            "error": info.error,
        }
        for info in loaded.infos
    ]
    conflicts: list[dict[str, Any]] = [
        {"kind": registry.kind, "name": name, "by": by}
        for registry in loaded.registries.values()
        for name, by in registry.conflicts.items()
    ]
    if json:
        output.emit_json("plugins", {"plugins": infos, "conflicts": conflicts})
        return
    from siamkit.report.tables import plugins_table

    output.emit(plugins_table(infos, conflicts))
