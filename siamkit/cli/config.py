"""``siamkit config``: shows, validates or describes configurations."""

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from siamkit.cli import output
from siamkit.cli.group import App
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import Json
from siamkit.cli.run_flags import RunFlags, run_flags

app = App(help="Show, validate or describe configurations.", add_completion=False)


@app.command(
    examples=(
        "siamkit config show --backbone resnet50 --loss triplet",
        "siamkit config show --preset classic --json",
    ),
)
@run_flags
def show(flags: RunFlags, json: Json = False) -> None:
    """Print the resolved configuration: defaults < preset < file < --set < flags."""
    config = flags.load()
    if json:
        output.emit_json("config", {"config": config.to_values()})
    else:
        output.emit_text(config.to_yaml())


@app.command(
    examples=(
        "siamkit config validate run.yaml",
        "siamkit config validate run.yaml --json",
    ),
)
def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML configuration file.")],
    json: Json = False,
) -> None:
    """Check a configuration file, including the options of plugins."""
    RunFlags(config=file).load()
    if json:
        output.emit_json("validation", {"file": str(file), "valid": True})
    else:
        output.emit_text(f"{file}: ok\n")


@app.command(
    examples=(
        "siamkit config schema > siamkit.schema.json",
        "siamkit config schema --json",
    ),
)
def schema(json: Json = False) -> None:
    """Print the JSON schema of configuration files, for editors."""
    with heavy_imports():
        from siamkit import api, config

    json_schema = config.json_schema(api.registries())
    if json:
        output.emit_json("schema", {"json_schema": json_schema})
    else:
        output.emit_text(dumps(json_schema, indent=2) + "\n")
