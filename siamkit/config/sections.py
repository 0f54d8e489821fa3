"""The sections of a run's configuration: every key with type, bounds, default and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from siamkit.config import yaml_text
from siamkit.config.base import (
    AbsolutePath,
    Component,
    GivenPath,
    Section,
    Values,
    absolute,
    expanded,
)
from siamkit.config.data import DataConfig
from siamkit.config.interval import Interval

LOCAL_DIR = "timm:local-dir:"
"""A backbone's name that starts with this prefix ends with the path of a folder of weights."""

COMPONENTS = ("backbone", "head", "freeze", "loss", "optimizer", "scheduler")

AUTO = "auto"
"""The name of the head of a config that leaves the choice of the head to the run."""

CLOSED_FORM = "multistage"
"""The default head. On unseen classes of three sets, it is better without any training than the
features with another head after some epochs (docs/defaults.md)."""

DEFAULT_RATE = 2e-3

Rate = Annotated[float, Field(gt=0, le=1000)]
"""A learning rate."""


class BackboneConfig(Component):
    """The backbone, which extracts features from images."""

    name: str = "resnet50"
    pretrained: bool | None = Field(
        None,
        description="Pretrained weights. true: require them. false: start from random weights. "
        "null: load them if the backbone has any.",
    )
    weights: AbsolutePath | None = Field(
        None, description="File with the backbone's weights: .safetensors or .pth."
    )
    pruning: AbsolutePath | None = Field(
        None,
        description="File pruning.json of a run that 'siamkit prune' made. It lists pruned "
        "channels; the backbone is built without them.",
    )
    int8: AbsolutePath | None = Field(
        None,
        description="File int8.json of a run with engine.prefix=int8. It describes the part of the "
        "backbone that is computed in int8.",
    )
    granularity: Literal["stage", "block"] = Field(
        "stage", description="Unit that freeze policies freeze and unfreeze."
    )

    @field_validator("name")
    @classmethod
    def _of_a_folder(cls, value: str) -> str:
        """Make the folder of ``timm:local-dir:FOLDER`` absolute, for later reads of the config."""
        folder = value.removeprefix(LOCAL_DIR)
        return value if folder in (value, "") else f"{LOCAL_DIR}{absolute(Path(folder))}"


class HeadConfig(Component):
    """The trainable projector from features to the embedding."""

    name: str = Field(
        AUTO,
        description="The name of the entry. auto: multistage. Where that cannot be computed, "
        "residual: for pairs and triplets, with an int8 prefix, with train.grad_checkpointing, and "
        "for backbones whose stages cannot be read.",
    )
    normalize: bool = Field(True, description="L2-normalise the embedding.")
    trained: bool | None = Field(
        True,
        description="Whether a head with a closed form, such as multistage, is trained. true: it "
        "is trained like any head, and computed again after the last epoch. false: it is computed "
        "anew after each epoch, and the backbone trains by its own features. null: false if the "
        "policy, without a head, trains a part of the backbone in every epoch; else true.",
    )


class FreezeConfig(Component):
    """The freeze policy."""

    name: str = "stages"


class LossConfig(Component):
    """The loss."""

    name: str = "multi-similarity"


class SchedulerConfig(Component):
    """The learning-rate schedule; it scales the rates of all stages."""

    name: str = "cosine"


class TrackerConfig(Component):
    """A tracker, which receives the events of the run."""


class OptimizerConfig(Component):
    """The optimizer of the run."""

    name: str = "adamw"
    lr: Rate | Literal["auto"] = Field(
        DEFAULT_RATE,
        description="Learning rate of the head; freeze policies scale it for the other stages. A "
        "number > 0, <= 1000, or auto: a range test at the start of the run finds a rate.",
    )
    weight_decay: float = Field(
        1e-4,
        ge=0,
        le=1000,
        description="Weight decay. It is not applied to biases, norm layers and other "
        "one-dimensional parameters.",
    )
    loss_lr_mult: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="Factor on the learning rate of the loss's own parameters (proxies).",
    )
    clip_norm: float | None = Field(
        None, gt=0, description="Clip gradients to this norm; null: do not clip."
    )

    @property
    def rate(self) -> float:
        """The learning rate as a number; the default rate if ``lr`` is ``auto``.

        The optimizer needs a number when it is built. With ``auto``, a range test replaces it
        before the first step.
        """
        return DEFAULT_RATE if self.lr == "auto" else self.lr


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(
        12,
        ge=0,
        le=100_000,
        description="The number of epochs. An epoch uses every training image at least once. 0: "
        "compute the head in closed form, without training.",
    )
    batch_size: int = Field(
        64, ge=2, description="Images per optimizer step: P classes x K images per class."
    )
    images_per_class: int = Field(4, ge=2, description="K: images per class in a batch.")
    epoch_steps: int | None = Field(
        None,
        ge=1,
        description="Most optimizer steps per epoch. An epoch then ends early, and the next one "
        "goes on where it ended, so the network is evaluated more often on large sets. null: each "
        "image is seen about once per epoch.",
    )
    accumulation: Literal["exact", "naive"] = Field(
        "exact",
        description="Gradient accumulation over micro-batches. exact: the loss compares all images "
        "of the batch, so the step equals that of the whole batch (but each pass draws its own "
        "dropout), and most images pass through the network twice. naive: each micro-batch has a "
        "loss of its own, without the negatives in other micro-batches.",
    )
    micro_batch: int | Literal["auto"] | None = Field(
        None,
        description="Images per forward pass; several passes make one step (gradient "
        "accumulation). auto: as many as fit into the memory. null: the whole batch. With naive "
        "accumulation, a micro-batch must hold at least two classes: 2 K images.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="Numeric type of autocast. fp16 scales the loss, and skips steps whose "
        "gradients overflow.",
    )
    device: str = Field("auto", description="Device to train on: auto, cpu, cuda, cuda:1 or mps.")
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads of a forward or backward pass. null: in a command, as many as "
        "cores are free at the start; in Python, as many as torch has. A resumed run keeps its "
        "number, so that its result is the same to the last bit.",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="Seed of all random draws: held-out classes, batches, views, initial weights "
        "and dropout.",
    )
    monitor: Literal["recall@1", "map@r", "auc"] | None = Field(
        None,
        description="Validation metric that selects the best epoch; null: recall@1, or auc if the "
        "data is pairs or triplets.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Stop after this many epochs without improvement, counted anew from each epoch "
        "that begins to train a stage; null: never.",
    )
    grad_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    checkpoint_every: str | None = Field(
        None,
        description="Save a checkpoint within epochs too, after a time (30s, 5m, 1h) or a number "
        "of optimizer steps (200steps). null: only after each epoch.",
    )
    keep_checkpoints: int = Field(
        2,
        ge=1,
        description="Number of newest checkpoints to keep; the best epoch's is always kept. With "
        "1, there may be no older checkpoint if the newest is damaged.",
    )
    keep: Literal["all", "slim"] = Field(
        "all",
        description="What a finished run keeps. all: the newest checkpoints and the best epoch's. "
        "slim: only the network of the best epoch, without the optimizer's state, so that the run "
        "is small but cannot be trained further.",
    )
    unfreeze_warmup: int = Field(
        0,
        ge=0,
        description="Optimizer steps over which the rate of a newly unfrozen stage rises to its "
        "full value.",
    )

    @property
    def pass_size(self) -> int:
        """The largest number of images per forward pass, if memory does not force a smaller one."""
        return self.micro_batch if isinstance(self.micro_batch, int) else self.batch_size

    @property
    def monitored(self) -> str:
        """The validation metric that selects the best epoch."""
        from siamkit.interfaces import DEFAULT_MONITOR  # imports torch

        return self.monitor or DEFAULT_MONITOR

    @property
    def checkpoint_interval(self) -> Interval | None:
        """The interval between checkpoints within an epoch; None: only after each epoch."""
        return None if self.checkpoint_every is None else Interval.parse(self.checkpoint_every)

    @field_validator("checkpoint_every")
    @classmethod
    def _an_interval(cls, value: str | None) -> str | None:
        if value is not None:
            Interval.parse(value)
        return value

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
    def _within_batch(
        cls, value: int | Literal["auto"] | None, info: ValidationInfo
    ) -> int | Literal["auto"] | None:
        batch, images = info.data.get("batch_size"), info.data.get("images_per_class")
        naive = info.data.get("accumulation") == "naive"
        if value == "auto" and naive:
            raise ValueError(
                "auto needs exact accumulation, because with naive the size changes the result"
            )
        if not isinstance(value, int):
            return value
        if value < 1:
            raise ValueError("must be at least 1")
        if batch is not None and value > batch:
            raise ValueError(f"must be at most train.batch_size ({batch})")
        if naive and images is not None and value < 2 * images:
            raise ValueError(
                f"must be at least twice train.images_per_class ({images}), since a micro-batch of "
                "one class has no negatives"
            )
        return value


class EngineConfig(Section):
    """The engine, which computes the frozen part of the network.

    Training gives the same results with and without the engine, up to rounding. A small
    ``cache_gb`` can reduce the number of views.
    """

    cut: Literal["auto", "off"] = Field(
        "auto",
        description="auto: run the frozen part separately if that does not change the results. "
        "off: always run the whole network.",
    )
    cache: Literal["auto", "off", "always"] = Field(
        "auto",
        description="Cache the frozen part's output on disk. auto: if that saves time. off: never. "
        "always: whenever a part is frozen.",
    )
    prefix: Literal["auto", "eager", "folded", "inductor", "onnxruntime", "int8"] = Field(
        "auto",
        description="Kernel (implementation) that runs the frozen part. eager: the network as it "
        "is. folded: batch norm folded into convolutions. inductor: torch.compile. onnxruntime: "
        "ONNX Runtime. auto: the fastest one by measurement. int8: the part that no phase trains "
        "is quantized for good, and the network that is trained and used has it; only on a CPU.",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float16",
        description="Numeric type of cached feature maps; pooled features are always float32.",
    )
    cache_dir: AbsolutePath | None = Field(
        None,
        description="Folder of the cache; null: $SIAMKIT_CACHE_DIR, else siamkit/features in "
        "$XDG_CACHE_HOME or ~/.cache.",
    )
    cache_gb: float = Field(
        20.0,
        gt=0,
        le=1_000_000_000,
        description="Largest size of the cache in GB; the least recently used features are "
        "removed.",
    )


class CalibrationConfig(Section):
    """The verification threshold, which is fitted on the validation images when training ends."""

    target: Literal["eer", "far", "accuracy"] | None = Field(
        None,
        description="Criterion of the threshold. eer: equal rates of false accepts and false "
        "rejects. far: a given false accept rate. accuracy: the best accuracy, with same and "
        "different pairs weighted equally. null: far if a rate is given, else eer.",
    )
    far: float | None = Field(
        None, gt=0, lt=1, description="False accept rate for the target far, such as 1e-3."
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.wanted == "far" and self.far is None:
            raise ValueError("the target far needs a rate: set calibration.far")
        if self.wanted != "far" and self.far is not None:
            raise ValueError(
                f"calibration.far works only with the target far, and the target is {self.wanted}"
            )
        return self

    @property
    def wanted(self) -> Literal["eer", "far", "accuracy"]:
        """The given target, else the default target."""
        return self.target or ("eer" if self.far is None else "far")


class RunConfig(Section):
    """The complete configuration of a run."""

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
        description="Trackers that receive the run's events: names, or mappings of name and "
        "options.",
    )
    report: bool = Field(
        True, description="Write the run's report.html at the end of 'siamkit train'."
    )
    run_dir: Annotated[GivenPath, AfterValidator(expanded)] | None = Field(
        None, description="Directory of the run; null: runs/<time>-<backbone>-<policy>."
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
        return yaml_text.dump(self.to_values())


COMPONENT_MODELS: dict[str, type[Component]] = {
    "backbone": BackboneConfig,
    "head": HeadConfig,
    "freeze": FreezeConfig,
    "loss": LossConfig,
    "optimizer": OptimizerConfig,
    "scheduler": SchedulerConfig,
}
"""The model of each component section: the keys that exist whatever name is chosen."""

MAIN_KEYS = {"data": "path", "data.augment": "preset", **dict.fromkeys(COMPONENT_MODELS, "name")}
"""The key of a section that text in place of the section sets, as in ``loss: triplet``."""

KEPT_KEYS = {
    **{section: frozenset(model.model_fields) for section, model in COMPONENT_MODELS.items()},
    "data.augment": frozenset({"preset"}),
}
"""The sections whose main key chooses what the other keys mean. These keys of them stay when a
higher layer chooses something else."""

ENTRY_MODELS: dict[str, type[Component]] = {**COMPONENT_MODELS, "track": TrackerConfig}
"""The models that hold a registered name: those of the component sections and of a tracker."""
