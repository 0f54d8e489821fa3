"""``siamkit verify``: decides whether images show the same class."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siamkit.checks import require_pair_or_list
from siamkit.cli import output
from siamkit.cli.imports import api_of
from siamkit.cli.options import Device, Json, RunOrModel, Threads

if TYPE_CHECKING:
    from siamkit.portable.pair_lists import PairVerdicts

A = Annotated[Path | None, typer.Argument(metavar="A", help="The first image.", show_default=False)]
B = Annotated[
    Path | None, typer.Argument(metavar="B", help="The second image.", show_default=False)
]
PairsFile = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        metavar="FILE",
        help="Verify each pair in this table. Its columns are a, b and optionally same (1 or 0). "
        "Paths are relative to the table's folder.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the verdicts to FILE instead of stdout."
    ),
]


def verify(
    run: RunOrModel,
    a: A = None,
    b: B = None,
    pairs: PairsFile = None,
    out: Out = None,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Decide whether two images show the same class, for one pair or for a list of pairs.

    The threshold was fitted when training ended, or later by 'siamkit calibrate'.
    """
    require_pair_or_list(a, b, pairs, out)
    api = api_of(run)
    if pairs is not None:
        _print_list(api.verify_pairs(run, pairs, output=out, device=device), out, json)
        return
    assert a is not None and b is not None
    embedder = api.any_embedder(run, device=device)
    from siamkit.portable.judging import judge_files
    from siamkit.report import calibration as printed

    verdict = {**embedder.verify(a, b).to_json(), "notices": judge_files([a, b], embedder)}
    if json:
        output.emit_json("verify", {"run_dir": str(run), "a": str(a), "b": str(b), **verdict})
    else:
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
        from siamkit.report.terminal import make_console

        with output.texts() as stream:
            verdicts.write(stream)
        make_console(sys.stderr).print(pair_list(summary), crop=False)
