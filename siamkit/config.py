"""The configuration of a run: defaults < preset < file < ``--set`` < flags.

The sections ``backbone``, ``head``, ``freeze``, ``loss`` and ``scheduler`` are *components*: a
registered name plus that entry's options, side by side (``loss: {name: triplet, margin: 0.3}``, or
just ``loss: triplet``). Options are checked against the entry, so a resolved config is complete:
written to a file and read back, it gives the same config.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from siamkit.errors import ConfigError, PluginError, did_you_mean
from siamkit.problems import Namer, config_error
from siamkit.registry import Registry

SAMPLE = "sample"
"""The data path that stands for the built-in image set."""

COMPONENTS = ("backbone", "head", "freeze", "loss", "scheduler")

Values = dict[str, Any]


def _expanded(path: Path) -> Path:
    """Put the home directory in the place of ``~``; ``~nobody`` stays a name like others."""
    if "\0" in str(path):
        raise ValueError("must not hold a NUL character")
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises for ~nobody


def _absolute(path: Path) -> Path:
    """Make a path independent of where the config is read next."""
    return Path(os.path.normpath(_expanded(path).absolute()))


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

    path: str = Field(SAMPLE, min_length=1, description="A folder of class folders, or 'sample'.")
    image_size: int | None = Field(
        None, ge=16, le=2048, description="Pixels a side; null for the backbone's own."
    )
    in_chans: int = Field(3, ge=1, le=4, description="Image channels: 1 grey, 3 RGB, 4 RGBA.")
    val_fraction: float = Field(
        0.5, gt=0, lt=1, description="Share of the classes held out, where DATA has no val/."
    )
    views: int | None = Field(
        None, ge=1, description="Different views an image; null for a new one every epoch."
    )
    workers: int | None = Field(
        None, ge=0, description="Worker processes that decode; null picks by the cores."
    )
    augment: AugmentConfig = AugmentConfig()

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
    monitor: Literal["recall@1", "map@r"] = Field(
        "recall@1", description="The validation metric that picks the best epoch."
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
    run_dir: Annotated[Path, AfterValidator(_expanded)] | None = Field(
        None, description="Where the run is written; null for runs/<time>-<backbone>-<policy>."
    )

    def to_values(self) -> Values:
        """Return the config as JSON values."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Return the config as YAML that :func:`read_file` reads back."""
        return yaml.safe_dump(self.to_values(), sort_keys=False, allow_unicode=True)


# --- layers -------------------------------------------------------------------------------------


class Layer(dict[str, Any]):
    """Values from one source, which errors about them can name.

    Args:
        values: Nested values.
        where: From a dotted key (``loss.margin``) to its place (``run.yaml: loss.margin``).
    """

    def __init__(self, values: Mapping[str, Any], where: Namer) -> None:
        super().__init__(values)
        self.where = where

    def sets(self, path: str) -> bool:
        """Tell whether the layer has a value at the dotted key ``path``."""
        node: Any = self
        parts = path.split(".")
        for depth, part in enumerate(parts):
            if isinstance(node, str):  # a component, by its name alone
                return parts[depth:] == ["name"]
            if not isinstance(node, Mapping):
                return True
            if part not in node:
                return False
            node = node[part]
        return True


def read_file(path: Path) -> Layer:
    """Return the values of a YAML config file; relative paths in it are relative to it.

    Raises:
        ConfigError: It cannot be read, isn't YAML, or isn't a mapping of sections.
    """
    try:
        values = _load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the config file: {error.strerror}", where=str(path)
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("not YAML: not UTF-8 text", where=str(path)) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(f"not YAML: {problem}", where=f"{path}{line}") from None
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError("must be a mapping of sections", where=str(path), got=values)
    _anchor(values, "data", "path", path.parent)
    _anchor(values, "backbone", "weights", path.parent)
    return Layer(values, lambda key: f"{path}: {key}")


class _Loader(yaml.SafeLoader):
    """The safe loader, whose scalars fail as YAML and not as Python (``2020-13-45``, ``0b_``)."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except Exception as error:
            if isinstance(error, yaml.YAMLError) or not isinstance(node, yaml.ScalarNode):
                raise
            raise yaml.constructor.ConstructorError(
                problem=f"{node.value!r} cannot be read as {node.tag.rpartition(':')[2]}",
                problem_mark=node.start_mark,
            ) from error


def _load_yaml(text: str) -> Any:
    """Return the value of a YAML document.

    Raises:
        yaml.YAMLError: It is none.
    """
    try:
        return yaml.load(text, _Loader)  # a safe loader
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def read_preset(name: str) -> Layer:
    """Return the values of a config that ships with siamkit, such as ``classic``.

    Raises:
        ConfigError: There is no such preset.
    """
    folder = Path(__file__).parent / "presets"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ConfigError(
            f"unknown preset {name!r}",
            where="--preset",
            allowed=", ".join(map(repr, names)),
            hint=did_you_mean(name, names) or None,
        )
    return Layer(read_file(folder / f"{name}.yaml"), lambda key: f"preset {name!r}: {key}")


def _anchor(values: Values, section: str, key: str, folder: Path) -> None:
    inner = values.get(section)
    if not isinstance(inner, dict):
        return
    path = inner.get(key)
    # What is no path is left to the validation.
    if isinstance(path, str) and path not in ("", SAMPLE) and "\0" not in path:
        inner[key] = os.path.normpath(folder.absolute() / _expanded(Path(path)))


def parse_sets(assignments: Iterable[str]) -> Layer:
    """Return the values of ``--set a.b=c`` arguments; values are YAML scalars, lists or maps.

    Raises:
        ConfigError: An argument isn't ``key=value``.
    """
    values: Values = {}
    for text in assignments:
        key, equals, raw = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError("must be KEY=VALUE, such as loss.margin=0.2", where="--set", got=text)
        try:
            value = _load_yaml(raw)
            # YAML 1.1 reads 1e-3 as a string; people who tune rates do not.
            value = float(value) if isinstance(value, str) and _is_float(value) else value
        except yaml.YAMLError:
            raise ConfigError("the value is not YAML", where=f"--set {key}", got=raw) from None
        inner: Values = {}
        nested = inner
        *path, last = key.split(".")
        for part in path:
            nested = nested.setdefault(part, {})
        nested[last] = value
        values = _laid_over(values, inner)
    return Layer(values, lambda key: f"--set {key}")


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.lower() not in ("nan", "inf", "-inf", "infinity", "-infinity")


def merge(*layers: Mapping[str, Any]) -> Values:
    """Return the layers laid over each other, lowest first.

    The options of a component are dropped where the layer that holds them names another entry
    than the highest layer that names one: they belong to that other entry. Those of a layer that
    names none are meant for whatever entry it will be.
    """
    values: Values = {}
    for layer in _fitting(layers):
        values = _laid_over(values, layer)
    return values


def _fitting(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the layers without the options of entries that a higher layer replaces."""
    fitting = list(layers)
    for section, model in COMPONENT_MODELS.items():
        parts = [_named(layer.get(section)) for layer in layers]
        named = [i for i, part in enumerate(parts) if isinstance(part, dict) and "name" in part]
        for index in named:
            if parts[index]["name"] != parts[named[-1]]["name"]:
                own = {k: v for k, v in parts[index].items() if k in model.model_fields}
                fitting[index] = _with(fitting[index], section, own)
    return fitting


def _with(layer: Mapping[str, Any], section: str, value: Any) -> Mapping[str, Any]:
    values = {**layer, section: value}
    return Layer(values, layer.where) if isinstance(layer, Layer) else values


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> Values:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if key in COMPONENT_MODELS:
            old, value = _named(old), _named(value)
        result[key] = _overlay(old, value)
    return result


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _overlay(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: _overlay(below.get(key), value) for key, value in above.items()}


COMPONENT_MODELS: dict[str, type[Component]] = {
    "backbone": BackboneConfig,
    "head": HeadConfig,
    "freeze": FreezeConfig,
    "loss": LossConfig,
    "scheduler": SchedulerConfig,
}
"""The model of each component section: the keys that it takes whatever its entry is."""


def resolve(
    registries: Mapping[str, Registry],
    *layers: Mapping[str, Any],
    where: str = "",
) -> RunConfig:
    """Return the complete config of ``layers``, lowest first, over the defaults.

    Args:
        registries: The registry of each component section, by section name.
        *layers: Nested values, such as those of :func:`read_file` and :func:`parse_sets`.
        where: What errors name for values of a layer that is not a :class:`Layer`.

    Raises:
        ConfigError: An unknown key or name, or a value out of range.
        PluginError: A name that two plugins claim.
    """
    fitting = _fitting([RunConfig().to_values(), *layers])
    values = merge(*fitting)
    name = _namer(fitting, where)
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise config_error(error, RunConfig, name) from None
    return config.model_copy(
        update={key: _complete(config, key, registries[key], name) for key in COMPONENTS}
    )


def _namer(layers: Sequence[Mapping[str, Any]], where: str) -> Namer:
    """Return the function that names the place a key's value came from: the highest layer's."""

    def name(path: str) -> str:
        for layer in reversed(layers):
            if isinstance(layer, Layer) and layer.sets(path):
                return layer.where(path)
        return f"{where}: {path}" if where else path

    return name


def _complete(config: RunConfig, section: str, registry: Registry, name: Namer) -> Component:
    """Fill in and check one component's options."""
    component: Component = getattr(config, section)
    try:
        entry = registry.get(component.name)
    except ConfigError as error:
        where = name(f"{section}.name")
        raise ConfigError(error.what, where=where, hint=error.hint) from None
    own = type(component).model_fields
    shadowed = sorted(set(entry.options.model_fields) & set(own))
    if shadowed:
        raise PluginError(
            f"{registry.kind} {entry.name!r} has an option named {shadowed[0]!r}, which is a key "
            f"of the section {section!r} itself",
            hint=f"{entry.distribution} must rename it",
        )
    options = entry.validate(
        component.options, lambda key: name(f"{section}.{key}"), kind=registry.kind
    )
    plain = {key: getattr(component, key) for key in own}
    return type(component).model_validate(plain | options.model_dump(mode="json"))


def options_of(component: Component, registry: Registry) -> tuple[Any, BaseModel]:
    """Return the entry of ``component`` and its options object."""
    entry = registry.get(component.name)
    return entry, entry.validate(component.options, component.name)


def json_schema(registries: Mapping[str, Registry]) -> Values:
    """Return the JSON schema of a config file, the options of every entry included."""
    schema = RunConfig.model_json_schema()
    for section, registry in registries.items():
        definition = schema["$defs"][COMPONENT_MODELS[section].__name__]
        definition["oneOf"] = [
            {
                "title": entry.name,
                "properties": {
                    "name": _name_schema(entry.name),
                    **entry.options.model_json_schema().get("properties", {}),
                },
            }
            for entry in registry
        ]
    return schema


def _name_schema(name: str) -> Values:
    return {"pattern": f"^{name}"} if name.endswith(":") else {"const": name}
