"""The closed forms of candidates, fitted to the backbone of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from siamkit.comparison.arms import Arm
from siamkit.comparison.unit import config_of
from siamkit.config import AUTO, CLOSED_FORM, RunConfig
from siamkit.model.create import create_net
from siamkit.model.generators import seeded
from siamkit.registry import Registry


def readable(
    arms: Sequence[Arm], base: RunConfig, registries: Mapping[str, Registry]
) -> tuple[Arm, ...]:
    """Return candidates with heads that can read the backbone, as the default head does.

    A head in closed form reads as many stages as the default one. Where the default head is none,
    because the stages cannot be read, candidates with such a head are left out.

    Args:
        arms: The candidates, which all have the backbone of the run.
        base: The config of the run.
        registries: The registry of each component section.

    Raises:
        SiamkitError: The network cannot be built.
    """
    if not any(_is_closed(arm) for arm in arms):
        return tuple(arms)
    config = config_of(base, registries, Arm("default head", {"head.name": AUTO}))
    with seeded(0):
        head = create_net(config, registries, weights="none").head
    if head.name != CLOSED_FORM:
        return tuple(arm for arm in arms if not _is_closed(arm))
    usual = registries["head"].get(CLOSED_FORM).options().model_dump(mode="json")
    own = {f"head.{key}": v for key, v in head.options.items() if v != usual[key]}
    return tuple(
        replace(arm, values={**own, **arm.values}) if _is_closed(arm) else arm for arm in arms
    )


def _is_closed(arm: Arm) -> bool:
    return bool(arm.values.get("head.name") == CLOSED_FORM)
