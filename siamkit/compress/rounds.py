"""The rounds of pruning, and the run that they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from siamkit.compress.shrink import Part, Shrunk, operations, shrink
from siamkit.config import RunConfig
from siamkit.data.splits import Splits
from siamkit.errors import Interrupted
from siamkit.files import replacing, writing
from siamkit.freezing.schedule import FreezeSchedule
from siamkit.registry import Registry
from siamkit.runs import checkpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.events import Listener
from siamkit.runs.open import OpenRun
from siamkit.spelling import argument, setting
from siamkit.training.begin import begin
from siamkit.training.build import Setup, build, build_policy
from siamkit.training.fit import resume
from siamkit.training.loading import load_sets
from siamkit.training.state import ends_trained
from siamkit.training.tensors import load_model_tensors, model_tensors
from siamkit.words import plural

TOLERANCE = 0.03
"""The share of the operations that may be removed too much or too little without a notice."""

Progress = Callable[[str, int, int], None]
"""Receives the name of a step, the number of finished rounds, and the number of all rounds."""


@dataclass(frozen=True)
class Wish:
    """How to prune.

    Attributes:
        ratio: The share of the network's operations to remove, between 0 and 1.
        part: The part of the network that may lose channels.
        iterations: The number of rounds, each followed by fine-tuning.
    """

    ratio: float
    part: Part
    iterations: int

    def left_after(self, number: int) -> float:
        """Return the share of the operations that is left after a round, counted from 1.

        Each round removes the same share of what is left.
        """
        return float((1 - self.ratio) ** (number / self.iterations))


@dataclass(frozen=True)
class Source:
    """The run to prune.

    Attributes:
        run: The run.
        setup: Its parts, with the network of its best epoch.
        splits: Its data.
    """

    run: OpenRun
    setup: Setup
    splits: Splits

    @property
    def registries(self) -> Mapping[str, Registry]:
        """The registry of each component section."""
        return self.run.registries

    @property
    def about(self) -> str:
        """The name, the epoch and the digest of the network, as text."""
        best = self.run.checkpoint("best")
        epoch = self.run.best_epoch + 1
        return f"{self.run.path.absolute().name}, epoch {epoch} (network {best.network[:12]})"


def trained(
    config: RunConfig,
    registries: Mapping[str, Registry],
    splits: Splits,
    tensors: Mapping[str, Tensor],
) -> Setup:
    """Return the parts of a run, with the tensors of a checkpoint, in eval mode."""
    setup = build(config, registries, len(splits.train.classes), weights="none")
    load_model_tensors(setup, tensors)
    setup.net.eval()
    return setup


def write_pruned(
    source: Source,
    target: Path,
    config: RunConfig,
    wish: Wish,
    listeners: Sequence[Listener],
    progress: Progress,
) -> list[Shrunk]:
    """Do all rounds of pruning, and write the new run, before its last fine-tuning.

    The caller fine-tunes after the last round. The fine-tuning after the other rounds runs in a
    private folder, which is removed at the end.

    Args:
        source: The run to prune.
        target: The directory of the new run.
        config: The config of the new run.
        wish: How to prune.
        listeners: Called with every event of the fine-tuning between rounds.
        progress: Called when a round begins.

    Returns:
        What each round removed.
    """
    setup, total = source.setup, operations(source.setup.net, source.setup.device)
    inherited = ends_trained(source.run.best.state)
    done: list[Shrunk] = []
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as new:
        for number in range(1, wish.iterations + 1):
            progress("pruning", number - 1, wish.iterations)
            shrunk = _shrunk(source, setup, config, total * wish.left_after(number), wish)
            done.append(shrunk)
            last = number == wish.iterations
            folder = new if last else new.with_name(f"round-{number}")
            path = folder.absolute() / RunDir(folder).pruning.name
            folder.mkdir()
            record = replace(shrunk.record, about=_about(source, wish))
            if setup.net.pruning is not None:
                record = record.after(setup.net.pruning)
            record.save(path)
            own = config if last else config.model_copy(update={"track": (), "report": False})
            backbone = config.backbone.model_copy(update={"pruning": path, "weights": None})
            own = own.model_copy(update={"backbone": backbone, "run_dir": None})
            loss = {k: v for k, v in model_tensors(setup).items() if k.startswith("loss.")}
            tensors = {**shrunk.net.state_dict(), **loss}
            begin(
                folder, own, source.registries, source.splits, tensors,
                f"pruned: {source.about}", inherited=inherited,
            )  # fmt: skip
            if not last:
                setup, inherited = _tuned(folder, source, listeners)
        RunDir(target).require_free()  # hours later, something else may be there
    return done


def ratio_notice(wish: Wish, gone: float) -> str | None:
    """Return a notice if another share of the operations is gone than was asked for; else None.

    Args:
        wish: How to prune.
        gone: The share that is gone, counted in the finished network.
    """
    if abs(gone - wish.ratio) <= TOLERANCE:
        return None
    why = (
        "channels are removed in steps of 8 in large layers, and in groups"
        if gone > wish.ratio
        else "some operations depend on the channels in a way that was not foreseen"
    )
    return f"{gone:.0%} of the operations were removed instead of {wish.ratio:.0%}: {why}"


def frozen_notice(rounds: Sequence[Shrunk], epochs: int) -> str | None:
    """Return a notice if pruned layers did not train in the fine-tuning; else None.

    Args:
        rounds: What each round removed.
        epochs: The epochs of the fine-tuning.
    """
    last = rounds[-1]
    if not last.frozen:
        return None
    if not epochs:
        return (
            "there was no fine-tuning, because the run has no epochs: "
            f"{argument('finetune_epochs', 3)} trains what is left for three epochs"
        )
    return (
        f"{last.frozen} of {plural(len(last.record.layers), 'pruned layer')} did not train in the "
        f"fine-tuning, because the freeze policy freezes them: {setting('freeze.name', 'full')} "
        "trains all layers"
    )


def _shrunk(source: Source, setup: Setup, config: RunConfig, target: float, wish: Wish) -> Shrunk:
    schedule = FreezeSchedule(
        build_policy(config, source.registries),
        setup.net.stages(config.backbone.granularity),
        config.train.epochs,
        config.train.monitored,
        config.freeze.name,
    )
    with ExitStack() as closing:
        sets = load_sets(setup, source.splits)
        for loaded in sets.values():
            closing.enter_context(loaded.source)
        return shrink(setup, sets, schedule, target, wish.part)


def _about(source: Source, wish: Wish) -> dict[str, object]:
    return {
        "run": source.run.path.absolute().name,
        "network": source.run.checkpoint("best").network,
        "ratio": wish.ratio,
        "part": wish.part,
        "iterations": wish.iterations,
    }


def _tuned(folder: Path, source: Source, listeners: Sequence[Listener]) -> tuple[Setup, bool]:
    """Fine-tune the run of a round.

    Returns:
        Its parts with the network of its best epoch, and whether the head of that was trained.
    """
    registries = source.registries
    try:
        resume(folder, registries, listeners)
    except Interrupted as error:
        raise Interrupted(
            f"{error.what.partition(' after step')[0]} between two rounds of pruning; nothing was "
            "written",
            exit_code=error.exit_code,
            hint="run the command again",
        ) from None
    run = OpenRun(folder, lambda: registries)
    config = run.config
    best = checkpoint.load_network(run.dir.checkpoints / run.checkpoint_name("best"))
    setup = trained(config, registries, source.splits, best.model)
    return setup, ends_trained(run.best.state)
