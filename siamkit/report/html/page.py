"""Putting the page together: templates, style, script, and the policy that forbids all else."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from siamkit.report.html.figures import Chart
from siamkit.report.units import finite

_HERE = "siamkit.report.html"


def render(charts: Mapping[str, Chart], context: Mapping[str, Any]) -> str:
    """Return the page.

    Whatever comes from a run is escaped by Jinja or, in the script's data, by its ``tojson``. Were
    that to fail, the content security policy runs no script but the two whose hashes it names, and
    loads nothing.

    Args:
        charts: The charts by id.
        context: What the templates show.
    """
    style, script = _text("style.css"), _text("page.js")
    packed, library_hash = _library()
    environment = Environment(
        loader=PackageLoader(_HERE, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        **context,
        policy=policy(_hash(script), library_hash),
        style=Markup(style),
        script=Markup(script),
        library=Markup(packed),
        charts={name: _figure(chart) for name, chart in charts.items()},
    )


def policy(*hashes: str) -> str:
    """Return a content security policy: these scripts run, images are in the page, nothing loads.

    Plotly writes style rules, so styles are let in.
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
    """Return plotly.js, packed and in base64, and the hash of the plain text."""
    source = get_plotlyjs()
    packed = gzip.compress(source.encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii"), _hash(source)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
