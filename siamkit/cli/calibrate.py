"""``siamkit calibrate``: fits the threshold of a run again."""

from pathlib import Path
from typing import Annotated, Any

import typer

from siamkit.cli import completion, output
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import Device, Json, Root, Run, Threads

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="Other data, of any kind that 'siamkit train' takes. Its test split is used; without "
        "one, its validation split; without splits, all images. Default: the run's own validation "
        "images.",
        show_default=False,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="eer|far|accuracy",
        autocompletion=completion.choices("eer", "far", "accuracy"),
        help="How to choose the threshold. eer: equal false accept and false reject rates; far: "
        "the rate given by --far; accuracy: best accuracy. Default: far if --far is given, else "
        "the target in the run's configuration.",
    ),
]
Far = Annotated[
    float | None,
    typer.Option(help="Fit the threshold to this false accept rate, such as 1e-3."),
]
Seed = Annotated[
    int,
    typer.Option(
        min=0,
        help="Seed of the sample of pairs that is drawn if the data has too many pairs to use all.",
    ),
]


def calibrate(
    run: Run,
    data: Data = None,
    root: Root = None,
    target: Target = None,
    far: Far = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Fit a run's threshold again, on other images or for another target.

    This trains nothing. The new threshold replaces the one that is stored with the run; both are
    printed.
    """
    with heavy_imports():
        from siamkit import api

    wanted: Any = target
    before = _before(run)
    values = api.calibrate(
        run, data, root=root, target=wanted, far=far, seed=seed, device=device
    ).to_json()
    if json:
        output.emit_json("calibrate", {"run_dir": str(run), "previous": before, **values})
        return
    from siamkit.report.calibration import calibration

    output.emit(calibration(values, before))


def _before(run: Path) -> dict[str, Any] | None:
    """Return the run's present calibration; None if it has none that can be used."""
    from siamkit import api
    from siamkit.errors import CheckpointError

    try:
        return api.open_run(run).calibration().to_json()
    except CheckpointError:
        return None
