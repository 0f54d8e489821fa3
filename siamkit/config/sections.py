"""The sections of a run's configuration: every key, its type, bounds, default and meaning."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

SAMPLE = "sample"
"""The data path that stands for the built-in image set."""

COMPONENTS = ("backbone", "head", "freeze", "loss", "scheduler")

Values = dict[str, Any]


def expanded(path: Path) -> Path:
    """Put the home directory in the place of ``~``; ``~nobody`` stays a name like others."""
    if "\0" in str(path):
        raise ValueError("must not hold a NUL character")
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises for ~nobody


def _absolute(path: Path) -> Path:
    """Make a path independent of where the config is read next."""
    return Path(os.path.normpath(expanded(path).absolute()))


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class Section(BaseModel):
    """Base of every section: immutable, unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class Component(BaseModel):
    """A registered name and that entry's options."""

    model_config = ConfigDict(
        frozen=True, extra="allow", validate_default=True, allow_inf_nan=False
    )

    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> Values:
        """The entry's options: every key that isn't the section's own."""
        return dict(self.model_extra or {})


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


class AugmentConfig(Section):
    """Random changes to training images. A view is one deterministic draw of them."""

    enabled: bool = Field(True, description="False trains on the evaluation view alone.")
    crop_scale: tuple[float, float] = Field(
        (0.5, 1.0), description="Area of the random crop, as a share of the image."
    )
    crop_ratio: tuple[float, float] = Field((0.8, 1.25), description="Aspect ratio of the crop.")
    rotate: float = Field(0.0, ge=0, le=180, description="Largest rotation in degrees.")
    brightness: float = Field(
        0.4, ge=0, le=1, description="Brightness is multiplied by 1 - x to 1 + x."
    )
    contrast: float = Field(
        0.4, ge=0, le=1, description="Contrast is multiplied by 1 - x to 1 + x."
    )
    saturation: float = Field(
        0.4, ge=0, le=1, description="Saturation is multiplied by 1 - x to 1 + x."
    )
    hue: float = Field(
        0.1, ge=0, le=0.5, description="Hue is shifted by up to x turns of the colour wheel."
    )
    grayscale: float = Field(0.2, ge=0, le=1, description="Probability of dropping the colours.")
    blur: float = Field(0.0, ge=0, le=1, description="Probability of a Gaussian blur.")
    horizontal_flip: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability of a flip. Off: text, signatures and organs have a handedness.",
    )

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _range(cls, value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        low, high = value
        share = info.field_name == "crop_scale"
        if not 0 < low <= high or (share and high > 1):
            raise ValueError("must be [low, high] with 0 < low <= high" + " <= 1" * share)
        return value


class DataConfig(Section):
    """Where the images are and how they are prepared."""

    path: str = Field(
        SAMPLE,
        min_length=1,
        description="A folder of class folders; a table of images, pairs or triplets (.csv, .tsv, "
        ".parquet); LFW's pairs.txt; or 'sample'.",
    )
    root: AbsolutePath | None = Field(
        None, description="Folder that a table's paths are relative to; null for its own."
    )
    image_size: int | None = Field(
        None, ge=16, le=2048, description="Pixels a side; null for the backbone's own."
    )
    in_chans: int = Field(3, ge=1, le=4, description="Image channels: 1 grey, 3 RGB, 4 RGBA.")
    val_fraction: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the classes (or groups) held out, where DATA has no split for it.",
    )
    folds: int | None = Field(
        None,
        ge=2,
        description="Hold out one of so many equal parts of the classes (or groups) instead.",
    )
    fold: int = Field(0, ge=0, description="Which of the folds is held out, from 0.")
    on_unreadable: Literal["error", "skip", "quarantine"] = Field(
        "error",
        description="What becomes of images that cannot be read: error ends the run before it "
        "starts; skip decodes all first and leaves those out; quarantine also lists them in "
        "quarantine.csv of the run. Files are never touched.",
    )
    max_skipped: float = Field(
        0.05, ge=0, lt=1, description="The largest share of images to leave out as unreadable."
    )
    strict: bool = Field(
        False, description="An image on both sides of a split ends the run before it starts."
    )
    views: int | None = Field(
        None,
        ge=1,
        description="Different views an image, which take turns by epoch; null for 8 where a part "
        "of the network is frozen, and for a new one every epoch where none is.",
    )
    workers: int | None = Field(
        None, ge=0, description="Worker processes that decode; null picks by the cores."
    )
    augment: AugmentConfig = AugmentConfig()

    @field_validator("fold")
    @classmethod
    def _below_folds(cls, value: int, info: ValidationInfo) -> int:
        folds = info.data.get("folds")
        if folds is None and value:
            raise ValueError("needs data.folds")
        if folds is not None and value >= folds:
            raise ValueError(f"must be less than data.folds ({folds})")
        return value

    @field_validator("path")
    @classmethod
    def _path(cls, path: str) -> str:
        return path if path == SAMPLE else str(_absolute(Path(path)))


Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    """The one optimizer of the run."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(2e-3, gt=0, le=1000, description="Rate of the head; stages multiply it.")
    weight_decay: float = Field(
        1e-4, ge=0, le=1000, description="Not applied to biases, norm layers and other vectors."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd; 0 for none.")
    betas: tuple[Decay, Decay] = Field(
        (0.9, 0.999),
        description="Decay rates of the moment estimates of adamw and adam: >= 0, < 1.",
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
        return self.monitor or "recall@1"

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
    "scheduler": SchedulerConfig,
}
"""The model of each component section: the keys that it takes whatever its entry is."""

ENTRY_MODELS: dict[str, type[Component]] = {**COMPONENT_MODELS, "track": TrackerConfig}
"""The model of whatever a registered name stands in: the component sections, and a tracker."""
