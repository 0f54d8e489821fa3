"""The command ``siamkit-runtime``: the options, the verbs, and the exit code of every command.

Results go to stdout, everything else to stderr, and errors have the exit codes of siamkit.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import spelling
from .checks import require_pair_or_list
from .errors import ConfigError, ResourceError, SiamkitError, is_out_of_memory
from .files import refused_by_system
from .portable.signals import interrupted, sigterm_raises
from .version import VERSION
from .words import printable

NAME = "siamkit-runtime"
_DEBUG = "SIAMKIT_DEBUG"

_EXAMPLES = """examples:
  siamkit-runtime verify my-model one.jpg other.jpg
  siamkit-runtime verify my-model --pairs pairs.csv -o verdicts.csv
  siamkit-runtime embed my-model photos -o photos.npy
  siamkit-runtime search my-model photos.index query.jpg -k 4"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: The arguments, without the program's name. Default: the process's own.
    """
    args = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # no character may be lost for lack of an encoding
            stream.reconfigure(errors="backslashreplace")
    with spelling.command_line(lambda key: key):
        try:
            return _run(args)
        except BrokenPipeError:
            return _mute()


def _run(args: list[str]) -> int:
    try:
        with sigterm_raises():
            given = _parser().parse_args(args)
            given.verb(given)
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except SystemExit as end:  # argparse has printed the help or the version
        return int(end.code or 0)
    except (Exception, KeyboardInterrupt) as error:
        failure = _as_siamkit_error(error)
        if os.environ.get(_DEBUG, "0") not in ("", "0"):
            traceback.print_exception(error)
        print("error:", printable(failure), file=sys.stderr)
        if "--json" in args:
            _emit_json("error", {"error": failure.to_dict()})
            sys.stdout.flush()
        return failure.exit_code
    return 0


# --- verbs ---------------------------------------------------------------------------------------


def _verify(given: argparse.Namespace) -> None:
    require_pair_or_list(given.a, given.b, given.pairs, given.output)
    if given.pairs is not None:
        _verify_list(given)
        return
    # Two images need no threads for matrix products, and starting them takes a while.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    model = _load(given)
    verdict = model.verify(given.a, given.b).to_json()
    from .portable.judging import judge_files

    verdict["notices"] = judge_files([given.a, given.b], model)
    if given.json:
        names = {"run_dir": str(given.model), "a": str(given.a), "b": str(given.b)}
        _emit_json("verify", {**names, **verdict})
        return
    from .report.plain import verdict_lines

    print(*verdict_lines(verdict), sep="\n")


def _verify_list(given: argparse.Namespace) -> None:
    from .portable.pair_lists import verify_list

    verdicts = verify_list(lambda: _load(given), given.pairs, given.output)
    summary = {
        **verdicts.summary(),
        "out": None if given.output is None else str(given.output),
    }
    if given.json:
        rows = {} if given.output else {"verdicts": list(verdicts.rows())}
        _emit_json("verify", {**summary, **rows})
        return
    from .report.plain import pair_list_text

    if given.output is None:
        table = io.StringIO()
        verdicts.write(table)
        text = table.getvalue()
        print(printable(text) if sys.stdout.isatty() else text, end="")
    print(printable(pair_list_text(summary)), file=None if given.output else sys.stderr)


def _embed(given: argparse.Namespace) -> None:
    from .portable.embedding_files import embed_to_file, require_usable

    require_usable(given.output, given.force)
    result = embed_to_file(
        _load(given), given.images, given.output, batch_size=given.batch_size, force=given.force
    )
    if given.json:
        _emit_json("embed", result)
        return
    from .report.plain import embedded_text

    print(printable(embedded_text(result)))


def _search(given: argparse.Namespace) -> None:
    from .galleries import open_gallery
    from .portable.folders import files_in
    from .portable.judging import judge_files

    paths = files_in(given.query)  # before a gallery is embedded, which can take long
    model = _load(given)
    gallery, notice = open_gallery(model, given.gallery)
    if notice is not None:
        print("notice:", printable(notice), file=sys.stderr)
    nearest = gallery.search(model.embed(paths), given.k)
    result = {
        "index": str(given.gallery),
        "kind": "exact",
        "images": len(gallery),
        "k": given.k,
        "recall@10": None,
        "notices": judge_files(paths, model),
        "queries": [
            {"path": str(path), "neighbours": neighbours}
            for path, neighbours in zip(paths, nearest.rows(), strict=True)
        ],
    }
    if given.json:
        _emit_json("search", result)
        return
    from .texts import searched

    print(searched(result))


def _load(given: argparse.Namespace) -> Any:
    from .portable.model import ExportedModel  # numpy and Pillow take a while to import

    return ExportedModel(given.model, threads=given.threads)


# --- options -------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are siamkit's."""

    def error(self, message: str) -> NoReturn:
        """Raise the error."""
        raise ConfigError(message, where=self.prog, hint=f"'{self.prog} --help' shows the usage")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=NAME,
        description="Run a model that 'siamkit export' wrote, without PyTorch.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", "-V", action="version", version=f"{NAME} {VERSION}")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    verify = _verb(
        verbs, "verify", _verify,
        "Decide whether two images show the same class, for one pair or for a list of pairs.",
    )  # fmt: skip
    verify.add_argument("a", metavar="A", type=_path, nargs="?", help="The first image.")
    verify.add_argument("b", metavar="B", type=_path, nargs="?", help="The second image.")
    verify.add_argument(
        "--pairs", metavar="FILE", type=_path,
        help="Verify each pair of a table with the columns a, b and optionally same. Paths are "
        "relative to the table's folder.",
    )  # fmt: skip
    verify.add_argument(
        "--output", "-o", metavar="FILE", type=_path,
        help="Write the verdicts to FILE instead of stdout.",
    )  # fmt: skip

    embed = _verb(verbs, "embed", _embed, "Write the embeddings of images to a file.")
    embed.add_argument(
        "images", metavar="IMAGES", type=_path, help="An image, or a folder of images at any depth."
    )
    embed.add_argument(
        "--output", "-o", metavar="FILE", type=_path, required=True,
        help="A .npy file for the embeddings, with the image paths in a .csv file of the same "
        "name; or a .parquet file for both, which needs pyarrow. If the command is interrupted, "
        "the same command continues its work.",
    )  # fmt: skip
    embed.add_argument(
        "--batch-size", metavar="N", type=_positive, default=64,
        help="Images per forward pass. Default: 64.",
    )  # fmt: skip
    embed.add_argument("--force", action="store_true", help="Replace existing output.")

    search = _verb(
        verbs, "search", _search, "Find the images of a gallery that are most similar to a query."
    )
    search.add_argument(
        "gallery", metavar="GALLERY", type=_path,
        help="An index that 'siamkit index' built; a .npy file that 'embed' wrote; or a folder of "
        "images, which are embedded each time.",
    )  # fmt: skip
    search.add_argument(
        "query", metavar="QUERY", type=_path, help="An image, or a folder of images at any depth."
    )
    search.add_argument(
        "-k", metavar="N", type=_positive, default=10, help="Results per query. Default: 10."
    )
    return parser


def _verb(verbs: Any, name: str, function: Any, about: str) -> Any:
    parser = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
    parser.set_defaults(verb=function)
    parser.add_argument(
        "model", metavar="MODEL", type=_path, help="A folder that 'siamkit export' wrote."
    )
    parser.add_argument(
        "--threads", metavar="N", type=_positive, default=None,
        help="Threads of one forward pass. Default: chosen by the library.",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true",
        help="Print the result, or the error, as one JSON object to stdout.",
    )  # fmt: skip
    return parser


def _path(text: str) -> Path:
    if not text:  # an unset shell variable; as a path, it would mean the current folder
        raise argparse.ArgumentTypeError(
            "must not be empty (a shell variable that is not set gives an empty value)"
        )
    return Path(text)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, got {text!r}")
    return number


# --- output --------------------------------------------------------------------------------------


def _emit_json(kind: str, body: Mapping[str, Any]) -> None:
    from .report.units import finite

    result = {"schema": f"siamkit.{kind}/1", **finite(body)}
    print(json.dumps(result, indent=2, allow_nan=False))


def _mute() -> int:
    """Discard all further output: the reader of stdout has left, which is no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _as_siamkit_error(error: BaseException) -> SiamkitError:
    if isinstance(error, SiamkitError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return interrupted(error)
    if is_out_of_memory(error):
        return ResourceError("out of memory", hint="try a smaller --batch-size")
    if refused := refused_by_system(error):
        return refused
    place = traceback.extract_tb(error.__traceback__)[-1]
    return SiamkitError(
        f"unexpected {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})",
        hint=f"this is a bug in {NAME}; {_DEBUG}=1 shows where it happened",
    )
