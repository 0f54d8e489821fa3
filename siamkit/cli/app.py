"""The ``siamkit`` program: its global options, its commands, and their exit codes."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

import siamkit
from siamkit import spelling
from siamkit.cli.cache import app as cache_app
from siamkit.cli.calibrate import calibrate
from siamkit.cli.compare import compare
from siamkit.cli.completion import answer
from siamkit.cli.config import app as config_app
from siamkit.cli.cores import restored_threads
from siamkit.cli.data import app as data_app
from siamkit.cli.embed import embed
from siamkit.cli.evaluate import evaluate
from siamkit.cli.export import export
from siamkit.cli.failures import as_siamkit_error
from siamkit.cli.flag_keys import flag_of
from siamkit.cli.group import App, SiamkitGroup
from siamkit.cli.index import index
from siamkit.cli.inspect import inspect_
from siamkit.cli.list import list_
from siamkit.cli.lr_find import lr_find
from siamkit.cli.output import emit_error, emit_text, restored_stdout, say, stdout, usable_streams
from siamkit.cli.plugins import plugins
from siamkit.cli.prune import prune
from siamkit.cli.report import report
from siamkit.cli.search import search
from siamkit.cli.train import train
from siamkit.cli.verify import verify
from siamkit.portable.signals import sigterm_raises
from siamkit.showing import mute

NAME = "siamkit"
DEBUG_VARIABLE = "SIAMKIT_DEBUG"

app = App(
    name=NAME,
    cls=SiamkitGroup,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(
    "train",
    examples=(
        "siamkit train photos --backbone timm:resnet18 --run-dir runs/a",
        "siamkit train --config run.yaml --set train.patience=3",
    ),
)(train)
app.command(
    "inspect",
    examples=(
        "siamkit inspect photos --freeze-policy gradual-unfreeze --epochs 8",
        "siamkit inspect runs/a",
    ),
)(inspect_)
app.command(
    "compare",
    examples=(
        "siamkit compare photos --policies freeze-all,stages,full --budget 30m",
        "siamkit compare photos --losses triplet,multi-similarity --tune optimizer.lr=0.001,0.004",
    ),
)(compare)
app.command(
    "lr-find",
    examples=(
        "siamkit lr-find photos --freeze-policy stages --phase 2",
        "siamkit lr-find photos --loss triplet -o lr.html",
    ),
)(lr_find)
app.command(
    "evaluate",
    examples=(
        "siamkit evaluate runs/a",
        "siamkit evaluate runs/a new_photos --json",
    ),
)(evaluate)
app.command(
    "calibrate",
    examples=(
        "siamkit calibrate runs/a --far 1e-3",
        "siamkit calibrate runs/a my_photos",
    ),
)(calibrate)
app.command(
    "verify",
    examples=(
        "siamkit verify runs/a one.jpg other.jpg",
        "siamkit verify runs/a --pairs pairs.csv -o verdicts.csv",
    ),
)(verify)
app.command(
    "prune",
    examples=(
        "siamkit prune runs/a --ratio 0.5 --freeze-policy full",
        "siamkit prune runs/a -o runs/small --finetune-epochs 8 --iterations 3",
    ),
)(prune)
app.command(
    "report",
    examples=(
        "siamkit report runs/a --open",
        "siamkit report runs/a -o a.html",
    ),
)(report)
app.command(
    "embed",
    examples=(
        "siamkit embed runs/a photos -o photos.npy",
        "siamkit embed runs/a photos -o photos.parquet --workers 4",
    ),
)(embed)
app.command(
    "index",
    examples=(
        "siamkit index runs/a photos -o photos.index",
        "siamkit index runs/a photos -o photos.index --kind faiss",
    ),
)(index)
app.command(
    "search",
    examples=(
        "siamkit search photos.index query.jpg -k 4",
        "siamkit search photos.index queries --json",
    ),
)(search)
app.command(
    "export",
    examples=(
        "siamkit export runs/a -o model",
        "siamkit export runs/a -o model --quantize int8",
    ),
)(export)
app.command(
    "list",
    examples=(
        "siamkit list losses",
        "siamkit list freeze-policies stages",
    ),
)(list_)
app.command(
    "plugins",
    examples=(
        "siamkit plugins",
        "siamkit plugins --json",
    ),
)(plugins)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")


def _version(value: bool) -> None:
    if value:
        emit_text(f"siamkit {siamkit.__version__}\n")
        raise typer.Exit


@app.callback()
def siamkit_(
    no_plugins: Annotated[
        bool, typer.Option("--no-plugins", help="Load no third-party plugins.")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Load only this third-party plugin. Repeatable."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", help="Show the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Fine-tune pretrained vision backbones into embedding models.

    Plugins can add commands. These are not listed here; 'siamkit plugins' lists them.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: The arguments, without the program's name; None: those of the process.
    """
    args = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    with spelling.command_line(flag_of), usable_streams(), restored_stdout(), restored_threads():
        return _main(args)


def _main(args: list[str]) -> int:
    try:
        with sigterm_raises():
            _run(args)
            stdout().flush()
    except typer.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        return _mute()
    except SystemExit as error:
        # rich raises SystemExit on a closed pipe.
        if isinstance(error.__context__, BrokenPipeError):
            return _mute()
        raise
    except (Exception, KeyboardInterrupt) as error:
        failure = as_siamkit_error(error)
        if "--debug" in args or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            say("".join(traceback.format_exception(error)))
        try:
            emit_error(failure, as_json="--json" in args)
            stdout().flush()
        except BrokenPipeError:
            _mute()
        return failure.exit_code
    return 0


def _run(args: list[str]) -> None:
    command = typer.main.get_command(app)
    if f"_{NAME.upper()}_COMPLETE" in os.environ:
        answer(command, NAME)
        return
    with command.make_context(NAME, list(args)) as context:  # parsing consumes the list
        command.invoke(context)


def _mute() -> int:
    mute(stdout())
    return 0
