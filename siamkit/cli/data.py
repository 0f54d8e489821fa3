"""``siamkit data``: checks the data, and shows what becomes of it, before training."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from siamkit.cli import completion, output
from siamkit.cli.group import App
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import DATA, OUTPUT, Device, Json, LabelColumn, PathColumn, Root
from siamkit.cli.run_flags import RunFlags, run_flags
from siamkit.errors import ConfigError, DataError

app = App(help="Check and show data before training.", add_completion=False)


@app.callback()
def data() -> None:
    """Check and show data before training."""


@app.command(
    examples=(
        "siamkit data check scans.csv --root scans --strict",
        "siamkit data check photos --model runs/photos -o suspects.html",
    ),
)
def check(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help=DATA,
        ),
    ],
    root: Root = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a key of the configuration's section data, as for 'siamkit train', such as "
            "data.range=[0,1]. Repeatable; the last value of a key counts.",
            autocompletion=completion.assignments,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of held-out classes.")] = 0,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Treat it as an error if an image or a group is in two splits."
        ),
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Also list suspicious labels, near duplicates, and classes that look like one or "
            "like two, by the embedding of this run, or of a model that 'siamkit export' wrote. "
            "Default: check only the files and the splits.",
            autocompletion=completion.runs,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write a contact sheet of what --model suspects to this file: .html or .png. "
            "Default: write none.",
        ),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Report the contents of the data and every problem with it.

    Decodes every image, makes the same splits as a run, and looks for images that are in two
    splits. With --model, it also lists what the embedding of a trained network says against the
    labels. The exit code is 3 if the data cannot be used.
    """
    with heavy_imports():
        from siamkit import api, config
    from siamkit.report.progress import ImageProgress
    from siamkit.report.terminal import make_console

    for given in set or []:
        if not given.startswith("data."):
            raise ConfigError(
                "must set a key of the section data", where="--set", got=given,
                hint="write, for example, --set data.range=[0,1]",
            )  # fmt: skip
    values = {**config.parse_sets(set or []).get("data", {}), "path": data}
    with ExitStack() as stack:
        bars: dict[str, ImageProgress] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in bars:
                stack.close()  # the previous step's bar
                bars[step] = stack.enter_context(ImageProgress(make_console(sys.stderr), step))
            bars[step](done, total)

        report = api.check_data(
            values, root=root, path_column=path_column,
            label_column=label_column, strict=strict or None, seed=seed, model=model,
            output=file, device=device, progress=show,
        ).to_json()  # fmt: skip
    if json:
        output.emit_json("data", report)
    else:
        from siamkit.report.data import data_report

        output.emit(data_report(report))
    if report["problems"]:
        raise typer.Exit(DataError.exit_code)


Images = Annotated[int, typer.Option(min=1, help="Images to show at most.", rich_help_panel=OUTPUT)]
Draws = Annotated[
    int,
    typer.Option(min=1, help="Training views to show per image at most.", rich_help_panel=OUTPUT),
]
Sheet = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write the contact sheet to this file: .html or .png.",
        rich_help_panel=OUTPUT,
    ),
]


@app.command(
    examples=(
        "siamkit data show signatures --augment documents -o views.html",
        "siamkit data show logos --augment marks --set data.augment.hue=0.02 -o views.png",
    ),
)
@run_flags
def show(
    flags: RunFlags, file: Sheet, images: Images = 8, draws: Draws = 5, json: Json = False
) -> None:
    """Draw a few images with the views that training and evaluation would use.

    Takes the same flags as 'train', and makes the views by the same code. The contact sheet shows
    the images that preparation changes most, such as the most elongated one, and images of several
    classes, beside their files. Look at it before you train: a class must still be recognisable.
    """
    with heavy_imports():
        from siamkit import api

    result = api.show_data(flags.load(), output=file, images=images, draws=draws)
    if json:
        output.emit_json("data-show", result)
        return
    from siamkit.report.terminal import whole

    for text in result["notices"]:
        output.notice(text)
    output.emit(whole(result["output"]))
