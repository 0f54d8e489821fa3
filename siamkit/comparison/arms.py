"""Arms: the recipes that a comparison trains, and the two untrained networks beside them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from siamkit.config import AUTO, CLOSED_FORM, COMPONENT_MODELS, KEPT_KEYS, MAIN_KEYS, nested
from siamkit.errors import SiamkitError
from siamkit.registry import Registry

UNTRAINED, CLOSED = "untrained", "closed form"
"""The names of the networks without training: the backbone's features, and the head in closed
form."""

_BARE = {f"{section}.name" for section in COMPONENT_MODELS} | {
    f"{section}.{key}" for section, key in MAIN_KEYS.items()
}


@dataclass(frozen=True)
class Arm:
    """A recipe.

    Attributes:
        name: The name in tables.
        values: The values that differ from the base config, by dotted key.
        trains: Whether the arm is trained. The others are there to compare with.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    trains: bool = True

    @property
    def layer(self) -> dict[str, Any]:
        """The values, nested by section."""
        return nested(self.values)


def arms_of(axes: Mapping[str, Sequence[Any]], head: str = AUTO) -> tuple[Arm, ...]:
    """Return an arm for each combination of values, after the arms that are not trained.

    Args:
        axes: The values to try, by dotted key; at least one each.
        head: The name of the head of the base config.
    """
    varied = [key for key, values in axes.items() if len(values) > 1]
    arms = []
    for chosen in itertools.product(*axes.values()):
        values = dict(zip(axes, chosen, strict=True))
        shown = varied or list(axes)
        arms.append(Arm(", ".join(_label(key, values[key]) for key in shown), values))
    return (*without_training(head, axes.get("backbone.name", (None,))), *arms)


def keeping(arm: Arm, own: Mapping[str, Any], registries: Mapping[str, Registry]) -> Arm:
    """Return an arm with the user's options of what the arm chooses.

    The user may set an option without a choice, such as the rotation of any preset of the
    augmentation. As in a single run, it applies to what is chosen in the end. An option that the
    arm's choice does not have is left out, and so are the options of a choice that is replaced.

    Args:
        arm: The arm.
        own: The values that the user has set, by dotted key.
        registries: The registry of each component section.
    """
    kept = {}
    for key, value in own.items():
        section = next((s for s in KEPT_KEYS if key.startswith(f"{s}.")), None)
        if section is None or key in arm.values:
            continue
        choice, option = f"{section}.{MAIN_KEYS[section]}", key[len(section) + 1 :].split(".")[0]
        if choice not in arm.values or choice in own or option in KEPT_KEYS[section]:
            continue
        registry = registries.get(section)
        if registry is None or option in options_named(registry, arm.values[choice]):
            kept[key] = value
    return replace(arm, values={**arm.values, **kept})


def options_named(registry: Registry, name: Any) -> Collection[str]:
    """Return the options of a component; none if there is no such name, which is reported later."""
    try:
        return registry.get(str(name)).options.model_fields
    except SiamkitError:
        return ()


def without_training(head: str = AUTO, backbones: Sequence[Any] = (None,)) -> list[Arm]:
    """Return the arms that are not trained.

    The closed form is the default head, which fits any backbone, or the one that the base config
    names, with its options.

    Args:
        head: The name of the head of the base config.
        backbones: The backbones; None is the config's own.
    """
    closed = CLOSED_FORM if head == CLOSED_FORM else AUTO
    arms = []
    for backbone in backbones:
        own = {} if backbone is None else {"backbone.name": backbone}
        of = f" {backbone}" if len(backbones) > 1 else ""
        for name, own_head in ((UNTRAINED, "identity"), (CLOSED, closed)):
            still = {"head.name": own_head, "freeze.name": "freeze-all", "train.epochs": 0}
            arms.append(Arm(f"{name}{of}", {**own, **still}, trains=False))
    return arms


def _label(key: str, value: Any) -> str:
    return str(value) if key in _BARE else f"{key}={value}"
