"""``siamkit plugins``: lists the installed plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from siamkit.cli import output
from siamkit.cli.options import Json

if TYPE_CHECKING:
    from siamkit.commands import Added
    from siamkit.plugins import PluginInfo


def plugins(json: Json = False) -> None:
    """List the plugins: what each plugin registers and, if it failed to load, why."""
    from siamkit import commands
    from siamkit import plugins as loading

    loaded = loading.get()
    every = list(commands.added(loaded))
    added = {(one.distribution, one.plugin): one for one in every}
    infos = [_described(info, added.get((info.distribution, info.name))) for info in loaded.infos]
    claims: list[tuple[str, str, list[str]]] = [
        (registry.kind, name, by)
        for registry in loaded.registries.values()
        for name, by in registry.conflicts.items()
    ]
    claims += [("command", name, by) for name, by in commands.conflicts(every).items()]
    conflicts: list[dict[str, Any]] = [{"kind": k, "name": n, "by": by} for k, n, by in claims]
    if json:
        output.emit_json("plugins", {"plugins": infos, "conflicts": conflicts})
        return
    from siamkit.report.tables import plugins_table

    output.emit(plugins_table(infos, conflicts))


def _described(info: PluginInfo, added: Added | None) -> dict[str, Any]:
    registers = {kind: list(names) for kind, names in info.registers.items()}
    if added is not None and added.commands:
        registers["commands"] = list(added.commands)
    return {
        "name": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "registers": registers,
        "hooks": list(info.hooks),
        "problems": [] if added is None else list(added.problems),
        "error": info.error,
    }
