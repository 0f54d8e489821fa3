"""Opens runs, and loads the trained network of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from siamkit.api.arguments import objects_of
from siamkit.api.entries import registries
from siamkit.checks import require_unused
from siamkit.errors import CheckpointError, ConfigError
from siamkit.files import path_of
from siamkit.inference.embedder import Embedder
from siamkit.model.create import create_net
from siamkit.model.device import place, resolve_device
from siamkit.model.generators import seeded
from siamkit.model.pretrained.identity import (
    OTHER_DEVICE,
    check_embeddings,
    difference,
    tolerance,
)
from siamkit.model.settings import usual_settings
from siamkit.model.siamese import SiameseNet, plugins_of
from siamkit.model.weights import load_net_tensors
from siamkit.objects.overlay import overlaid, require_same
from siamkit.portable.calibration import Calibration
from siamkit.portable.manifest import is_export, read_manifest
from siamkit.portable.sessions import KERNELS
from siamkit.runs.checkpoint import SavedCheckpoint
from siamkit.runs.computed import computed_by
from siamkit.runs.open import OpenRun
from siamkit.training.seeding import derive

RUN = "a run's directory"


def open_run(run_dir: str | Path, **objects: Any) -> OpenRun:
    """Open a run; each of its files is read at most once.

    Args:
        run_dir: The run's directory.
        **objects: Objects that the run was started with, under the same names as in
            :func:`siamkit.fit`. Pass only the objects that are needed; None counts as not passed.

    Raises:
        CheckpointError: There is no run, or an object differs from the one that the run was
            started with.
        ConfigError: ``run_dir`` is no path, or an argument does not name an object of a run.
    """
    path = path_of(run_dir, "run_dir", RUN)
    given = objects_of(objects, "open_run")
    known, _ = overlaid(registries(), given) if given else (None, None)
    run = OpenRun(path, registries if known is None else lambda: known)
    if given:
        require_same(given, run.config, str(run.dir.config))
    return run


def load_model(
    run_dir: str | Path,
    which: Literal["best", "last"] = "best",
    *,
    backbone: nn.Module | None = None,
    head: nn.Module | None = None,
) -> SiameseNet:
    """Return the trained network of a run, in eval mode.

    Args:
        run_dir: The run's directory.
        which: ``best``: the network of the best epoch; ``last``: that of the latest checkpoint.
        backbone: The module that the run was started with, if its backbone is an object.
        head: The module that the run was started with, if its head is an object.

    Raises:
        ConfigError: ``which`` is unknown.
        CheckpointError: There is no such checkpoint, it is damaged, or it is of another network.
    """
    return model_of(open_run(run_dir, backbone=backbone, head=head), which)


@usual_settings()
def model_of(run: OpenRun, which: Literal["best", "last"] = "best") -> SiameseNet:
    """Return the network of an open run, with the errors of :func:`load_model`."""
    checkpoint = run.checkpoint(which)
    # A plugin may draw a part of the network at random that is not among the tensors.
    with seeded(derive(run.config.train.seed, "init")):
        net = create_net(run.config, run.registries, weights="none").net
    load_net_tensors(net, checkpoint.model, str(run.dir.checkpoints / checkpoint.name))
    _require_same_output(net.eval(), run, checkpoint)
    return net


def _require_same_output(net: SiameseNet, run: OpenRun, checkpoint: SavedCheckpoint) -> None:
    """Check that a loaded network computes what the run's network did.

    Raises:
        CheckpointError: It does not.
    """
    known = computed_by(run.dir, checkpoint.network)
    if known is None or net.quantized is not None:  # int8 depends on the CPU's instructions
        return
    apart = difference(check_embeddings(net), torch.tensor(known))
    if not apart <= OTHER_DEVICE * tolerance(net):  # a run may train on a GPU
        makers = " and ".join(plugins_of(net))
        raise CheckpointError(
            f"the embeddings differ from those of the trained network by {apart:.2g} of their "
            "length on two made-up images, although all tensors are the same",
            where=str(run.path),
            hint=f"the code of {makers} may have changed since the run: install the versions in "
            f"{run.dir.plugins.name}. Or the forward depends on random values that are neither "
            "parameters nor persistent buffers",
        )


@usual_settings()
def load_embedder(
    run_dir: str | Path,
    which: Literal["best", "last"] = "best",
    *,
    device: str = "auto",
    kernel: str = "auto",
    workers: int | None = None,
    backbone: nn.Module | None = None,
    head: nn.Module | None = None,
) -> Embedder:
    """Return an embedder of images with the trained network of a run, and its calibration.

    Args:
        run_dir: The run's directory, or a folder that :func:`siamkit.export` wrote for torch
            or timm.
        which: ``best``: the network of the best epoch; ``last``: that of the latest checkpoint.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        kernel: How to run the network: ``eager`` (as it is), ``folded``, ``onnxruntime`` or
            ``inductor``; ``auto``: the fastest one, by measurement.
        workers: Processes that decode images; None: chosen by the number of cores and images.
        backbone: As for :func:`load_model`.
        head: As for :func:`load_model`.

    Raises:
        ConfigError: ``which``, ``device`` or ``kernel`` is unknown; or ``run_dir`` is a model that
            was exported to run without torch.
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    if is_export(run_dir):
        require_unused({"which": None if which == "best" else which}, "an exported model")
        _require_torch(Path(run_dir))
        return Embedder.from_pretrained(
            run_dir, device=device, kernel=kernel, workers=workers, backbone=backbone, head=head
        )
    run = open_run(run_dir, backbone=backbone, head=head)
    return embedder_of(run, which, device=device, kernel=kernel, workers=workers)


def _require_torch(folder: Path) -> None:
    kind = read_manifest(folder).kind
    if kind in KERNELS:
        raise ConfigError(
            f"the model was exported for {kind}, so a siamkit.Embedder cannot load it",
            where=str(folder),
            hint="siamkit.ExportedModel(FOLDER) opens it",
        )


def trained(
    run: Any, which: Literal["best", "last"] = "best", *, device: str = "auto", **objects: Any
) -> tuple[OpenRun | None, Embedder]:
    """Return the embedder to evaluate, and its run, if that is known.

    Args:
        run: A run's directory, an embedder, or a model that was exported for torch or timm.
        which: As for :func:`load_embedder`; only for a run.
        device: As for :func:`load_embedder`; not for an embedder.
        **objects: As for :func:`open_run`; not for an embedder.

    Raises:
        ConfigError: ``run`` is none of these, or an argument does not suit it.
        CheckpointError: As for :func:`load_embedder`.
    """
    if isinstance(run, Embedder):
        unused = {
            **objects,
            "which": None if which == "best" else which,
            "device": None if device == "auto" else device,
        }
        require_unused(unused, "an embedder, which has its network on its device")
        return None, run
    if is_export(run):
        return None, load_embedder(run, which, device=device, **objects)
    if isinstance(run, nn.Module):
        raise ConfigError(
            "is a network",
            where="run",
            got=type(run),
            allowed="a run's directory, or a siamkit.Embedder",
            hint="write siamkit.evaluate(siamkit.Embedder(NET), DATA) for a siamkit.SiameseNet, or "
            "siamkit.evaluate(embeddings=E, labels=y) for any network",
        )
    path_of(run, "run", "a run's directory, or an Embedder")
    opened = open_run(run, **objects)
    return opened, embedder_of(opened, which, device=device)


def embedder_of(
    run: OpenRun,
    which: Literal["best", "last"] = "best",
    *,
    device: str = "auto",
    kernel: str = "auto",
    workers: int | None = None,
) -> Embedder:
    """Return an embedder of an open run, with the arguments and errors of load_embedder."""
    net = place(model_of(run, which), resolve_device(device))
    calibration: Calibration | CheckpointError
    try:
        calibration = run.calibration(which)
    except CheckpointError as error:  # raised when the calibration is used, such as by verify()
        calibration = error
    return Embedder(
        net,
        kernel=kernel,
        precision=run.config.train.precision,
        workers=workers,
        calibration=calibration,
        max_pixels=run.config.data.max_pixels,
    )
