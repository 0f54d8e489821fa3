"""The kinds of search: exact, or approximate by faiss."""

from __future__ import annotations

from typing import Any

from siamkit.errors import ConfigError
from siamkit.portable.gallery import Kind
from siamkit.spelling import argument

KINDS = ("auto", "exact", "faiss")
"""The kinds of search."""

WORTH = 128_000_000
"""``auto`` uses an approximate index from this size of a gallery (embeddings x width).

An exact search of this size takes about 0.1 s per query on two cores, which is fast enough.
"""


def choose_kind(wanted: str, count: int, dim: int) -> tuple[Kind, str | None]:
    """Return the kind of search to use, and a notice for the user or None.

    Args:
        wanted: One of :data:`KINDS`. ``auto`` means ``faiss`` for large galleries if faiss is
            installed, and ``exact`` otherwise.
        count: The number of embeddings.
        dim: The width of the embeddings.

    Returns:
        ``exact`` or ``faiss``; and a notice if ``auto`` lacks faiss.

    Raises:
        ConfigError: There is no such kind, or faiss is wanted but not installed.
    """
    if wanted not in KINDS:
        known = ", ".join(KINDS)
        raise ConfigError("no such kind", where=argument("kind"), got=wanted, allowed=known)
    if wanted == "exact" or (wanted == "auto" and count * dim < WORTH):
        return "exact", None
    try:
        faiss_package()
    except ConfigError as error:
        if wanted == "faiss":
            raise
        return "exact", f"using exact search: {error}"
    return "faiss", None


def faiss_package() -> Any:
    """Return faiss.

    Raises:
        ConfigError: faiss is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "an approximate index needs the package faiss",
            where=argument("kind"),
            hint="pip install 'siamkit[search]'",
        ) from None
    return faiss
