"""The four plug-in interfaces, and the value types that they exchange.

A *backbone* turns images into features, a *freeze policy* decides what trains when, a *loss*
scores embeddings, and a *scheduler* scales the learning rates. Policies and schedulers are pure
functions of :class:`Progress`: they keep no state, so siamkit can resume, inspect and test them at
any point of a run.

A policy sees the parameter names of ``SiameseNet.named_parameters()``
(``backbone.model.layer4.0.conv1.weight``, ``head.0.weight``). :meth:`Backbone.stages` uses the
names of ``Backbone.named_parameters()``, without the first ``backbone.``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from siamkit.errors import ConfigError, did_you_mean
from siamkit.options import Options as Options
from siamkit.portable.preprocessing import Fit as Fit
from siamkit.portable.preprocessing import Preprocessing as Preprocessing

HEAD = "head"
"""The name of the head's stage, which comes last."""

DEFAULT_MONITOR = "recall@1"
"""The validation metric that picks the best epoch on labelled images by default."""

NormMode = Literal["frozen", "affine", "train"]
"""The behaviour of norm layers *inside a trainable stage*.

``frozen``: neither the affine parameters (scale and shift) nor the running statistics change.
``affine``: the affine parameters train, and the running statistics stay (the module is in
``eval()``). ``train``: both change. A norm layer inside a frozen stage is always frozen.
"""


# --- stages --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """An ordered unit of a network that a policy freezes or trains as a whole.

    Attributes:
        name: Short and unique, such as ``layer3``.
        parameters: Names of the stage's parameters.
        modules: Names of the outermost modules that belong to the stage, in execution order. They
            include modules without parameters, such as activations and dropout.
        output: Name of the module whose output is the stage's output.
        norms: Names of those ``parameters`` that belong to normalisation layers.
        blocks: The blocks that the stage consists of, in execution order; empty if it has none.
    """

    name: str
    parameters: tuple[str, ...]
    modules: tuple[str, ...] = ()
    output: str | None = None
    norms: frozenset[str] = frozenset()
    blocks: tuple[Stage, ...] = ()

    def prefixed(self, prefix: str) -> Stage:
        """Return the stage with ``prefix`` before every parameter and module name."""
        return replace(
            self,
            parameters=tuple(prefix + name for name in self.parameters),
            modules=tuple(prefix + name for name in self.modules),
            output=None if self.output is None else prefix + self.output,
            norms=frozenset(prefix + name for name in self.norms),
            blocks=tuple(block.prefixed(prefix) for block in self.blocks),
        )


# --- progress and plans --------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """The progress of a run: everything that a policy or a scheduler may depend on.

    Attributes:
        epoch: The epoch that is running or about to start, from 0.
        epochs: Epochs in the whole run.
        step: Optimizer steps completed in the whole run. Always 0 for a policy, which decides by
            epoch.
        steps: Optimizer steps in the whole run; 0 for a policy.
        history: The validation metrics of each finished epoch, oldest first.
        monitor: The metric of ``history`` that picks the best epoch; higher is better.
    """

    epoch: int
    epochs: int
    step: int = 0
    steps: int = 0
    history: tuple[Mapping[str, float], ...] = ()
    monitor: str = DEFAULT_MONITOR

    def __post_init__(self) -> None:
        # Copies: a plugin that changes its arguments must not change the metrics of the run.
        object.__setattr__(self, "history", tuple(dict(metrics) for metrics in self.history))

    @property
    def fraction(self) -> float:
        """The completed share of the run, in [0, 1]: by steps if known, else by epochs."""
        return self.step / self.steps if self.steps else self.epoch / max(self.epochs, 1)

    @property
    def monitored(self) -> tuple[float, ...]:
        """The monitored metric of each finished epoch, oldest first."""
        return tuple(metrics[self.monitor] for metrics in self.history)


@dataclass(frozen=True)
class FreezePlan:
    """A freeze plan: what trains, at which rate, and how norm layers behave.

    Attributes:
        trainable: Names of the parameters that train; all others are frozen.
        lr_mult: Rate multiplier by stage name; 1.0 for stages that are left out.
        norm: The behaviour of norm layers inside trainable stages.
    """

    trainable: frozenset[str]
    lr_mult: Mapping[str, float] = field(default_factory=dict)
    norm: NormMode = "affine"

    def __post_init__(self) -> None:
        object.__setattr__(self, "trainable", frozenset(self.trainable))
        object.__setattr__(self, "lr_mult", dict(self.lr_mult))

    @classmethod
    def of(
        cls,
        stages: Sequence[Stage],
        train: Iterable[str],
        *,
        lr_mult: Mapping[str, float] | None = None,
        norm: NormMode = "affine",
        head: bool = True,
    ) -> FreezePlan:
        """Build a plan that trains whole stages or blocks, given by name.

        Args:
            stages: The stages that the policy was called with.
            train: Names of stages or blocks to train.
            lr_mult: Rate multiplier by stage name.
            norm: The behaviour of norm layers inside the stages and blocks that train.
            head: Whether to train the head too, if there is one.

        Raises:
            ConfigError: No stage or block has one of the names, or ``train`` does not hold names.
        """
        if isinstance(train, str) or not isinstance(train, Iterable):
            raise ConfigError(
                "must be names of stages or blocks",
                where="train",
                got=train if isinstance(train, str) else type(train),
                hint=f"write [{train!r}]" if isinstance(train, str) else None,
            )
        units = {unit.name: unit for stage in stages for unit in (*stage.blocks, stage)}
        names = [*train, *([HEAD] if head and HEAD in units else [])]
        for name in names:
            if not isinstance(name, str) or name not in units:
                raise ConfigError(
                    "no stage or block has this name",
                    got=name,
                    allowed=", ".join(units),
                    hint=did_you_mean(str(name), units) or None,
                )
        trainable = frozenset(p for name in names for p in units[name].parameters)
        return cls(trainable, lr_mult or {}, norm)


class FreezePolicy(ABC):
    """Decides which parameters train in each epoch.

    A policy is pure: the same arguments give the same plan.

    Attributes:
        metric_driven: True if ``plan`` reads ``progress.history``. The phases are then not known
            before the run.
    """

    metric_driven: bool = False

    @abstractmethod
    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the plan for the epoch at ``progress.epoch``.

        Args:
            stages: The network's stages: the stem first, the head (if it has parameters) last.
            progress: The progress of the run.

        Raises:
            ConfigError: An option names a stage, block or pattern that matches nothing.
        """


class Scheduler(ABC):
    """Scales every learning rate over the run. A scheduler is a pure function of progress."""

    @abstractmethod
    def lr_scale(self, progress: Progress) -> float:
        """Return the rate multiplier (>= 0, finite) for the step that follows ``progress.step``."""


# --- backbones -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class BackboneContext:
    """The context of a backbone's ``build(options, context)``.

    Attributes:
        name: The full name that the user gave, such as ``timm:convnext_tiny.fb_in22k``.
        pretrained: Whether to load the entry's pretrained weights. False if the user gives a
            weights file or wants random weights. ``build`` raises CheckpointError if it cannot
            get the pretrained weights.
        in_chans: Image channels.
        image_size: Height and width of the images in pixels; None for the architecture's default.
    """

    name: str
    pretrained: bool = True
    in_chans: int = 3
    image_size: int | None = None


class Backbone(nn.Module, ABC):
    """A feature extractor: images ``[N, C, H, W]`` to features ``[N, D]``.

    A plugin may return any ``nn.Module``; siamkit wraps it and discovers its stages. Subclass
    this only to state the stages or the preprocessing yourself.

    Attributes:
        channels_last: Whether the backbone accepts images and weights in the memory layout
            channels_last, which is faster. Must be False if the forward calls ``view`` on the
            output of a convolution.
    """

    channels_last: bool = True

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return the features ``[N, D]`` of ``images [N, C, H, W]``."""

    @property
    @abstractmethod
    def embedding_dim(self) -> int:
        """The width D of the features, as measured by a forward pass."""

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """How images are prepared: mean, standard deviation, size, interpolation and crop."""

    @abstractmethod
    def stages(self, granularity: Literal["stage", "block"] = "stage") -> Sequence[Stage]:
        """Return the stages, from the stem to the deepest.

        The stages are disjoint and cover every parameter.

        Args:
            granularity: ``stage``: whole stages, such as ``layer3``. ``block``: each block of a
                stage is a unit of its own.
        """


# --- heads ---------------------------------------------------------------------------------------


class StageOptions(Options):
    """The options of a head that reads several stages of the backbone.

    ``build(options, in_features)`` of such a head gets the width of all stages' pooled outputs
    together. Its module maps them, ``[N, in_features]``, to embeddings. Each stage's part is
    L2-normalised, and the earliest stage comes first.
    """

    stages: int = Field(
        4,
        ge=1,
        le=64,
        description="The number of stages to read, counted from the backbone's last.",
    )


# --- losses --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Explicit pairs, as indices into a batch of embeddings.

    Attributes:
        first: ``[P]`` int64, the row of each pair's first embedding in the batch.
        second: ``[P]`` int64, the row of each pair's second embedding.
        same: ``[P]`` bool, True if both images of the pair show the same identity.
    """

    first: Tensor
    second: Tensor
    same: Tensor


@dataclass(frozen=True)
class Triplets:
    """Explicit triplets, as indices ``[T]`` int64 into a batch of embeddings."""

    anchor: Tensor
    positive: Tensor
    negative: Tensor


@dataclass(frozen=True)
class LossContext:
    """The context of a loss's ``build(options, context)``.

    Attributes:
        embedding_dim: Width of the embeddings.
        num_classes: Number of training classes; labels are in ``[0, num_classes)``.
    """

    embedding_dim: int
    num_classes: int


class Loss(nn.Module, ABC):
    """Scores a batch of embeddings; lower is better.

    A loss may own parameters, such as proxies or class centres. They form an optimizer group of
    their own and always train. If a batch gives nothing to learn from, the loss must return a zero
    that is connected to the embeddings, so that ``backward()`` works and gives zero gradients.

    Attributes:
        second_view: True if the loss compares two views of each image. The loss then gets
            embeddings ``[2N, D]`` (the first views of N images, then the second views of the same
            images) and labels ``[2N]``.
    """

    second_view: bool = False

    @abstractmethod
    def forward(
        self, embeddings: Tensor, labels: Tensor | None, tuples: Pairs | Triplets | None = None
    ) -> Tensor:
        """Return the scalar loss of ``embeddings [N, D]``.

        Args:
            embeddings: ``[N, D]``; L2-normalised if the network normalises them.
            labels: ``[N]`` int64; None if ``tuples`` are given.
            tuples: Known pairs or triplets; None to mine them from ``labels``.

        Raises:
            ConfigError: The loss cannot use the kind of tuples in the batch.
        """

    def from_pairs(self, first: Tensor, second: Tensor, same: Tensor) -> Tensor:
        """Return the loss of pairs: ``first, second [P, D]`` and ``same [P]`` (bool or 0/1)."""
        index = torch.arange(len(first), device=first.device)
        pairs = Pairs(index, index + len(first), same.bool())
        loss: Tensor = self(torch.cat([first, second]), None, pairs)
        return loss

    def from_triplets(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the loss of triplets. Each argument has the shape ``[T, D]``."""
        n = len(anchor)
        index = torch.arange(n, device=anchor.device)
        triplets = Triplets(index, index + n, index + 2 * n)
        loss: Tensor = self(torch.cat([anchor, positive, negative]), None, triplets)
        return loss


# --- events --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """An event of a run, which listeners, trackers and observer plugins receive.

    Attributes:
        name: ``lr_find``, ``run_start``, ``phase_start``, ``fill``, ``engine``, ``untrained``,
            ``step``, ``epoch_end``, ``checkpoint``, ``early_stop``, ``notice``, ``non_finite`` or
            ``run_end``.
        data: The event's JSON values by name.
    """

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """A span of epochs with one plan; ``end_epoch`` is exclusive."""

    start_epoch: int
    end_epoch: int
    plan: FreezePlan
