"""``siamkit verify``."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from siamkit.cli import output
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import Json
from siamkit.errors import ConfigError
from siamkit.files import full_disk_is_ours

if TYPE_CHECKING:
    from siamkit.inference.embedder import Embedder
    from siamkit.inference.pair_lists import PairsToVerify

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")]
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
        "--output", "-o", metavar="FILE", help="Where the verdicts on a list go, not stdout."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]


def verify(
    run: Run,
    a: A = None,
    b: B = None,
    pairs: PairsFile = None,
    out: Out = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Tell whether two images show the same, or of each pair of a list.

    By the threshold that was fitted when training ended, or by 'siamkit calibrate'.
    """
    _check(a, b, pairs, out)
    with heavy_imports():
        from siamkit import api

    if pairs is not None:
        from siamkit.inference.pair_lists import read_pairs

        found_pairs = read_pairs(pairs)  # before anything that takes time
        _verify_list(api.load(run, device=device), found_pairs, out, json)
        return
    embedder = api.load(run, device=device)
    assert a is not None and b is not None
    found = embedder.verify(a, b).to_json()
    if json:
        output.emit_json("verify", {"run_dir": str(run), "a": str(a), "b": str(b), **found})
        return
    from siamkit.report.calibration import verdict

    output.emit(verdict(found))


def _check(a: Path | None, b: Path | None, pairs: Path | None, out: Path | None) -> None:
    if (pairs is None) != (a is not None and b is not None) or (pairs and a is not None):
        raise ConfigError("takes two images, A and B, or a list of pairs with --pairs FILE")
    if out is None:
        return
    if pairs is None:
        raise ConfigError("is for the verdicts on a list", where="--output", hint="add --pairs")
    if not out.absolute().parent.is_dir():
        raise ConfigError("no such folder", where="--output", got=str(out.parent))
    if out.exists():
        raise ConfigError(
            "the file exists", where="--output", got=str(out), hint="remove it, or name another"
        )


def _verify_list(embedder: Embedder, pairs: PairsToVerify, out: Path | None, json: bool) -> None:
    from siamkit.evaluation.verification import errors_at
    from siamkit.inference.pair_lists import scored
    from siamkit.report.calibration import pair_list

    threshold = embedder.calibration.threshold
    values = scored(embedder, pairs)
    summary: dict[str, Any] = {
        "pairs": len(pairs),
        "images": len(pairs.paths),
        "threshold": threshold,
        "accepted": int((values >= threshold).sum()),
        "errors": None if pairs.same is None else errors_at(values, pairs.same, threshold),
        "out": None if out is None else str(out),
    }
    rows = _rows(embedder, pairs, values.tolist())
    if out is not None:
        temporary = out.with_name(f".{out.name}.tmp")
        with full_disk_is_ours(out, "make room, or name another file"):
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                _write(rows, stream)
            temporary.replace(out)
    if json:
        verdicts = {} if out else {"verdicts": list(rows)}
        output.emit_json("verify", {**summary, **verdicts})
    elif out is not None:
        output.emit(pair_list(summary))
    else:
        _write(rows, output.stdout())
        from siamkit.report.terminal import make_console

        make_console(sys.stderr).print(pair_list(summary))


def _rows(
    embedder: Embedder, pairs: PairsToVerify, values: list[float]
) -> Iterator[dict[str, Any]]:
    for index, score in enumerate(values):
        found = embedder.calibration.verdict(score)
        known = {} if pairs.same is None else {"expected": bool(pairs.same[index])}
        yield {
            "a": pairs.names[pairs.first[index]],
            "b": pairs.names[pairs.second[index]],
            **known,
            "same": found.same,
            "score": score,
            "probability": found.probability,
        }


def _write(rows: Iterator[dict[str, Any]], stream: TextIO) -> None:
    """Write rows as CSV, yes and no as 1 and 0."""
    writer = csv.writer(stream, lineterminator="\n")
    for number, row in enumerate(rows):
        if not number:
            writer.writerow(row)
        writer.writerow(int(v) if isinstance(v, bool) else v for v in row.values())
