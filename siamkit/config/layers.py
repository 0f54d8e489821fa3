"""Layers of configuration values, and their merge into one configuration."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from siamkit.config import yaml_text
from siamkit.config.base import SAMPLE, Values, expanded
from siamkit.config.sections import KEPT_KEYS, LOCAL_DIR, MAIN_KEYS, RunConfig
from siamkit.errors import ConfigError, did_you_mean
from siamkit.files import read_bytes
from siamkit.options import types_in
from siamkit.problems import Namer
from siamkit.registry import Provider


class Layer(dict[str, Any]):
    """Values from one source. Error messages about a value name the source.

    Args:
        values: Nested values.
        where: Returns what error messages show for a dotted key: ``run.yaml: loss.margin`` for
            ``loss.margin``.
        providers: The distribution that registered each component of a run, by config section.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        where: Namer,
        providers: Mapping[str, Provider] | None = None,
    ) -> None:
        super().__init__(values)
        self.where = where
        self.providers = providers or {}

    def sets(self, path: str) -> bool:
        """Return whether the layer has a value at the dotted key ``path``."""
        node: Any = self
        parts = path.split(".")
        for depth, part in enumerate(parts):
            if isinstance(node, str):  # such as ``loss: triplet``, which sets ``loss.name``
                return parts[depth:] == [MAIN_KEYS.get(".".join(parts[:depth]))]
            if not isinstance(node, Mapping):
                return True
            if part not in node:
                return False
            node = node[part]
        return True


def read_file(path: Path) -> Layer:
    """Return the values of a YAML config file. Relative paths become absolute.

    A relative path counts from the file's folder. Only siamkit's own keys that hold paths are
    changed; a path in a plugin's options is not.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or is not a mapping of sections.
    """
    try:
        values = yaml_text.load(read_bytes(path).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the config file: {error.strerror}", where=str(path)
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("not YAML: not UTF-8 text", where=str(path)) from None
    except yaml_text.NotYaml as error:
        line = "" if error.line is None else f":{error.line}"
        raise ConfigError(f"not YAML: {error.problem}", where=f"{path}{line}") from None
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError("must be a mapping of sections", where=str(path), got=values)
    values = {section: _whole(section, value) for section, value in values.items()}
    for keys in _PATHS:
        _anchor(values, keys, path.parent.absolute())
    return Layer(values, lambda key: f"{path}: {key}")


def read_preset(name: str) -> Layer:
    """Return the values of a config that ships with siamkit, such as ``classic``.

    Raises:
        ConfigError: There is no such preset.
    """
    names = preset_names()
    if name not in names:
        raise ConfigError(
            f"unknown preset {name!r}",
            where="--preset",
            allowed=", ".join(map(repr, names)),
            hint=did_you_mean(name, names) or None,
        )
    return Layer(read_file(preset_file(name)), lambda key: f"preset {name!r}: {key}")


def preset_names() -> list[str]:
    """Return the names of the configs that ship with siamkit."""
    return sorted(path.stem for path in preset_file("*").parent.glob("*.yaml"))


def preset_file(name: str) -> Path:
    """Return the path of a preset's file, which begins with a comment that describes the preset."""
    return Path(__file__).parent.parent / "presets" / f"{name}.yaml"


def _path_keys(model: type[BaseModel], outer: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the keys of a section, and of the sections in it, that are paths by their type."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _path_keys(kind, (*outer, name))
        elif Path in types_in(kind):
            yield (*outer, name)


_DATA, _BACKBONE = ("data", "path"), ("backbone", "name")
_PATHS = (_DATA, _BACKBONE, *_path_keys(RunConfig))
"""The keys that hold a path. The first two are listed by name, because they may also hold other
text and their type is ``str``."""


def _anchor(values: Values, keys: Sequence[str], folder: Path) -> None:
    *outer, last = keys
    inner: Any = values
    for key in outer:
        inner = inner.get(key) if isinstance(inner, dict) else None
    given = inner.get(last) if isinstance(inner, dict) else None
    if not isinstance(given, str):  # the validation reports a value that is no path
        return
    prefix = LOCAL_DIR if keys == _BACKBONE else ""
    path = given.removeprefix(prefix)
    is_word = path == "" or (keys == _DATA and path == SAMPLE)
    if given.startswith(prefix) and not is_word and "\0" not in path:
        inner[last] = prefix + os.path.normpath(folder / expanded(Path(path)))


def parse_sets(assignments: Iterable[str]) -> Layer:
    """Return the values of ``--set a.b=c`` arguments; values are YAML scalars, lists or maps.

    Of several values for one key, the last counts.

    Raises:
        ConfigError: An argument isn't ``key=value``.
    """
    values: Values = {}
    for text in assignments:
        key, equals, raw = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError("must be KEY=VALUE, such as loss.margin=0.2", where="--set", got=text)
        try:
            value = yaml_text.load(raw)
        except yaml_text.NotYaml as error:
            raise ConfigError(
                f"the value is not YAML: {error.problem}", where=f"--set {key}", got=raw
            ) from None
        inner: Values = {}
        nested = inner
        *path, last = key.split(".")
        for part in path:
            nested = nested.setdefault(part, {})
        nested[last] = value
        values = _laid_over(values, inner)
    return Layer(values, lambda key: f"--set {key}")


def merge(*layers: Mapping[str, Any]) -> Values:
    """Return the layers merged, lowest first; a higher layer overrides a lower one.

    A layer may make a choice, such as the name of the loss or the preset of the augmentation, and
    set options of it. If a higher layer chooses another one, the lower layer's options are dropped,
    since they belong to the replaced choice. Options of a layer that makes no choice apply to what
    is chosen in the end.
    """
    values: Values = {}
    for layer in fitting(layers):
        values = _laid_over(values, layer)
    return values


def joined(layers: Sequence[Layer]) -> Layer:
    """Return the layers merged into one, in which errors name the highest layer with a value."""

    def where(key: str) -> str:
        return next((layer.where(key) for layer in reversed(layers) if layer.sets(key)), key)

    return Layer(merge(*layers), where)


def fitting(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the layers without options of choices that a higher layer replaces; see merge."""
    fitting = list(layers)
    for section, kept in KEPT_KEYS.items():
        parts = [_whole(section, _part(layer, section)) for layer in layers]
        main = MAIN_KEYS[section]
        choosing = [i for i, part in enumerate(parts) if isinstance(part, dict) and main in part]
        for index in choosing:
            if parts[index][main] != parts[choosing[-1]][main]:
                own = {k: v for k, v in parts[index].items() if k in kept}
                fitting[index] = _with(fitting[index], section, own)
    return fitting


def _part(layer: Any, section: str) -> Any:
    """Return the value of a section by its dotted key; None if the layer does not set it."""
    for key in section.split("."):
        layer = layer.get(key) if isinstance(layer, Mapping) else None
    return layer


def _with(layer: Mapping[str, Any], section: str, value: Any) -> Mapping[str, Any]:
    """Return a layer with another value of a section that it sets."""
    first, _, inner = section.partition(".")
    values = {**layer, first: _with(layer[first], inner, value) if inner else value}
    return Layer(values, layer.where, layer.providers) if isinstance(layer, Layer) else values


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any], section: str = "") -> Values:
    """Return the values of ``above`` over those of ``below``, both of the section ``section``."""
    result = dict(below)
    for key, value in above.items():
        inner = f"{section}.{key}".lstrip(".")
        old, new = _whole(inner, result.get(key)), _whole(inner, value)
        both = isinstance(old, dict) and isinstance(new, dict)
        result[key] = _laid_over(old, new, inner) if both else new
    return result


def without(layer: Mapping[str, Any], keys: Collection[str]) -> Mapping[str, Any]:
    """Return a layer without the values at some dotted keys."""
    result = layer
    for key in keys:
        section, _, last = key.rpartition(".")
        inner = _part(result, section)
        if isinstance(inner, Mapping) and last in inner:
            left = {name: value for name, value in inner.items() if name != last}
            result = _with(result, section, left)
    return result


def whole(values: Mapping[str, Any], section: str = "") -> Values:
    """Return values in which no text stands for a section, as in ``loss: triplet``.

    Args:
        values: Nested values.
        section: The dotted key of the section that holds them; empty for a whole config.
    """
    result = {}
    for key, value in values.items():
        inner = f"{section}.{key}".lstrip(".")
        full = _whole(inner, value)
        result[key] = whole(full, inner) if isinstance(full, Mapping) else full
    return result


def _whole(section: str, value: Any) -> Any:
    """Return a section's value as a mapping: ``triplet`` becomes ``{name: triplet}``."""
    return {MAIN_KEYS[section]: value} if section in MAIN_KEYS and isinstance(value, str) else value
