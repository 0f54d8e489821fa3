"""A run's calibration: its threshold, fitted on held-out images for its best epoch's network."""

from __future__ import annotations

from importlib.metadata import version

from siamkit.config import CalibrationConfig
from siamkit.data.digest import digest
from siamkit.errors import CheckpointError
from siamkit.evaluation.calibrating import calibrate
from siamkit.evaluation.calibration import Calibration
from siamkit.runs import checkpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut
from siamkit.spelling import command


def calibrate_run(
    run: RunDir, held_out: HeldOut, wanted: CalibrationConfig, data: str, *, seed: int = 0
) -> Calibration:
    """Fit the threshold of a run and write it to the run, replacing an earlier one.

    Args:
        run: The run.
        held_out: Images that it didn't train on, embedded by its best epoch's network.
        wanted: The threshold's target.
        data: The path of the data, for the record.
        seed: Seed for drawing pairs.

    Raises:
        DataError: The images do not allow a threshold; nothing is written.
        ResourceError: The disk is full or not writable.
    """
    calibration = calibrate(
        held_out.embeddings,
        held_out.images,
        target=wanted.wanted,
        far=wanted.far,
        source={
            "data": data,
            "part": held_out.part,
            "digest": digest(held_out.images),
            "checkpoint": best_checkpoint(run),
            "epoch": held_out.epoch + 1,
            "siamkit": version("siamkit"),
        },
        seed=seed,
    )
    calibration.save(run.calibration)
    return calibration


def best_checkpoint(run: RunDir) -> str:
    """Return the name of the checkpoint of a run's best epoch.

    Raises:
        CheckpointError: There is none yet.
    """
    name = checkpoint.pointed_to(run.checkpoints, checkpoint.BEST)
    if name is None:
        raise CheckpointError(
            "has no best epoch yet",
            where=str(run.path),
            hint=f"finish the run with {command('train --resume', run.path)}",
        )
    return name


def calibration_of(run: RunDir, checkpoint_name: str) -> Calibration:
    """Return the calibration of a run for the network of one of its checkpoints.

    Raises:
        CheckpointError: There is none, it is damaged, or it was fitted for another network.
    """
    hint = f"{command('calibrate', run.path)} fits one for the best epoch's network"
    if not run.calibration.is_file():
        raise CheckpointError("the run has no threshold", where=str(run.path), hint=hint)
    calibration = Calibration.load(run.calibration)
    if calibration.provenance.checkpoint != checkpoint_name:
        raise CheckpointError(
            "the threshold was fitted for another network of the run",
            where=str(run.calibration),
            got=calibration.provenance.checkpoint,
            allowed=checkpoint_name,
            hint=hint,
        )
    return calibration
