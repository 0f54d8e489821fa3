"""The page: rendered from templates, style and script, with a strict content security policy."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from siamkit.report.units import finite
from siamkit.words import plural

if TYPE_CHECKING:
    from siamkit.report.html.figures import Chart

_HERE = "siamkit.report.html"
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMGT]B?|s|min|h)(?!\w))")
_RANGE = re.compile(r"(?<=\d) to (?=\d)")


def render(
    charts: Mapping[str, Chart], context: Mapping[str, Any], template: str = "page.html.j2"
) -> str:
    """Return the page.

    Jinja escapes every text of a run, and Jinja's ``tojson`` escapes the data of the script. In
    addition, the content security policy allows only the two scripts whose hashes it names, and
    forbids loading from elsewhere.

    Args:
        charts: The charts by id. Only a page with charts contains the plotting library.
        context: The values that the templates show.
        template: The template of the page.
    """
    style, script = _text("style.css"), _text("page.js")
    packed, library_hash = _library() if charts else ("", None)
    environment = Environment(
        loader=PackageLoader(_HERE, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["plural"] = plural
    environment.filters["unbroken"] = unbroken
    return environment.get_template(template).render(
        **context,
        policy=policy(*filter(None, (_hash(script), library_hash))),
        style=Markup(style),
        script=Markup(script),
        library=Markup(packed),
        charts={name: _figure(chart) for name, chart in charts.items()},
    )


def unbroken(text: str) -> str:
    """Return a text in which no line ends between a number and its unit, or within a range."""
    return _RANGE.sub(
        "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}", _UNIT.sub("\N{NO-BREAK SPACE}", text)
    )


def policy(*hashes: str) -> str:
    """Return a content security policy: only these scripts run, and nothing loads.

    Images are part of the page. Plotly writes style rules, so inline styles are allowed.
    """
    scripts = " ".join(f"'{value}'" for value in hashes)
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _figure(chart: Chart) -> Any:
    plot = json.loads(chart.figure.to_json())
    return finite({"data": plot["data"], "layout": plot["layout"]})


def _text(name: str) -> str:
    return resources.files(_HERE).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _library() -> tuple[str, str]:
    """Return plotly.js, compressed and in base64, and the hash of its plain text."""
    from plotly.offline import get_plotlyjs  # takes a second to import

    source = get_plotlyjs()
    packed = gzip.compress(source.encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii"), _hash(source)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
