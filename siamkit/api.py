"""siamkit in Python: the functions behind the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from siamkit import plugins
from siamkit.config import Layer, RunConfig, read_file, resolve
from siamkit.data.check import check
from siamkit.data.sources import load_data, unseen_images
from siamkit.deploy import building
from siamkit.deploy.embed import embed_to_file
from siamkit.deploy.filling import Progress
from siamkit.deploy.index import Index
from siamkit.embedding import BATCH_SIZE, Embedder
from siamkit.embedding_inputs import files_of
from siamkit.errors import CheckpointError, ConfigError
from siamkit.evaluation.calibration import Calibration
from siamkit.evaluation.summary import summarize
from siamkit.freezing.kernels import KERNELS
from siamkit.interfaces import Event, FreezePolicy, Phase
from siamkit.model.create import create_net
from siamkit.model.heads import HEADS
from siamkit.model.siamese import SiameseNet
from siamkit.registry import Registry
from siamkit.training import checkpoint
from siamkit.training import fit as _fit
from siamkit.training import inspection as _inspection
from siamkit.training.build import build_policy, resolve_device
from siamkit.training.calibrating import best_checkpoint, calibrate_run, calibration_of
from siamkit.training.events import Listener
from siamkit.training.heldout import HeldOut
from siamkit.training.rundir import RunDir

Config = RunConfig | Mapping[str, Any] | str | Path
"""A resolved config, nested values, or the path of a YAML file."""

_RECALL_QUERIES = 100  # of an approximate search, checked against exact search


def registries() -> dict[str, Registry]:
    """Return the registry of each component section of the config."""
    found = plugins.get()
    return {
        "backbone": found.backbones,
        "head": HEADS,
        "freeze": found.freeze_policies,
        "loss": found.losses,
        "scheduler": found.schedulers,
    }


def load_config(*layers: Mapping[str, Any], where: str = "") -> RunConfig:
    """Return the complete config of layers of nested values, lowest first, over the defaults."""
    return resolve(registries(), *layers, where=where)


def list_backbones() -> list[str]:
    """Return the names of the backbones; ``timm:`` stands for every model of timm's."""
    return plugins.get().backbones.names()


def list_freeze_policies() -> list[str]:
    """Return the names of the freeze policies."""
    return plugins.get().freeze_policies.names()


def list_losses() -> list[str]:
    """Return the names of the losses."""
    return plugins.get().losses.names()


def list_schedulers() -> list[str]:
    """Return the names of the schedulers."""
    return plugins.get().schedulers.names()


def create_model(
    backbone: str = "resnet50",
    *,
    pretrained: bool | None = None,
    weights: str | Path | None = None,
    head: str | Mapping[str, Any] = "residual",
    in_chans: int = 3,
    image_size: int | None = None,
    **options: Any,
) -> SiameseNet:
    """Build a Siamese network.

    Args:
        backbone: A name of :func:`list_backbones`, or ``timm:<model>``.
        pretrained: Load pretrained weights: True, False, or None for "where there are any".
        weights: A ``.safetensors`` or ``.pth`` file for the backbone instead.
        head: A head's name, or its name and options: ``{"name": "mlp", "dim": 64}``.
        in_chans: Image channels.
        image_size: Pixels a side; None for the backbone's own.
        **options: Options of the backbone.

    Raises:
        ConfigError: A name or an option is wrong.
        CheckpointError: Weights can't be had or don't fit.
    """
    layer = {
        "backbone": {"name": backbone, "pretrained": pretrained, "weights": weights, **options},
        "head": head,
        "data": {"in_chans": in_chans, "image_size": image_size},
    }
    return create_net(load_config(layer), registries()).net


def create_policy(name: str, **options: Any) -> FreezePolicy:
    """Build a freeze policy by name.

    Raises:
        ConfigError: The name or an option is wrong.
    """
    return build_policy(load_config({"freeze": {"name": name, **options}}), registries())


def plan(
    net: SiameseNet, policy: str | FreezePolicy = "stages", epochs: int = 10, **options: Any
) -> tuple[Phase, ...]:
    """Return the phases that a policy makes of a run.

    Args:
        net: The network.
        policy: A name of :func:`list_freeze_policies`, or a policy.
        epochs: Epochs in the run.
        **options: Options of a named policy.
    """
    from siamkit.freezing.phases import phases

    chosen = create_policy(policy, **options) if isinstance(policy, str) else policy
    return phases(chosen, net.stages(), epochs)


def fit(config: Config | None = None, *, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Train, and return what ``siamkit train --json`` prints.

    Args:
        config: A config, nested values, or a YAML file; None for the defaults.
        listeners: Called with every :class:`siamkit.Event`.

    Returns:
        ``run_dir``, ``epochs``, ``phases``, ``metrics`` (``untrained``, ``best``, ``last``, and
        ``test`` where the data has one), ``history``, ``calibration`` (None where the held-out
        images don't allow it).

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    return _fit.fit(_config(config), registries(), listeners, _observers())


def resume(run_dir: str | Path, *, listeners: Sequence[Listener] = ()) -> dict[str, Any]:
    """Go on with an interrupted run; otherwise as :func:`fit`.

    Raises:
        CheckpointError: There is no run, no intact checkpoint, or the data changed.
    """
    return _fit.resume(Path(run_dir), registries(), listeners, _observers())


def inspect(
    config: Config | None = None, *, parameters: bool = False, measure: bool = False
) -> dict[str, Any]:
    """Return what ``siamkit inspect --json`` prints.

    Args:
        config: As for :func:`fit`; or a run directory, whose phases are then those it went through.
        parameters: Also list every parameter.
        measure: Also load the weights and data, time each phase, and say how the engine would run
            it: cached or live, with which kernel, and why. Not for a run directory.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    if isinstance(config, str | Path) and Path(config).is_dir():
        if measure:
            raise ConfigError(
                "the phases of a run were measured when they began",
                where=str(config),
                hint="its events.jsonl holds the numbers in the events named 'engine'",
            )
        run = RunDir.open(Path(config))
        resolved = load_config(run.read_config(), where=str(run.config))
        history = _history(run)
        return _inspection.inspect(
            resolved, registries(), history=history, weights="none", parameters=parameters
        )
    return _inspection.inspect(
        _config(config), registries(), parameters=parameters, measure=measure
    )


def load_model(run_dir: str | Path, which: Literal["best", "last"] = "best") -> SiameseNet:
    """Return the trained network of a run, in eval mode.

    Args:
        run_dir: The run.
        which: The best epoch's, or the last saved.

    Raises:
        ConfigError: ``which`` is neither.
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    run = RunDir.open(Path(run_dir))
    config = load_config(run.read_config(), where=str(run.config))
    folder = run.checkpoints / _checkpoint_name(run, which)
    net = create_net(config, registries(), weights="none").net
    saved = checkpoint.load(folder).model
    net.load_state_dict({k: v for k, v in saved.items() if not k.startswith("loss.")})
    return net.eval()


def load(
    run_dir: str | Path,
    which: Literal["best", "last"] = "best",
    *,
    device: str = "auto",
    kernel: str = "auto",
    workers: int | None = None,
) -> Embedder:
    """Return an embedder of images with the trained network of a run, and its calibration.

    Args:
        run_dir: The run.
        which: The best epoch's network, or the last saved.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        kernel: How the network runs: ``auto`` measures, or a name as in ``engine.prefix``.
        workers: Processes that load images; None for as many as this machine has use for.

    Raises:
        ConfigError: ``which``, ``device`` or ``kernel`` is none of these.
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    run = RunDir.open(Path(run_dir))
    config = load_config(run.read_config())
    allowed = ("auto", *KERNELS)
    if kernel not in allowed:
        raise ConfigError("no such kernel", where="kernel", got=kernel, allowed=", ".join(allowed))
    net: SiameseNet = load_model(run_dir, which).to(resolve_device(device))
    net = net.to(memory_format=torch.channels_last)
    calibration: Calibration | CheckpointError
    try:
        calibration = calibration_of(run, _checkpoint_name(run, which))
    except CheckpointError as error:  # nobody misses it before they verify
        calibration = error
    return Embedder(
        net,
        kernel=kernel,
        precision=config.train.precision,
        workers=workers,
        calibration=calibration,
    )


def embed(
    run_dir: str | Path,
    images: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    which: Literal["best", "last"] = "best",
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    workers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Do what ``siamkit embed`` does, and return what it prints with ``--json``.

    Args:
        run_dir: The run.
        images: A folder, a file, or files.
        output: ``.npy`` (with the paths in a ``.csv`` beside it) or ``.parquet``.
        which: The best epoch's network, or the last saved.
        batch_size: Images that are loaded together.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        workers: Processes that load images; None for as many as this machine has use for.
        force: Replace what is there, and drop unfinished work that does not fit.
        progress: Called with how many images are done, and how many there are.

    Returns:
        See :func:`siamkit.deploy.embed.embed_to_file`.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    embedder = load(run_dir, which, device=device, workers=workers)
    return embed_to_file(
        embedder, images, Path(output), batch_size=batch_size, force=force, progress=progress
    )


def build_index(
    run_dir: str | Path,
    gallery: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    which: Literal["best", "last"] = "best",
    kind: str = "exact",
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    workers: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Do what ``siamkit index`` does, and return what it prints with ``--json``.

    Args:
        run_dir: The run.
        gallery: A folder, a file, or files; the label of an image is its folder in the gallery.
        output: The folder of the index.
        which: The best epoch's network, or the last saved.
        kind: ``exact``, ``faiss`` (approximate), or ``auto``: ``faiss`` for a large gallery.
        batch_size: Images that are loaded together.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        workers: Processes that load images; None for as many as this machine has use for.
        force: Replace an index that is there, and drop unfinished work that does not fit.
        progress: Called with how many images are done, and how many there are.

    Returns:
        See :func:`siamkit.deploy.building.build_index`.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    embedder = load(run_dir, which, device=device, workers=workers)
    return building.build_index(
        embedder, gallery, Path(output), run=Path(run_dir), which=which, kind=kind,
        batch_size=batch_size, force=force, progress=progress,
    )  # fmt: skip


def load_index(path: str | Path, *, verify: bool = True) -> Index:
    """Open an index that :func:`build_index` or ``siamkit index`` built.

    Args:
        path: Its folder.
        verify: Check every byte of it, which takes about a second for a million embeddings;
            otherwise the sizes of its files alone.

    Raises:
        CheckpointError: It is none, or is damaged; the message names the file.
    """
    return Index(path, verify=verify)


def search(
    index: str | Path,
    queries: str | Path | Sequence[str | Path],
    k: int = 10,
    *,
    run_dir: str | Path | None = None,
    exact: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Return what ``siamkit search --json`` prints.

    To search more than once, keep the index and the embedder:
    ``siamkit.load(run).search(images, siamkit.load_index(path))``.

    Args:
        index: The folder of an index.
        queries: A folder, a file, or files.
        k: How many for each query.
        run_dir: The run that built the index, where it is no longer in its place.
        exact: Search all of the index even if it is approximate.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Returns:
        ``index``, ``kind``, ``images`` (in the index), ``k``, ``recall@10`` (on up to 100 of the
        queries, of an approximate search), and ``queries``: for each its ``path`` and
        ``neighbours``: ``rank``, ``score``, ``label``, ``path``.

    Raises:
        CheckpointError: The index is damaged, or its run is gone or has another network now.
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    if k < 1:
        raise ConfigError("must be positive", where="k", got=k)
    opened = load_index(index)
    run = Path(run_dir or opened.meta.run)
    if not run.exists():
        raise CheckpointError(
            "the run that built the index is not there",
            where=str(run),
            hint="say where it is now with --run",
        )
    embedder = load(run, opened.meta.which, device=device)
    opened.require_model(embedder.fingerprint)
    paths = files_of(queries)
    embeddings = embedder.embed(paths)
    found = opened.search(embeddings, k, exact=exact)
    approximate = opened.meta.kind != "exact" and not exact
    return {
        "index": str(index),
        "kind": opened.meta.kind if approximate else "exact",
        "images": len(opened),
        "k": k,
        "recall@10": opened.recall(embeddings[:_RECALL_QUERIES]) if approximate else None,
        "queries": [
            {"path": str(path), "neighbours": neighbours}
            for path, neighbours in zip(paths, found.rows(), strict=True)
        ],
    }


def evaluate(
    run_dir: str | Path,
    data: str | Path | None = None,
    *,
    root: str | Path | None = None,
    which: Literal["best", "last"] = "best",
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Return what ``siamkit evaluate RUN --json`` prints.

    Args:
        run_dir: The run.
        data: Data as for training, of which the test or else the validation split is taken if
            there are splits; None for the run's own test or else validation images.
        root: The folder that a table's paths are relative to; None for the table's own.
        which: The best epoch's network, or the last saved.
        seed: Of the draws of pairs, folds, resamples and episodes.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Returns:
        ``retrieval``, ``verification``, ``triplets`` and ``few_shot`` metrics beside what chance
        gives, and ``notices``; see :func:`siamkit.evaluation.summary.summarize`.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    embedder = load(run_dir, which, device=device)
    if data is None:
        config = load_config(RunDir.open(Path(run_dir)).read_config())
        path = config.data.path
        splits = load_data(config.data, config.train.seed)
        images = splits.test or splits.val
        part = "the run's test images" if splits.test else "the run's validation images"
    else:
        path = str(data)
        images, part = unseen_images(path, None if root is None else Path(root))
    embeddings = embedder.embed(images.samples)
    return {
        "run_dir": str(run_dir),
        "which": which,
        "data": {"path": path, "part": part},
        **summarize(embeddings, images, threshold=_threshold(embedder), seed=seed),
    }


def _threshold(embedder: Embedder) -> float | None:
    """Return the threshold that was fitted for the embedder's network, if there is one."""
    try:
        return embedder.calibration.threshold
    except CheckpointError:
        return None


def check_data(
    data: str | Path, *, root: str | Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return what ``siamkit data check DATA --json`` prints.

    Args:
        data: A folder, a table, LFW's pairs, or ``sample``.
        root: The folder that a table's paths are relative to; None for the table's own.
        seed: Seed of what is held out.

    Raises:
        DataError: It cannot be told what the data is: no such file, bad rows.
    """
    config = load_config({"data": {"path": str(data), "root": root and str(root)}})
    return check(config.data, seed)


def calibrate(
    run_dir: str | Path,
    data: str | Path | None = None,
    *,
    root: str | Path | None = None,
    target: Literal["eer", "far", "accuracy"] | None = None,
    far: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Calibration:
    """Fit the threshold of a run again, without training, and keep it with the run.

    Args:
        run_dir: The run.
        data: As for :func:`evaluate`; None for the run's own validation images.
        root: As for :func:`evaluate`.
        target: ``eer``, as many false accepts as false rejects; ``far``, a rate of false accepts;
            ``accuracy``, the best one on as many same pairs as different; None for ``far`` where a
            rate is given, else what the run's config says.
        far: That rate, in (0, 1).
        seed: Of the draw of pairs, where there are too many for all.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; where images are embedded.

    Raises:
        ConfigError: The target and the rate don't go together.
        CheckpointError: There is no such run, or it is damaged.
        DataError: The images don't allow it; an earlier threshold then stays.
    """
    run = RunDir.open(Path(run_dir))
    config = load_config(run.read_config(), where=str(run.config))
    wanted = config.calibration
    if target is not None or far is not None:
        given = {"calibration": {"target": target, "far": far}}
        wanted = load_config(Layer(given, lambda key: key.split(".")[-1])).calibration
    held_out = _held_out(run, config, data, root, device)
    path = config.data.path if data is None else str(data)
    return calibrate_run(run, held_out, wanted, path, seed=seed)


def _held_out(
    run: RunDir,
    config: RunConfig,
    data: str | Path | None,
    root: str | Path | None,
    device: str,
) -> HeldOut:
    """Return images that the run didn't train on, embedded by its best epoch's network."""
    epoch: int = checkpoint.load(run.checkpoints / best_checkpoint(run)).state["best_epoch"]
    if data is None:
        kept = HeldOut.load(run, "val")
        if kept is not None and kept.epoch == epoch:
            return kept
        images, part = load_data(config.data, config.train.seed).val, "val"
    else:
        images, part = unseen_images(str(data), None if root is None else Path(root))
    embeddings = load(run.path, device=device).embed(images.samples)
    return HeldOut(part, images, embeddings, epoch)


def _checkpoint_name(run: RunDir, which: str) -> str:
    pointers = {"best": checkpoint.BEST, "last": checkpoint.LATEST}
    if which not in pointers:
        raise ConfigError("no such checkpoint", where="which", got=which, allowed="best, last")
    return checkpoint.pointed_to(run.checkpoints, pointers[which]) or pointers[which]


def _config(config: Config | None) -> RunConfig:
    if isinstance(config, RunConfig):
        return load_config(config.to_values())
    if isinstance(config, str | Path):
        return load_config(read_file(Path(config)), where=str(config))
    return load_config(config or {})


def _history(run: RunDir) -> list[dict[str, float]]:
    try:
        saved, _ = checkpoint.latest_intact(run.checkpoints)
    except CheckpointError:
        return []  # nothing was saved yet: the phases are those that the run will go through
    return list(saved.state["history"])


def _observers() -> list[Listener]:
    """Return one observer for each plugin that watches runs, so that each can fail alone."""
    manager = plugins.get().manager
    found: list[Listener] = []
    for caller in manager.hook.siamkit_event.get_hookimpls():
        others = [p for p in manager.get_plugins() if p is not caller.plugin]
        found.append(partial(_notify, manager.subset_hook_caller("siamkit_event", others)))
    return found


def _notify(hook: Any, event: Event) -> None:
    hook(event=event)
