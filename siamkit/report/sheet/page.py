"""Draws a contact sheet as an HTML page that loads nothing."""

from __future__ import annotations

import base64
import io
from datetime import datetime
from typing import Any

from PIL import Image

from siamkit.report.html.page import render
from siamkit.report.sheet.model import Group, Picture, Sheet, fitted
from siamkit.version import VERSION

_SHARP = 2.0
"""Pictures have up to so many pixels per pixel of the page, for screens of high density."""

_QUALITY = 90


def draw_page(sheet: Sheet, now: datetime) -> str:
    """Return the page.

    Args:
        sheet: The sheet.
        now: The time at which the page is written.
    """
    thumbs: dict[int, str] = {}
    context = {
        "kind": sheet.kind,
        "title": sheet.title,
        "lead": sheet.lead,
        "about": sheet.about,
        "notices": sheet.notices,
        "groups": [_group(group, thumbs) for group in sheet.groups],
        "thumbs": thumbs,
        "items": [],
        "siamkit": VERSION,
        "written": f"{now:%Y-%m-%d %H:%M} UTC",
    }
    return render({}, context, template="sheet.html.j2")


def _group(group: Group, thumbs: dict[int, str]) -> dict[str, Any]:
    return {
        "title": group.title,
        "note": group.note,
        "columns": max((len(row.pictures) for row in group.rows), default=1),
        "rows": [
            {
                "title": row.title,
                "note": row.note,
                "pictures": [_picture(picture, thumbs) for picture in row.pictures],
            }
            for row in group.rows
        ],
    }


def _picture(picture: Picture, thumbs: dict[int, str]) -> dict[str, Any]:
    number, pixels = len(thumbs), fitted(picture, _SHARP)
    thumbs[number] = _encoded(pixels)
    width, height = picture.size
    return {
        "number": number,
        "caption": picture.caption,
        "tone": picture.tone,
        "width": width,
        "height": height,
        "enlarged": pixels.width < width,
    }


def _encoded(image: Image.Image) -> str:
    stream = io.BytesIO()
    # A small image is stored as it is, since every pixel of it is seen.
    lossless = image.width * image.height <= 64 * 64
    image.save(stream, "WEBP", quality=_QUALITY, lossless=lossless, method=4)
    return base64.b64encode(stream.getvalue()).decode("ascii")
