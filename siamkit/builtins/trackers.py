"""The built-in tracker, which writes the curves of a run for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamkit.config import yaml_text
from siamkit.errors import ConfigError
from siamkit.hookspecs import Register, hookimpl
from siamkit.interfaces import Event, Options

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Json = Mapping[str, Any]

FOLDER = "tensorboard"
"""The folder of the curves in a run."""

_FLUSH_SECONDS = 10  # the default of two minutes is too long to watch a run


class TensorBoard:
    """Writes the curves of a run into ``RUN/tensorboard``, for TensorBoard.

    There are two sets of curves, ``training`` and ``held-out``. A metric has the same name in
    both, so that one chart shows both. The horizontal axis is the number of optimizer steps. The
    values of an epoch stand at its last step, those of a phase at its first step.
    """

    def __init__(self, options: Options) -> None:
        self._writer_class = _summary_writer()
        self._training: SummaryWriter | None = None
        self._held_out: SummaryWriter | None = None
        self._step = 0
        self._trainable = 0
        self._notices: list[str] = []

    def __call__(self, event: Event) -> None:
        """Write the values of ``event``; unknown events write nothing."""
        handler = getattr(self, f"_on_{event.name}", None)
        if handler is not None:
            handler(event.data)

    def close(self) -> None:
        """Write all pending values."""
        for writer in (self._training, self._held_out):
            if writer is not None:
                writer.close()

    # --- the run -----------------------------------------------------------------------------

    def _on_run_start(self, data: Json) -> None:
        folder = Path(data["run_dir"]) / FOLDER
        self._step = data["finished_steps"]
        # A resumed run repeats the steps after its checkpoint, so their points are purged. A run
        # that starts again from 0 also repeats the evaluation of the untrained model.
        again = self._step + 1 if self._step else 0
        purge = again if folder.exists() else None
        self._training, self._held_out = (
            self._writer_class(str(folder / name), purge_step=purge, flush_secs=_FLUSH_SECONDS)
            for name in ("training", "held-out")
        )
        config = yaml_text.dump(data["config"])
        self._text("config", f"```yaml\n{config}```")
        for text in data["notices"]:
            self._on_notice({"text": text})

    def _on_notice(self, data: Json) -> None:
        # All notices each time, since TensorBoard shows only one text per name and step.
        self._notices.append(data["text"])
        self._text("notices", "\n".join(f"- {text}" for text in self._notices))

    def _on_phase_start(self, data: Json) -> None:
        self._trainable = data["trainable_parameters"]
        self._scalars(self._training, {"trainable_parameters": self._trainable}, self._step + 1)
        self._text("phase", phase_text(data))

    def _on_early_stop(self, data: Json) -> None:
        self._on_notice(
            {
                "text": f"stopped early after epoch {data['epoch']}: no improvement since "
                f"epoch {data['best_epoch']}"
            }
        )

    # --- steps and epochs --------------------------------------------------------------------

    def _on_untrained(self, data: Json) -> None:
        self._scalars(self._held_out, _metrics(data), 0)

    def _on_step(self, data: Json) -> None:
        self._step = data["step"]
        values = {
            "loss/step": data["loss"],
            "images_per_second": data["images_per_second"],
            **{f"rate/{stage}": rate for stage, rate in data["rates"].items()},
        }
        self._scalars(self._training, values, self._step)

    def _on_epoch_end(self, data: Json) -> None:
        values = {
            "loss/epoch": data["train_loss"],
            "epoch": data["epoch"],
            "trainable_parameters": self._trainable,
            **_metrics(data["train_metrics"]),
        }
        self._scalars(self._training, values, self._step)
        self._scalars(self._held_out, _metrics(data["metrics"]), self._step)

    # --- writing -----------------------------------------------------------------------------

    def _scalars(self, writer: SummaryWriter | None, values: Json, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        assert writer is not None and writer.file_writer is not None
        # One summary for all values: separate add_scalar calls take several times as long.
        points = [Summary.Value(tag=name, simple_value=v) for name, v in values.items()]
        writer.file_writer.add_summary(Summary(value=points), step)

    def _text(self, name: str, text: str) -> None:
        # A notice can come before the run starts; the list at the start includes it.
        if self._training is not None:
            self._training.add_text(name, text, self._step + 1)


def phase_text(data: Json) -> str:
    """Return a Markdown text about the stages that train, from the data of ``phase_start``."""
    trains, total = data["trainable_parameters"], data["parameters"]
    lines = [f"From epoch {data['epoch']}: {trains:,} of {total:,} parameters train."]
    if data["reason"]:
        lines[0] += f" Reason: {data['reason']}."
    rows: Sequence[Json] = data["changes"]
    if rows:
        lines += [
            "",
            "| stage | trainable | parameters | norm layers | rate |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {r['stage']} | {r['trainable']:,} | {r['parameters']:,} | {r['norm']} | "
            f"{r['lr']:g} |"
            for r in rows
        ]
    return "\n".join(lines)


def _metrics(values: Json) -> dict[str, Any]:
    return {f"metrics/{name}": value for name, value in values.items()}


def _summary_writer() -> type[SummaryWriter]:
    """Import TensorBoard's writer.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"the tracker 'tensorboard' needs the package tensorboard ({error})",
            where="track",
            hint="pip install 'siamkit[track]'",
        ) from None
    return SummaryWriter


@hookimpl
def siamkit_register_trackers(register: Register) -> None:
    """Register the built-in trackers."""
    register("tensorboard", TensorBoard, summary="Writes curves and texts for TensorBoard.")
