"""Checks data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from siamkit.api.entries import load_config
from siamkit.api.images import root_of
from siamkit.api.results import DataResult
from siamkit.checks import require_unused, whole_number
from siamkit.config import Layer
from siamkit.data.check import check
from siamkit.data.leaks import no_progress
from siamkit.files import path_of
from siamkit.model.settings import usual_settings
from siamkit.spelling import argument, setting


@usual_settings()
def check_data(
    data: str | Path | Mapping[str, Any],
    *,
    root: str | Path | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    strict: bool | None = None,
    seed: int = 0,
    model: str | Path | None = None,
    output: str | Path | None = None,
    device: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
) -> DataResult:
    """Check data for problems: bad rows, unreadable images, leaks, label conflicts.

    Args:
        data: A folder, a table, LFW's pairs, or ``sample``. Or the section ``data`` of a
            configuration, such as ``{"path": "scans", "range": [0, 1]}``.
        root: The folder that a table's paths are relative to; None: the table's folder.
        path_column: The column of a table with the images' paths; None: ``path``.
        label_column: The column of a table with the images' classes; None: ``label``.
        strict: Whether an image or a group in two splits is a problem; None: as ``data`` says, by
            default no.
        seed: Seed of the choice of held-out classes.
        model: A run's directory or an exported model, whose embedding is asked for suspicious
            labels, near duplicates, and classes that look like one or like two; None to ask none.
        output: A file for a contact sheet of these suspects, ``.html`` or ``.png``; None: none.
        device: The device that the model runs on: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        progress: Called with the name of a step, the number of finished images, and the number of
            all images.

    Raises:
        ConfigError: An argument is wrong, or ``data`` is in memory, which only
            :func:`siamkit.fit` checks.
        DataError: The data cannot be read: there is no such file, or a row is wrong.
        SiamkitError: The model cannot be used.
    """
    from siamkit.report.sheet.write import require_sheet_file, write_sheet

    if model is None:
        unused = {
            argument("output"): output,
            argument("device"): None if device == "auto" else device,
        }
        require_unused(unused, f"a check without {argument('model')}")
    target = None if output is None else path_of(output, "output", "a file")
    if target is not None:
        require_sheet_file(target)
    section = dict(data) if isinstance(data, Mapping) else {}
    path = section.get("path") if isinstance(data, Mapping) else data
    folder = root_of(root, path)
    given = {
        "path": str(path_of(path, "data", "a folder or a table of images")),
        "root": None if folder is None else str(folder),
        "path_column": path_column,
        "label_column": label_column,
        "strict": strict,
    }
    values = section | {key: value for key, value in given.items() if value is not None}
    config = load_config(Layer({"data": values}, setting))
    show = progress or no_progress
    seed = whole_number(seed, "seed")
    if model is None:
        return DataResult({**check(config.data, seed, show), "suspects": None, "output": None})
    from siamkit.api.suspecting import as_json, suspect, witness
    from siamkit.report.sheet.suspects import suspects_sheet

    place = path_of(model, "model", "a run's directory, or an exported model")
    asked = witness(place, device)  # before the check of the images, which can take long
    report = check(config.data, seed, show)
    unreadable = {(Path(bad["path"]), bad["box"]) for bad in report["unreadable"]}
    found = suspect(config.data, asked, unreadable, show)
    if target is not None:
        write_sheet(suspects_sheet(found, config.data.path, str(place)), target)
    return DataResult(
        {
            **report,
            "suspects": as_json(found, place),
            "output": None if target is None else str(target),
        }
    )
