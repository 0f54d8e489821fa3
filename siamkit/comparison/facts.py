"""The facts that decide the results of a comparison, like the identity of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from siamkit.comparison.arms import Arm
from siamkit.comparison.plan import Plan
from siamkit.comparison.unit import variant_of
from siamkit.config import LOCAL_DIR, BackboneConfig, RunConfig, decisive
from siamkit.files import reading, sha256_of
from siamkit.model.pruning import Pruning
from siamkit.model.quantized import Quantized
from siamkit.model.weights import files_of
from siamkit.registry import Registry
from siamkit.training.build import providers
from siamkit.version import VERSION


def facts(
    plan: Plan, base: RunConfig, registries: Mapping[str, Registry], data: str
) -> dict[str, Any]:
    """Return what a comparison that goes on must share with its beginning.

    Args:
        plan: The plan.
        base: The config of all arms.
        registries: The registry of each component section.
        data: The digest of the folds.

    Raises:
        CheckpointError: A weights file is missing, or cannot be read.
    """
    config = {k: v for k, v in decisive(base).items() if k != "train.seed"}
    configs = [base, *(one for _, one in configs_of(plan, base, registries))]
    digest = cache(_digest)  # the arms may share a large file
    plugins = {
        provider.distribution: provider.version
        for one in configs[1:]
        for provider in providers(one, registries).values()
    }
    return {
        "siamkit": VERSION, **plan.to_json(), "config": config, "data": data,
        "weights": [_of_files(one.backbone, digest) for one in configs],
        "plugins": dict(sorted(plugins.items())),
    }  # fmt: skip


def configs_of(
    plan: Plan, base: RunConfig, registries: Mapping[str, Registry]
) -> Iterator[tuple[Arm, RunConfig]]:
    """Yield each arm with the config of each of its variants.

    Raises:
        ConfigError: A name or a value is wrong.
    """
    for arm in plan.arms:
        for tuned in plan.variants_of(arm):
            yield arm, variant_of(plan, base, registries, arm, tuned)


def _digest(path: Path) -> str:
    with reading(path):
        return sha256_of(path)


def _of_files(backbone: BackboneConfig, digest: Any) -> str | None:
    """Return the digest of all files that a backbone is read from; None if it is read from none.

    Args:
        backbone: The section of a config.
        digest: Returns the digest of a file.
    """
    found: list[str] = []
    if backbone.name.startswith(LOCAL_DIR):
        folder = Path(backbone.name.removeprefix(LOCAL_DIR))
        files = [path for path in sorted(folder.glob("*")) if path.is_file()]
        found += [f"{path.name} {digest(path)}" for path in files]
    if backbone.weights is not None:
        found += [digest(path) for path in files_of(Path(backbone.weights))]
    if backbone.pruning is not None:
        found.append(f"pruning {Pruning.load(backbone.pruning).digest}")
    if backbone.int8 is not None:
        found.append(f"int8 {Quantized.load(backbone.int8).digest}")
    return hashlib.sha256("\n".join(found).encode()).hexdigest() if found else None
