"""``siamkit cache``: lists or removes cached features."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siamkit.cli import output
from siamkit.cli.group import App
from siamkit.cli.options import Json
from siamkit.errors import ConfigError
from siamkit.words import data_size, plural, printable

if TYPE_CHECKING:
    from siamkit.engine.cache.budget import StoreInfo

app = App(help="List or delete cached features of frozen stages.", add_completion=False)

_MOST = 1_000_000_000  # GB, or days

CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        metavar="DIR",
        help="The cache's folder. Default: $SIAMKIT_CACHE_DIR, else siamkit/features in "
        "$XDG_CACHE_HOME or ~/.cache.",
    ),
]


@app.command(
    "list",
    examples=(
        "siamkit cache list",
        "siamkit cache list --json",
    ),
)
def list_(cache_dir: CacheDir = None, json: Json = False) -> None:
    """List the cached features, most recently used first."""
    from siamkit.engine.cache.budget import list_stores
    from siamkit.report.cache import cache_table

    root = _root(cache_dir)
    stores = _values(list_stores(root))
    if json:
        total = sum(store["bytes"] for store in stores)
        output.emit_json("cache", {"folder": str(root), "bytes": total, "stores": stores})
    else:
        output.emit(cache_table(str(root), stores))


@app.command(
    examples=(
        "siamkit cache prune --max-gb 5",
        "siamkit cache prune --older-than 30",
    ),
)
def prune(
    max_gb: Annotated[
        float | None,
        typer.Option(
            metavar="GB",
            min=0,
            help="Remove the least recently used features until the cache is no larger than this.",
        ),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS", min=0, help="Remove features that were not used for this many days."
        ),
    ] = None,
    cache_dir: CacheDir = None,
    json: Json = False,
) -> None:
    """Remove old cached features. Features that a running process uses stay."""
    from siamkit.engine.cache import budget

    if max_gb is None and older_than is None:
        raise ConfigError(
            "needs a limit",
            where="siamkit cache prune",
            hint="give --max-gb or --older-than, or run 'siamkit cache clear'",
        )
    _require_number(max_gb, "--max-gb")
    _require_number(older_than, "--older-than")
    root = _root(cache_dir)
    limit = None if max_gb is None else round(max_gb * 1e9)
    _report(root, budget.prune(root, limit, older_than), json)


@app.command(
    examples=(
        "siamkit cache clear",
        "siamkit cache clear --yes",
    ),
)
def clear(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    cache_dir: CacheDir = None,
    json: Json = False,
) -> None:
    """Remove all cached features. Features that a running process uses stay."""
    from siamkit.engine.cache import budget

    root = _root(cache_dir)
    stores = [store for store in budget.list_stores(root) if not store.in_use]
    if stores and not yes:
        if not sys.stdin.isatty():
            raise ConfigError(
                "cannot ask for confirmation: stdin is not a terminal",
                where="siamkit cache clear",
                hint="add --yes",
            )
        size = data_size(sum(store.bytes for store in stores))
        typer.confirm(
            f"Remove {plural(len(stores), 'store')} of cached features ({size}) in "
            f"{printable(root)}?",
            abort=True,
            err=True,
        )
    _report(root, budget.clear(root), json)


def _require_number(value: float | None, flag: str) -> None:
    if value is not None and not value <= _MOST:  # NaN is not
        raise ConfigError("is not a valid limit", where=flag, got=value, allowed=f"0 to {_MOST:,}")


def _root(cache_dir: Path | None) -> Path:
    from siamkit.engine.cache.layout import default_root

    if cache_dir is not None and not cache_dir.is_dir():
        raise ConfigError("no such folder", where="--cache-dir", got=str(cache_dir))
    return default_root() if cache_dir is None else cache_dir


def _report(root: Path, removed: list[StoreInfo], json: bool) -> None:
    from siamkit.engine.cache.budget import list_stores
    from siamkit.report.cache import removed_table

    gone, left = _values(removed), _values(list_stores(root))
    if json:
        output.emit_json("cache-removed", {"folder": str(root), "removed": gone, "left": left})
    else:
        output.emit(removed_table(str(root), gone, left))


def _values(stores: list[StoreInfo]) -> list[dict[str, Any]]:
    return [
        {
            "store": store.digest,
            "path": str(store.path),
            "bytes": store.bytes,
            "rows": store.rows,
            "last_used": datetime.fromtimestamp(store.last_used, UTC).isoformat(),
            "in_use": store.in_use,
            "dtype": store.dtype,
            "description": dict(store.description),
        }
        for store in stores
    ]
