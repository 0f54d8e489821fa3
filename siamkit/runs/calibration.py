"""A run's calibration: its threshold, fitted on held-out images for its best epoch's network."""

from __future__ import annotations

from siamkit.config import CalibrationConfig
from siamkit.errors import CheckpointError
from siamkit.evaluation.calibrating import calibrate
from siamkit.evaluation.calibration import Calibration
from siamkit.files import is_there, reading
from siamkit.runs.checkpoint import SavedCheckpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut
from siamkit.spelling import command
from siamkit.version import VERSION


def calibrate_run(
    run: RunDir,
    best: SavedCheckpoint,
    held_out: HeldOut,
    wanted: CalibrationConfig,
    data: str,
    *,
    seed: int = 0,
) -> Calibration:
    """Fit the threshold of a run and write it to the run, replacing an earlier one.

    Args:
        run: The run.
        best: The checkpoint of its best epoch.
        held_out: Images that it didn't train on, embedded by that checkpoint's network.
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
            "digest": held_out.digest,
            "checkpoint": best.name,
            "network": best.network,
            "epoch": held_out.epoch + 1,
            "siamkit": VERSION,
        },
        seed=seed,
    )
    calibration.save(run.calibration)
    return calibration


def read_calibration(run: RunDir) -> Calibration | None:
    """Return the calibration that a run has, for whatever network; None without one.

    Raises:
        CheckpointError: It cannot be read, or is damaged.
    """
    with reading(run.calibration):
        if not is_there(run.calibration):
            return None
    return Calibration.load(run.calibration, hint=calibrate_hint(run))


def calibration_of(run: RunDir, saved: SavedCheckpoint) -> Calibration:
    """Return the calibration of a run for the network of one of its checkpoints.

    Raises:
        CheckpointError: There is none, it is damaged, or it was fitted for another network.
    """
    calibration = read_calibration(run)
    hint = calibrate_hint(run)
    if calibration is None:
        raise CheckpointError("the run has no threshold", where=str(run.path), hint=hint)
    made = calibration.provenance
    if (made.checkpoint, made.network) != (saved.name, saved.network):
        raise CheckpointError(
            "the threshold was fitted for another network of the run",
            where=str(run.calibration),
            got=made.checkpoint,
            allowed=saved.name,
            hint=hint,
        )
    return calibration


def calibrate_hint(run: RunDir) -> str:
    """Return how to get another threshold: the file itself must not be edited."""
    return (
        f"{command('calibrate', run.path)} fits one for the best epoch's network, for another "
        "target or on other images if you wish"
    )
