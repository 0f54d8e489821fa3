"""``siamkit calibrate``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from siamkit.cli import output
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import Device, Json, Root, Run

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders, or a table of images, pairs or triplets; its test split, "
        "or else its validation split, if it has any. Left out: the run's own validation images.",
        show_default=False,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="eer|far|accuracy",
        help="What the threshold is for; left out: what the run's configuration says.",
    ),
]
Far = Annotated[
    float | None, typer.Option(help="The rate of false accepts to keep to, such as 1e-3.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the draw of pairs, where all are too many.")]


def calibrate(
    run: Run,
    data: Data = None,
    root: Root = None,
    target: Target = None,
    far: Far = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Fit a run's threshold again, on other images or for another target.

    Nothing is trained. The threshold is kept with the run, in the place of the one before.
    """
    with heavy_imports():
        from siamkit import api

    wanted: Any = target
    values = api.calibrate(
        run, data, root=root, target=wanted, far=far, seed=seed, device=device
    ).to_json()
    if json:
        output.emit_json("calibrate", {"run_dir": str(run), **values})
        return
    from siamkit.report.calibration import calibration

    output.emit(calibration(values))
