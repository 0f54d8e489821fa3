"""Writes a contact sheet to a file, in the format that the file's name ends with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from siamkit.errors import ConfigError
from siamkit.files import replacing, write_atomic
from siamkit.report.sheet.model import Sheet
from siamkit.words import readable

ENDINGS = (".html", ".png")
_HINT = "free some space, or choose another file with -o"


def require_sheet_file(path: Path) -> None:
    """Check the path of a contact sheet.

    Raises:
        ConfigError: The path is that of a folder or in no folder, or its ending is unknown.
    """
    if path.is_dir():
        raise ConfigError(
            "is a folder", where=str(path), hint="give the path of a file, such as sheet.html"
        )
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(
            "has an unknown ending",
            where=str(path),
            got=path.suffix or "none",
            allowed=", ".join(ENDINGS),
        )
    if not path.absolute().parent.is_dir():
        raise ConfigError("there is no such folder", where=str(path.parent))


def write_sheet(sheet: Sheet, path: Path) -> Path:
    """Write a contact sheet to a file, which is overwritten.

    Args:
        sheet: The sheet.
        path: The file; its name ends with ``.html`` or ``.png``.

    Raises:
        ConfigError: The path is that of a folder or in no folder, or its ending is unknown.
        ResourceError: The file cannot be written.
    """
    require_sheet_file(path)
    if path.suffix.lower() == ".png":
        from siamkit.report.sheet.png import draw_png

        with replacing(path, _HINT) as new:
            draw_png(sheet).save(new, "PNG")
    else:
        from siamkit.report.sheet.page import draw_page

        write_atomic(path, readable(draw_page(sheet, datetime.now(UTC))), _HINT)
    return path
