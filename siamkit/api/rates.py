"""Finds a learning rate by a range test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from siamkit.api.configuring import Config, placed, resolved_call
from siamkit.api.results import RateResult
from siamkit.data.memory import items_of
from siamkit.files import path_of
from siamkit.model.settings import usual_settings
from siamkit.training import find_lr as _search


@usual_settings()
def find_lr(
    config: Config | None = None,
    *,
    phase: int | None = None,
    epoch: int | None = None,
    steps: int = _search.STEPS,
    lowest: float = _search.LOWEST,
    highest: float = _search.HIGHEST,
    output: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    **sections: Any,
) -> RateResult:
    """Find a learning rate by a range test, without training a run.

    The test trains the network under the freeze plan of one phase, from the weights that the phase
    starts with: for a later phase, the epochs before it are trained first. The rate rises from step
    to step. After each step, the test measures the loss on the same few batches. It is repeated
    with other batches. Method: Smith (2017), https://arxiv.org/abs/1506.01186.

    Args:
        config: As for :func:`fit`.
        phase: The number of the phase to test, from 1; None: the first.
        epoch: An epoch of the run, from 1, instead of ``phase``: its phase is tested.
        steps: The number of rates to try, at least 20.
        lowest: The first rate.
        highest: The last rate; at least 10 times the first.
        output: An HTML file to write, with the chart; None: write none.
        progress: Called with the number of finished steps, and the number of all steps. The steps
            of the epochs before the phase count too.
        **sections: Arguments as for :func:`fit`: names, mappings or objects.

    Returns:
        The output of ``siamkit lr-find --json``, by attribute or by key. ``lr`` is the suggested
        rate of the head, for ``fit(lr=...)``; None if the loss suggests no rate.

    Raises:
        ConfigError: An argument is wrong.
        SiamkitError: See :mod:`siamkit.errors` for others.
    """
    target = None if output is None else path_of(output, "output", "a file")
    if target is not None:
        from siamkit.report.html.lr_find import require_file

        require_file(target)
    resolved, known, memory = resolved_call(config, sections)
    notices: list[str] = []
    with TemporaryDirectory() as folder:
        if memory is not None:
            resolved = placed(items_of(memory, notices), resolved, Path(folder).resolve())
        found = _search.find_lr(
            resolved,
            known,
            phase=phase,
            epoch=epoch,
            steps=steps,
            lowest=lowest,
            highest=highest,
            progress=progress,
        )
    found = {**found, "notices": [*notices, *found["notices"]], "output": None}
    if target is not None:
        from siamkit.report.html.lr_find import write_lr_page  # plotly takes a second to import

        found["output"] = str(write_lr_page(found, target))
    return RateResult(found)
