"""The sections of a run's configuration: every key, its type, bounds, default and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from siamkit.config.base import AbsolutePath, Component, Section, Values, absolute, expanded
from siamkit.config.data import DataConfig

_FOLDER = "timm:local-dir:"

COMPONENTS = ("backbone", "head", "freeze", "loss", "optimizer", "scheduler")


class BackboneConfig(Component):
    """The feature extractor."""

    name: str = "resnet50"
    pretrained: bool | None = Field(
        None,
        description="Load pretrained weights: true, false, or null for 'where the entry has any'.",
    )
    weights: AbsolutePath | None = Field(
        None, description="A .safetensors or .pth file with the backbone's weights."
    )
    granularity: Literal["stage", "block"] = Field(
        "stage", description="The unit that freeze policies act on."
    )

    @field_validator("name")
    @classmethod
    def _of_a_folder(cls, value: str) -> str:
        """Make a folder in the name independent of where the config is read next."""
        folder = value.removeprefix(_FOLDER)
        return value if folder in (value, "") else f"{_FOLDER}{absolute(Path(folder))}"


class HeadConfig(Component):
    """The trainable projector from features to the embedding."""

    name: str = "residual"
    normalize: bool = Field(True, description="L2-normalise the embedding.")


class FreezeConfig(Component):
    """The freeze policy."""

    name: str = "stages"


class LossConfig(Component):
    """The loss."""

    name: str = "multi-similarity"


class SchedulerConfig(Component):
    """The rate schedule over the run; multiplies the rates of all groups."""

    name: str = "cosine"


class TrackerConfig(Component):
    """A tracker that the run is told to."""


class OptimizerConfig(Component):
    """The one optimizer of the run."""

    name: str = "adamw"
    lr: float = Field(2e-3, gt=0, le=1000, description="Rate of the head; stages multiply it.")
    weight_decay: float = Field(
        1e-4, ge=0, le=1000, description="Not applied to biases, norm layers and other vectors."
    )
    loss_lr_mult: float = Field(
        1.0, gt=0, le=1000, description="Rate multiplier of a loss's own parameters (proxies)."
    )
    clip_norm: float | None = Field(None, gt=0, description="Largest gradient norm; null for any.")


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(
        12,
        ge=1,
        le=100_000,
        description="Times over the training images; each is in a batch of every epoch.",
    )
    batch_size: int = Field(64, ge=2, description="Images an optimizer step: P classes x K.")
    images_per_class: int = Field(4, ge=2, description="K of the P x K batches.")
    micro_batch: int | None = Field(
        None,
        ge=2,
        description="Images a forward; several make a step (gradient accumulation). Tuples are "
        "mined within the micro-batch only, so it holds two classes at least: 2 K. null for the "
        "whole batch at once.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Autocast type; fp16 needs CUDA and scales the loss."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps.")
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="Of the held-out classes, the batches, the views, the head and dropout.",
    )
    monitor: Literal["recall@1", "map@r", "auc"] | None = Field(
        None,
        description="The validation metric that picks the best epoch; null for recall@1, and for "
        "auc where DATA is pairs or triplets.",
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after so many epochs without a better metric; null never."
    )
    grad_checkpointing: bool = Field(
        False, description="Recompute activations in backward: less memory, more time."
    )
    unfreeze_warmup: int = Field(
        0, ge=0, description="Optimizer steps over which a just unfrozen stage reaches its rate."
    )

    @property
    def monitored(self) -> str:
        """The validation metric that picks the best epoch."""
        from siamkit.interfaces import DEFAULT_MONITOR  # imports torch

        return self.monitor or DEFAULT_MONITOR

    @field_validator("images_per_class")
    @classmethod
    def _two_classes(cls, value: int, info: ValidationInfo) -> int:
        batch = info.data.get("batch_size")
        if batch is not None and batch < 2 * value:
            raise ValueError(
                f"must be at most half of train.batch_size ({batch}), so that a batch holds two "
                "classes"
            )
        return value

    @field_validator("micro_batch")
    @classmethod
    def _within_batch(cls, value: int | None, info: ValidationInfo) -> int | None:
        batch, images = info.data.get("batch_size"), info.data.get("images_per_class")
        if value is not None and batch is not None and value > batch:
            raise ValueError(f"must be at most train.batch_size ({batch})")
        if value is not None and images is not None and value < 2 * images:
            raise ValueError(
                f"must be at least twice train.images_per_class ({images}), since a micro-batch of "
                "one class has no negatives"
            )
        return value


class EngineConfig(Section):
    """How the frozen part of the network is computed.

    What is learned stays the same but for rounding; cache_gb may lower the number of views.
    """

    cut: Literal["auto", "off"] = Field(
        "auto",
        description="Run the frozen part on its own where that is exact; off runs the network "
        "whole.",
    )
    cache: Literal["auto", "off", "always"] = Field(
        "auto",
        description="Keep what the frozen part gives on the disk: where it saves time, never, or "
        "wherever a part is frozen.",
    )
    prefix: Literal["auto", "eager", "folded", "inductor", "onnxruntime"] = Field(
        "auto",
        description="The kernel that runs the frozen part; auto measures which is the fastest.",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float16",
        description="Type of cached feature maps; pooled features are always float32.",
    )
    cache_dir: AbsolutePath | None = Field(
        None,
        description="Folder of the cache; null for $SIAMKIT_CACHE_DIR, else the user's own.",
    )
    cache_gb: float = Field(
        20.0, gt=0, description="Size of the cache; the least recently used part makes room."
    )


class CalibrationConfig(Section):
    """The threshold that is fitted on the held-out images when training ends."""

    target: Literal["eer", "far", "accuracy"] | None = Field(
        None,
        description="What it is for: eer, as many false accepts as false rejects; far, a rate of "
        "false accepts; accuracy, the best one on as many same pairs as different; null for far "
        "where a rate is given, else eer.",
    )
    far: float | None = Field(
        None, gt=0, lt=1, description="The rate of false accepts, for the target far."
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.wanted == "far" and self.far is None:
            raise ValueError("the target far needs a rate: calibration.far")
        if self.wanted != "far" and self.far is not None:
            raise ValueError(
                f"calibration.far is for the target far, and the target is {self.wanted}"
            )
        return self

    @property
    def wanted(self) -> Literal["eer", "far", "accuracy"]:
        """The target, whether or not it was named."""
        return self.target or ("eer" if self.far is None else "far")


class RunConfig(Section):
    """Everything that determines a run."""

    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    head: HeadConfig = HeadConfig()
    freeze: FreezeConfig = FreezeConfig()
    loss: LossConfig = LossConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    engine: EngineConfig = EngineConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    track: tuple[TrackerConfig, ...] = Field(
        (),
        description="Trackers that the run is told to: their names, or mappings of name and "
        "options.",
    )
    report: bool = Field(
        True, description="End 'siamkit train' with the run's report, report.html."
    )
    run_dir: Annotated[Path, AfterValidator(expanded)] | None = Field(
        None, description="Where the run is written; null for runs/<time>-<backbone>-<policy>."
    )

    @field_validator("track", mode="before")
    @classmethod
    def _list_of_names(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list | tuple):
            raise ValueError("must be a list of names")
        return value

    @field_validator("track")
    @classmethod
    def _once_each(cls, value: tuple[TrackerConfig, ...]) -> tuple[TrackerConfig, ...]:
        names = [tracker.name for tracker in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names {twice[0]!r} twice")
        return value

    def to_values(self) -> Values:
        """Return the config as JSON values."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Return the config as YAML that :func:`read_file` reads back."""
        return yaml.safe_dump(self.to_values(), sort_keys=False, allow_unicode=True)


COMPONENT_MODELS: dict[str, type[Component]] = {
    "backbone": BackboneConfig,
    "head": HeadConfig,
    "freeze": FreezeConfig,
    "loss": LossConfig,
    "optimizer": OptimizerConfig,
    "scheduler": SchedulerConfig,
}
"""The model of each component section: the keys that it takes whatever its entry is."""

ENTRY_MODELS: dict[str, type[Component]] = {**COMPONENT_MODELS, "track": TrackerConfig}
"""The model of whatever a registered name stands in: the component sections, and a tracker."""
