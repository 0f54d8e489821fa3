"""Continues interrupted runs. ``begin_or_continue`` begins a run if there is none to continue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from siamkit.api.arguments import objects_of, read
from siamkit.api.entries import load_config, registries
from siamkit.api.listening import checked, log_of, observers
from siamkit.api.models import RUN
from siamkit.api.results import TrainingResult
from siamkit.config import CHOSEN, COMPONENTS, Layer, RunConfig, flat, merge, resolve
from siamkit.errors import ConfigError
from siamkit.files import path_of
from siamkit.model.settings import usual_settings
from siamkit.objects.overlay import overlaid, require_same
from siamkit.runs.directory import RunDir
from siamkit.runs.events import Listener
from siamkit.spelling import setting
from siamkit.training import fit as _fit


@usual_settings()
def resume(
    run_dir: str | Path,
    *,
    listeners: Iterable[Listener] = (),
    progress: bool | None = None,
    strict: bool = False,
    **given: Any,
) -> TrainingResult:
    """Continue an interrupted run, and return its result as :func:`siamkit.fit` does.

    Args:
        run_dir: The run's directory.
        listeners: Called with every :class:`siamkit.Event`.
        progress: As for :func:`fit`.
        strict: True: raise if a checkpoint is damaged. False: go back to the checkpoint before it.
        **given: Objects that the run was started with, under the same names as in :func:`fit`:
            ``backbone``, ``head``, ``freeze``, ``loss``, ``optimizer``, ``scheduler``. Also new
            values of settings that do not affect results; the run keeps them. These are
            ``data="/new/path"`` for data that was moved, or ``data={"path": ..., "root": ...,
            "workers": ...}``; ``device``; ``engine={"cache": ..., "cache_dir": ...}``; ``track``;
            ``report``.

    Raises:
        CheckpointError: There is no run or no intact checkpoint, or the data or an object changed.
        ConfigError: An object that the run was started with is missing, a setting would affect the
            result, or an argument is wrong.
    """
    settings = {name: value for name, value in given.items() if name not in COMPONENTS}
    objects = objects_of({k: v for k, v in given.items() if k in COMPONENTS}, "resume")
    arguments = read(settings, registries())
    if arguments.data is not None:
        raise ConfigError(
            "cannot be given again: the run holds its images",
            where="data",
            allowed="the new path of data that was moved",
        )
    return continued(
        run_dir,
        arguments.layer,
        objects,
        strict=strict,
        listeners=checked(listeners),
        progress=progress,
    )


def continued(
    run_dir: str | Path,
    changes: Layer,
    objects: Mapping[str, Any] = MappingProxyType({}),
    *,
    strict: bool = False,
    listeners: Sequence[Listener] = (),
    progress: bool | None = None,
) -> TrainingResult:
    """Continue a run; see :func:`resume`.

    Args:
        run_dir: The run's directory.
        changes: New values of settings that do not affect results.
        objects: The objects that the run was started with, by section of the config.
        strict: As for :func:`resume`.
        listeners: Called with every :class:`siamkit.Event`.
        progress: As for :func:`fit`.
    """
    run = RunDir.open(path_of(run_dir, "run_dir", RUN))
    known = registries()
    if objects:
        known, _ = overlaid(known, objects)
        config = resolve(known, run.read_config(), where=str(run.config))
        require_same(objects, config, str(run.config))
    with log_of(progress) as log:
        every = (*listeners, *log)
        result = _fit.resume(run.path, known, every, observers(), changes, strict=strict)
        return TrainingResult(result)


def begin_or_continue(
    layers: Sequence[Mapping[str, Any]],
    where: Callable[[str], str],
    *,
    strict: bool = False,
    listeners: Sequence[Listener] = (),
    progress: bool | None = None,
) -> TrainingResult:
    """Continue the run in the directory that a config names, or begin it if there is none.

    So a user can repeat one command until the run is finished.

    Args:
        layers: The layers of the config.
        where: Returns how the user sets a key, for errors.
        strict: As for :func:`resume`.
        listeners: Called with every :class:`siamkit.Event`.
        progress: As for :func:`siamkit.fit`.

    Raises:
        ConfigError: The config names no directory, or differs from the run's config in a setting
            that affects results.
        SiamkitError: The run failed.
    """
    config = load_config(*layers)
    if config.run_dir is None:
        raise ConfigError(
            "is missing: it names the directory of the run to continue or begin",
            where=setting("run_dir"),
        )
    run = RunDir(config.run_dir)
    if run.has_begun:
        changes = Layer(_differences(merge(*layers), config, RunDir.open(run.path)), where)
        return continued(run.path, changes, strict=strict, listeners=listeners, progress=progress)
    with log_of(progress) as log:
        every = (*listeners, *log)
        return TrainingResult(_fit.fit(config, registries(), every, observers(), restart=True))


def has_begun(layers: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the directory that a config names holds a run that can be continued."""
    run_dir = load_config(*layers).run_dir
    return run_dir is not None and RunDir(run_dir).has_begun


def _differences(given: Mapping[str, Any], config: RunConfig, run: RunDir) -> dict[str, Any]:
    """Return the given config values that differ from the run's, nested by section."""
    kept = resolve(registries(), run.read_config(trackers=True), where=str(run.config))
    values, before = (dict(flat(c.to_values())) for c in (config, kept))
    result: dict[str, Any] = {}
    for key, _ in flat(given):
        left_open = key in CHOSEN and values[key] in (None, "auto")
        if key == "run_dir" or left_open or values[key] == before.get(key):
            continue
        *outer, last = key.split(".")
        section = result
        for part in outer:
            section = section.setdefault(part, {})
        section[last] = values[key]
    return result
