"""A run's calibration: its threshold, fitted on held-out images for its best epoch's network."""

from __future__ import annotations

from collections.abc import Sequence

from siamkit.config import CalibrationConfig
from siamkit.errors import CheckpointError
from siamkit.evaluation.calibrating import calibrate
from siamkit.files import is_there, reading
from siamkit.portable.calibration import Calibration
from siamkit.runs.checkpoint import SavedCheckpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut
from siamkit.spelling import command
from siamkit.version import VERSION

CHOSE_EPOCH = ("these images chose the best epoch, so the rates are optimistic for other images",)
"""The notice about a threshold that was fitted on a run's own validation images."""


def calibrate_run(
    run: RunDir,
    best: SavedCheckpoint,
    held_out: HeldOut,
    wanted: CalibrationConfig,
    data: str,
    *,
    notices: Sequence[str] = (),
    seed: int = 0,
) -> Calibration:
    """Fit the threshold of a run and write it to the run, replacing an earlier one.

    Args:
        run: The run.
        best: The checkpoint of the run's best epoch.
        held_out: Images that the run did not train on, embedded by the network of ``best``.
        wanted: The threshold's target.
        data: The path of the data, which is stored with the threshold.
        notices: Notes about the images, which are stored with the threshold.
        seed: Seed for drawing pairs.

    Raises:
        DataError: No threshold can be fitted on these images; nothing is written.
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
            "notices": (*notices, *(CHOSE_EPOCH if held_out.part == "val" else ())),
        },
        seed=seed,
    )
    calibration.save(run.calibration)
    return calibration


def read_calibration(run: RunDir) -> Calibration | None:
    """Return the calibration of a run, without a check that it fits the network; None without one.

    Raises:
        CheckpointError: The calibration cannot be read, or is damaged.
    """
    with reading(run.calibration):
        if not is_there(run.calibration):
            return None
    return Calibration.load(run.calibration, hint=calibrate_hint(run))


def calibration_of(run: RunDir, saved: SavedCheckpoint) -> Calibration:
    """Return the calibration of a run for the network of one of its checkpoints.

    Raises:
        CheckpointError: There is no calibration, or it is damaged or fitted for another network.
    """
    calibration = read_calibration(run)
    hint = calibrate_hint(run)
    if calibration is None:
        raise CheckpointError("the run has no threshold", where=str(run.path), hint=hint)
    made = calibration.provenance
    if (made.checkpoint, made.network) != (saved.name, saved.network):
        changed = made.checkpoint == saved.name
        is_best = saved.name == saved.state["best_checkpoint"]
        raise CheckpointError(
            f"the threshold was fitted for another network, that of checkpoint {made.checkpoint}"
            + (" before it changed" if changed else f", and checkpoint {saved.name} is in use"),
            where=str(run.calibration),
            hint=hint if is_best or changed else "use the network of the best epoch",
        )
    return calibration


def calibrate_hint(run: RunDir) -> str:
    """Return the hint on how to fit another threshold.

    The hint does not suggest to edit the file, whose hash would no longer match.
    """
    return (
        f"{command('calibrate', run.path)} fits a threshold for the best epoch's network; its "
        "options choose another target or other images"
    )
