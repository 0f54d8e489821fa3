"""``siamkit verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamkit.cli import output
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import Device, Json, Run
from siamkit.errors import ConfigError

if TYPE_CHECKING:
    from siamkit.inference.pair_lists import PairVerdicts

A = Annotated[Path | None, typer.Argument(metavar="A", help="An image.", show_default=False)]
B = Annotated[Path | None, typer.Argument(metavar="B", help="Another.", show_default=False)]
PairsFile = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        metavar="FILE",
        help="A table with the columns a,b and, if known, same; paths are relative to it.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the verdicts to FILE instead of stdout."
    ),
]


def verify(
    run: Run,
    a: A = None,
    b: B = None,
    pairs: PairsFile = None,
    out: Out = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Decide whether two images show the same, or each pair of a list.

    The threshold is the one fitted when training ended, or by 'siamkit calibrate'.
    """
    if (pairs is None) != (a is not None and b is not None) or (pairs and a is not None):
        raise ConfigError("takes two images, A and B, or a list of pairs with --pairs FILE")
    if out is not None and pairs is None:
        raise ConfigError("is for the verdicts on a list", where="--output", hint="add --pairs")
    with heavy_imports():
        from siamkit import api

    if pairs is not None:
        _print_list(api.verify_pairs(run, pairs, output=out, device=device), out, json)
        return
    assert a is not None and b is not None
    verdict = api.load_embedder(run, device=device).verify(a, b).to_json()
    if json:
        output.emit_json("verify", {"run_dir": str(run), "a": str(a), "b": str(b), **verdict})
        return
    from siamkit.report import calibration as printed

    output.emit(printed.verdict(verdict))


def _print_list(verdicts: PairVerdicts, out: Path | None, json: bool) -> None:
    from siamkit.report.calibration import pair_list

    summary = {**verdicts.summary(), "out": None if out is None else str(out)}
    if json:
        rows = {} if out else {"verdicts": list(verdicts.rows())}
        output.emit_json("verify", {**summary, **rows})
    elif out is not None:
        output.emit(pair_list(summary))
    else:
        verdicts.write(output.stdout())
        from siamkit.report.terminal import make_console

        make_console(sys.stderr).print(pair_list(summary))
