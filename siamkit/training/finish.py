"""The end of a run: held-out embeddings and the threshold of the best epoch's network."""

from __future__ import annotations

from typing import Any

from siamkit.engine.settings import Emit
from siamkit.errors import CheckpointError, DataError
from siamkit.files import is_there, writing
from siamkit.model.pretrained.identity import check_embeddings
from siamkit.runs import checkpoint
from siamkit.runs.calibration import calibrate_run, calibration_of
from siamkit.runs.checkpoint import SavedCheckpoint
from siamkit.runs.computed import save_computed
from siamkit.runs.held_out import HeldOut
from siamkit.training.late_sets import stocked
from siamkit.training.loading import TEST, VAL
from siamkit.training.loop import Trainer
from siamkit.training.tensors import load_model_tensors


def best_network(trainer: Trainer) -> SavedCheckpoint:
    """Return the checkpoint of the best epoch.

    Raises:
        CheckpointError: The checkpoint is missing or damaged; the message says what can be used.
    """
    root, name = trainer.run_dir.checkpoints, trainer.state.best_checkpoint
    try:
        return checkpoint.load_network(root / str(name))
    except CheckpointError as error:
        raise CheckpointError(
            f"the best epoch's network is lost: {error.what}",
            where=error.where,
            hint="use the network of the last epoch, or start a new run",
        ) from None


def embed_held_out(trainer: Trainer, best: SavedCheckpoint) -> dict[str, HeldOut]:
    """Embed the held-out images with the best epoch's network, and save the embeddings.

    Those of two made-up images are saved too, by which a loaded network is checked.
    """
    setup, state, run_dir = trainer.setup, trainer.state, trainer.run_dir
    load_model_tensors(setup, best.model)
    computed = check_embeddings(setup.net)  # [2, E]
    if computed.isfinite().all():
        save_computed(run_dir, best.network, computed.tolist())
    kernel = None if state.decision is None else state.decision.kernel
    held_out: dict[str, HeldOut] = {}
    for part in (VAL, TEST):
        if part in trainer.sets:
            execution = trainer.execution
            if part == TEST and execution is not None:
                ready = stocked(trainer.scorer, trainer.engine, execution, part)
                execution = execution if ready else None
            embeddings = trainer.scorer.from_rows(part, execution)
            if embeddings is None:
                embeddings = trainer.scorer.embedded(part, setup.net, kernel)
            images = trainer.sets[part].images
            epoch = state.best_epoch or 0
            held_out[part] = HeldOut(
                part,
                images,
                embeddings,
                epoch,
                best.network,
                setup.net.preprocessing,
                state.identity[f"data {part}"],
            )
            held_out[part].save(run_dir)
    return held_out


def calibrated(
    trainer: Trainer, best: SavedCheckpoint, held_out: HeldOut, emit: Emit
) -> dict[str, Any] | None:
    """Fit a threshold on the validation images, or emit a notice if they do not allow it.

    An existing threshold for the same network stays, because the user may have chosen its target.

    Returns:
        The threshold and its metrics as JSON values; None if no threshold could be fitted.
    """
    run_dir, config = trainer.run_dir, trainer.setup.config
    try:
        return calibration_of(run_dir, best).to_json()
    except CheckpointError as error:
        if is_there(run_dir.calibration):
            emit("notice", {"text": f"the threshold is fitted again: {error}"})
    with writing(run_dir.calibration):
        run_dir.calibration.unlink(missing_ok=True)
    try:
        calibration = calibrate_run(run_dir, best, held_out, config.calibration, config.data.path)
    except DataError as error:
        emit("notice", {"text": f"no threshold was fitted: {error}"})
        return None
    return calibration.to_json()
