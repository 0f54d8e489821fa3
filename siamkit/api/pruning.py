"""Prunes the network of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from siamkit.api.arguments import read
from siamkit.api.listening import checked, log_of, observers
from siamkit.api.models import RUN, open_run
from siamkit.api.results import PruningResult
from siamkit.checks import whole_number
from siamkit.compress.prune import prune as _prune
from siamkit.compress.rounds import Wish
from siamkit.compress.shrink import PARTS
from siamkit.config import COMPONENTS, DEFAULT_RATE, Layer, RunConfig, flat, resolve
from siamkit.config.base import expanded
from siamkit.errors import ConfigError
from siamkit.files import path_of
from siamkit.model.quantized import Quantized, require_float
from siamkit.model.settings import usual_settings
from siamkit.objects.entries import is_object
from siamkit.runs.directory import unused
from siamkit.runs.events import Listener
from siamkit.runs.open import OpenRun
from siamkit.spelling import argument, setting
from siamkit.training.quantize import INT8

_SECTIONS = ("freeze", "optimizer", "scheduler", "train", "engine", "calibration", "track")
_KEYS = ("report", "data.path", "data.root", "data.workers")
_FIXED = ("train.seed", "train.monitor")


@usual_settings()
def prune(
    run: str | Path,
    run_dir: str | Path | None = None,
    *,
    ratio: float = 0.5,
    finetune_epochs: int | None = None,
    part: Literal["all", "trainable", "frozen"] = "all",
    iterations: int = 1,
    listeners: Iterable[Listener] = (),
    progress: bool | None = None,
    **given: Any,
) -> PruningResult:
    """Remove channels from the network of a run, fine-tune the rest, and compare both networks.

    The pruned network is a new run. The removed channels are those that matter least to the run's
    loss, relative to the time that they cost. The features and embeddings keep their width.

    Args:
        run: The directory of a run, whose best epoch's network is pruned. The run stays as it is.
        run_dir: The directory of the new run; None: ``<run>-pruned``, or ``<run>-pruned-2``...
        ratio: The share of the network's operations (FLOPs) to remove, between 0 and 1.
        finetune_epochs: Epochs of fine-tuning after each round; None: as many as the run has.
        part: The layers to remove channels from. ``trainable``: only those that train in the
            fine-tuning, so that frozen layers keep their values. ``frozen``: only the frozen
            layers. ``all``: all layers.
        iterations: The number of rounds. Each round removes a part of the operations and then
            fine-tunes.
        listeners: Called with every :class:`siamkit.Event` of the fine-tuning.
        progress: As for :func:`fit`.
        **given: Objects that the run was started with, such as ``backbone``. Also new settings of
            the fine-tuning, under the same names as in :func:`fit`: ``freeze``, ``optimizer``,
            ``scheduler``, ``lr``, ``batch_size``, ``device``, ``train``, ``engine``,
            ``calibration``, ``track``, ``report``, or the new path of ``data``.

    Returns:
        The output of ``siamkit prune RUN --json``, by attribute or by key.

    Raises:
        ConfigError: The network cannot be pruned, or not by ``ratio``; an argument is wrong; or
            torch-pruning is not installed. Nothing is written in these cases.
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    objects = {k: v for k, v in given.items() if k in COMPONENTS and is_object(v)}
    others = {k: v for k, v in given.items() if k not in objects}
    own = checked(listeners)
    opened = open_run(path_of(run, "run", RUN), **objects)
    arguments = read(others, opened.registries)
    if arguments.data is not None:
        raise ConfigError(
            "cannot be given again: the run records its images", where="data",
            allowed="the new path of data that was moved",
        )  # fmt: skip
    with log_of(progress) as log:
        return pruned(
            opened, run_dir, arguments.layer, ratio=ratio, finetune_epochs=finetune_epochs,
            part=part, iterations=iterations, listeners=(*own, *log),
        )  # fmt: skip


def pruned(
    run: OpenRun,
    run_dir: str | Path | None,
    changes: Layer,
    *,
    ratio: float,
    finetune_epochs: int | None,
    part: Literal["all", "trainable", "frozen"],
    iterations: int,
    listeners: Iterable[Listener] = (),
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> PruningResult:
    """Prune an open run; see :func:`prune`.

    Args:
        run: The run.
        run_dir: As for :func:`prune`.
        changes: New settings of the fine-tuning.
        ratio: As for :func:`prune`.
        finetune_epochs: As for :func:`prune`.
        part: As for :func:`prune`.
        iterations: As for :func:`prune`.
        listeners: Called with every :class:`siamkit.Event` of the fine-tuning.
        progress: Called when a round begins, with ``pruning``, the number of finished rounds and
            the number of all rounds.
    """
    wish = Wish(_share(ratio), part, whole_number(iterations, argument("iterations"), least=1))
    if part not in PARTS:
        raise ConfigError(
            "no such part", where=argument("part"), got=part, allowed=", ".join(PARTS)
        )
    if (record := run.config.backbone.int8) is not None:
        hint = f"prune a run that was trained without {setting('engine.prefix', 'int8')}"
        require_float(Quantized.load(record), "the run cannot be pruned", hint)
    config = _config(run, changes, finetune_epochs)
    if part == "trainable" and not config.train.epochs:
        raise ConfigError(
            "nothing trains in the fine-tuning, because the run has no epochs",
            where=argument("part"), got=part, hint=f"add {argument('finetune_epochs', 3)}",
        )  # fmt: skip
    if run_dir is None:
        target = unused(run.path.with_name(f"{run.path.absolute().name}-pruned"))
    else:
        target = expanded(path_of(run_dir, argument("run_dir"), "the new run's directory"))
    result = _prune(run, target, config, wish, tuple(listeners), observers(), progress)
    return PruningResult(result)


def _share(ratio: Any) -> float:
    number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
    if not number or not 0 < ratio < 1:
        raise ConfigError(
            "must be a share of the network's operations",
            where=argument("ratio"), got=ratio, allowed="a number between 0 and 1, such as 0.5",
        )  # fmt: skip
    return float(ratio)


def _config(run: OpenRun, changes: Layer, epochs: int | None) -> RunConfig:
    """Return the config of the new run.

    Raises:
        ConfigError: A setting cannot be changed, because the quality before and after would not be
            comparable.
    """
    wrong = [key for key, _ in flat(changes) if not _may_change(key)]
    if wrong:
        raise ConfigError(
            "cannot be changed by pruning",
            where=", ".join(changes.where(key) for key in wrong),
            allowed=", ".join((*_SECTIONS, *_KEYS)),
            hint="the new run keeps the data, the network and the loss of the run",
        )
    layers = [run.dir.read_config(trackers=True), changes]
    if epochs is not None:
        where = argument("finetune_epochs")
        if isinstance(epochs, int) and epochs < 1:
            raise ConfigError("must be greater than or equal to 1", where=where, got=epochs)
        layers.append(Layer({"train": {"epochs": epochs}}, lambda key: where))
    _ = run.config  # checks it
    config = resolve(run.registries, *layers, where=str(run.dir.config))
    if config.optimizer.lr == "auto":
        raise ConfigError(
            "the fine-tuning of a pruned network finds no rate by itself",
            where="optimizer.lr", got="auto",
            hint=f"give a rate: {setting('optimizer.lr', DEFAULT_RATE)}",
        )  # fmt: skip
    if config.engine.prefix == INT8:
        raise ConfigError(
            "the fine-tuning of a pruned network computes nothing in int8",
            where="engine.prefix", got=INT8, hint=f"use {setting('engine.prefix', 'auto')}",
        )  # fmt: skip
    return config


def _may_change(key: str) -> bool:
    return key not in _FIXED and (key in _KEYS or key.partition(".")[0] in _SECTIONS)
