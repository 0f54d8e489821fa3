"""Checks data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from siamkit.api.entries import load_config
from siamkit.api.images import root_of
from siamkit.api.results import DataResult
from siamkit.checks import whole_number
from siamkit.config import Layer
from siamkit.data.check import check
from siamkit.data.leaks import no_progress
from siamkit.files import path_of
from siamkit.spelling import setting


def check_data(
    data: str | Path | Mapping[str, Any],
    *,
    root: str | Path | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    strict: bool | None = None,
    seed: int = 0,
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
        progress: Called with the name of a step, the number of finished images, and the number of
            all images.

    Raises:
        ConfigError: An argument is wrong, or ``data`` is in memory, which only
            :func:`siamkit.fit` checks.
        DataError: The data cannot be read: there is no such file, or a row is wrong.
    """
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
    report = check(config.data, whole_number(seed, "seed"), progress or no_progress)
    return DataResult(report)
