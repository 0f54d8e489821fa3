"""The resolver: merges defaults, preset, file and flags into a complete, checked config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal
from weakref import WeakValueDictionary

from pydantic import BaseModel, ValidationError

from siamkit.config.base import Component, Values
from siamkit.config.layers import Layer, fitting, merge
from siamkit.config.sections import (
    AUTO,
    COMPONENT_MODELS,
    COMPONENTS,
    ENTRY_MODELS,
    CalibrationConfig,
    HeadConfig,
    RunConfig,
)
from siamkit.errors import ConfigError, PluginError, SiamkitError
from siamkit.problems import Namer, config_error
from siamkit.registry import Entry, Registry, whose
from siamkit.spelling import command, setting


def resolve(
    registries: Mapping[str, Registry],
    *layers: Mapping[str, Any],
    where: str = "",
) -> RunConfig:
    """Return the complete config: the defaults, overridden by ``layers``, lowest layer first.

    Args:
        registries: The registry of each component section and of ``track``, by section name.
        *layers: Nested values, such as those of :func:`read_file` and :func:`parse_sets`.
        where: The source that errors name for values of a layer that is not a :class:`Layer`.

    Raises:
        ConfigError: An unknown key or name, or a value out of range.
        PluginError: Two plugins register the same name, a plugin's option has the name of a key of
            the section, or the plugin that a run used is not installed.
    """
    kept = fitting([RunConfig().to_values(), *layers])
    values = merge(*kept)
    name = _namer(kept, where)
    problems: list[SiamkitError] = []
    config = None
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        problems.append(config_error(error, RunConfig, name))
    components: dict[str, list[Component]] = {}
    for section, given in _components(values, config).items():
        for place, component in enumerate(given):
            key = f"track.{place}" if section == "track" else section
            try:
                done = _complete(component, key, registries[section], name, kept)
            except (ConfigError, PluginError) as error:
                problems.append(error)
            else:
                components.setdefault(section, []).append(done)
    if config is None or problems:
        raise type(problems[0]).of_all(problems)
    trackers = tuple(components.pop("track", []))
    update = {section: done for section, (done,) in components.items()}
    complete = config.model_copy(update={**update, "track": trackers})
    _RESOLVED[id(complete)] = complete
    return complete


def _components(values: Values, config: RunConfig | None) -> dict[str, list[Component]]:
    """Return each section's components; if ``config`` is None, the valid ones in ``values``."""
    if config is not None:
        return {
            **{section: [getattr(config, section)] for section in COMPONENTS},
            "track": list(config.track),
        }
    valid: dict[str, list[Component]] = {}
    for section in COMPONENTS:
        with suppress(ValidationError):  # the validation of the whole config reports the error
            valid[section] = [COMPONENT_MODELS[section].model_validate(values.get(section))]
    return valid


_RESOLVED: WeakValueDictionary[int, RunConfig] = WeakValueDictionary()


def is_resolved(config: RunConfig) -> bool:
    """Return whether :func:`resolve` made this object, so that it is complete and checked.

    A changed copy is another object and does not count as resolved.
    """
    return _RESOLVED.get(id(config)) is config


def calibration_config(
    target: Literal["eer", "far", "accuracy"] | None, far: float | None
) -> CalibrationConfig:
    """Return a checked section ``calibration``.

    Raises:
        ConfigError: There is no such target, the target ``far`` has no rate, or another target has
            one.
    """
    try:
        return CalibrationConfig.model_validate({"target": target, "far": far})
    except ValidationError as error:
        raise config_error(error, CalibrationConfig, "") from None


def _namer(layers: Sequence[Mapping[str, Any]], where: str) -> Namer:
    """Return a function from a key to the source of its value: the highest layer that sets it."""

    def name(path: str) -> str:
        for layer in reversed(layers):
            if isinstance(layer, Layer) and layer.sets(path):
                return layer.where(path)
        return f"{where}: {path}" if where else path

    return name


def _complete(
    component: Component,
    section: str,
    registry: Registry,
    name: Namer,
    layers: Sequence[Mapping[str, Any]],
) -> Component:
    """Return a component with its options checked and defaults filled in."""
    if section == "head" and component.name == AUTO:
        _require_open(component, registry, name)
        return component
    try:
        entry = registry.get(component.name)
    except ConfigError as error:
        where = name(f"{section}.name")
        for layer in layers:
            provider = layer.providers.get(section) if isinstance(layer, Layer) else None
            if provider is not None and provider.name == component.name:
                raise provider.missing(registry.kind, where) from None
        raise ConfigError(error.what, where=where, hint=error.hint) from None
    own = type(component).model_fields
    shadowed = sorted(set(entry.options.model_fields) & set(own))
    if shadowed:
        raise PluginError(
            f"{registry.kind} {entry.name!r} has an option named {shadowed[0]!r}, which is "
            f"already a key of the section {section!r}",
            hint=f"{entry.distribution} must rename it",
        )
    options = entry.validate(
        component.options, lambda key: name(f"{section}.{key}".rstrip(".")), kind=registry.kind
    )
    plain = {key: getattr(component, key) for key in own}
    return type(component).model_validate(plain | _plain_options(entry, options, registry.kind))


def _plain_options(entry: Entry, options: BaseModel, kind: str) -> Values:
    """Return checked options as JSON values.

    Raises:
        PluginError: The options that are read back from these values are others. The run would be
            built with them, since it reads its options from the config.
    """
    problem: Exception | None = None
    values, same = {}, False
    try:
        values = options.model_dump(mode="json")
        same = entry.validate(values, entry.name, kind=kind) == options
    except Exception as error:  # whatever a plugin's serializer or validator raises
        problem = error
    if not same:
        raise PluginError(
            "its options change when they are written and read again",
            where=whose(kind, entry.name, entry.distribution),
            got=values,
            allowed="options that survive JSON, as a run that is resumed needs",
            hint="its author must mend it: a validator must leave its own result as it is, and an "
            "option has no alias and is no secret",
        ) from problem
    return values


def _require_open(head: Component, registry: Registry, name: Namer) -> None:
    """Check a head that the run will choose.

    Raises:
        ConfigError: It has options, which may be those of another head.
        PluginError: A plugin registers a head of this name, which could not be used.
    """
    if AUTO in registry.entries:
        raise PluginError(
            f"{registry.kind} {AUTO!r} has a name that stands for siamkit's own choice",
            hint=f"{registry.get(AUTO).distribution} must rename it",
        )
    for option in head.options:
        having = [entry.name for entry in registry if option in entry.options.model_fields]
        raise ConfigError(
            "is an option of some heads, and the config names none"
            if having
            else "is an option of no head",
            where=name(f"head.{option}"),
            hint=f"name the head as well ({setting('head.name')}): {', '.join(having)}"
            if having
            else f"{command(registry.command)} lists the heads",
        )


def named_head(name: str, like: HeadConfig, registry: Registry, **given: Any) -> HeadConfig:
    """Return the complete section of a head.

    Args:
        name: The head's name.
        like: The section whose other keys stay.
        registry: The registry of heads.
        **given: Options of the head. The others are its defaults.
    """
    options = registry.get(name).validate(given, name, kind=registry.kind)
    own = {"name": name, "normalize": like.normalize, "trained": like.trained}
    return HeadConfig.model_validate(
        own | _plain_options(registry.get(name), options, registry.kind)
    )


def options_of(component: Component, registry: Registry) -> tuple[Any, BaseModel]:
    """Return what the registry holds under the component's name, and the checked options."""
    entry = registry.get(component.name)
    return entry, entry.validate(component.options, component.name)


def json_schema(registries: Mapping[str, Registry]) -> Values:
    """Return the JSON schema of a config file, including the options of every registered name."""
    schema = RunConfig.model_json_schema()
    for section, registry in registries.items():
        definition = schema["$defs"][ENTRY_MODELS[section].__name__]
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
    trackers = schema["properties"]["track"]
    trackers["items"] = {"anyOf": [{"type": "string"}, trackers["items"]]}
    return schema


def _name_schema(name: str) -> Values:
    return {"pattern": f"^{name}"} if name.endswith(":") else {"const": name}
