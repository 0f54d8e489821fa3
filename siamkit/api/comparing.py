"""Compares recipes on a data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from siamkit.api.configuring import Config, placed, resolved_call, values_of
from siamkit.api.entries import registries
from siamkit.api.helping import helping
from siamkit.api.listening import checked
from siamkit.api.recipes import require_seconds
from siamkit.api.results import ComparisonResult
from siamkit.checks import whole_number
from siamkit.comparison.arms import arms_of, keeping, options_named
from siamkit.comparison.compare import Compared
from siamkit.comparison.compare import compare as _compare
from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.plan import EQUAL, METRICS, Plan
from siamkit.comparison.summary import summary
from siamkit.comparison.unit import config_of, variant_of
from siamkit.comparison.work import Helpers, Step
from siamkit.config import KEPT_KEYS, MAIN_KEYS, RunConfig, flat, whole
from siamkit.data.memory import items_of
from siamkit.errors import ConfigError
from siamkit.files import path_of, write_atomic
from siamkit.model.settings import usual_settings
from siamkit.registry import GIVEN, HERE, Registry
from siamkit.runs.directory import unused
from siamkit.runs.events import Listener
from siamkit.spelling import argument, setting
from siamkit.training.build import providers

POLICIES = ("freeze-all", "stages", "gradual-unfreeze", "full")
"""The freeze policies that are compared if nothing else is asked for."""

_AXES = {
    "policies": "freeze.name",
    "losses": "loss.name",
    "heads": "head.name",
    "augment": "data.augment.preset",
    "backbones": "backbone.name",
}
"""The key of the configuration that each argument varies."""


@usual_settings()
def compare(
    config: Config | None = None,
    *,
    policies: Sequence[str] | None = None,
    losses: Sequence[str] | None = None,
    heads: Sequence[str] | None = None,
    augment: Sequence[str] | None = None,
    backbones: Sequence[str] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    tune: Mapping[str, Sequence[Any]] | None = None,
    folds: int = 3,
    seeds: int = 3,
    metric: str = "recall@1",
    equal: str = "images",
    budget: float | None = None,
    output: str | Path | None = None,
    jobs: int = 1,
    watch: Callable[[Step], None] | None = None,
    begun: Callable[[Path], None] | None = None,
    listeners: Iterable[Listener] = (),
    **sections: Any,
) -> ComparisonResult:
    """Compare recipes on the user's own data: which classes train is varied, and what is measured.

    Every combination of the given values is an arm. In each round, every arm is trained with the
    same seed on the same classes, and measured on the same held-out classes. Two networks without
    training are always compared too: the backbone's features, and the head in closed form. An arm
    that is clearly worse than the leader is not trained further. The same call continues a
    comparison that was stopped.

    Args:
        config: As for :func:`fit`: the recipe that the arms have in common.
        policies: Freeze policies; by default :data:`POLICIES`, if no other values are given.
        losses: Losses.
        heads: Heads.
        augment: Presets of the augmentation.
        backbones: Backbones.
        vary: Values of any other key of the config, such as ``{"train.epochs": [5, 20]}``.
        tune: Values to try in each run of an arm; the validation images choose one. So the rate
            that an arm needs is found within the training part:
            ``{"optimizer.lr": [0.001, 0.004]}``.
        folds: The number of parts of the data. Each is held out in turn.
        seeds: The number of times that the folds are trained, each time with another seed and
            another division into folds.
        metric: ``recall@1`` or ``map@r``.
        equal: What is the same for all arms. ``images``: as many epochs. ``time``: cheap arms
            train for more epochs; the first round is trained twice, to measure the times.
        budget: Seconds that all runs may take together; None for no limit. The first round is
            always finished.
        output: The directory of the comparison; None: ``comparisons/<time>-<data>``.
        jobs: The number of processes that train runs at the same time. They share the threads and
            the processes that decode images, unless ``train.threads`` and ``data.workers`` set
            those of each. Each needs memory of its own.
        watch: Called before and after each run, and when another process trains the next one.
        begun: Called with the directory before the first run.
        listeners: Called with the events of the runs.
        **sections: Arguments as for :func:`fit`: names, mappings or objects.

    Returns:
        The output of ``siamkit compare --json``, by attribute or by key.

    Raises:
        ConfigError: An argument is wrong.
        SiamkitError: See :mod:`siamkit.errors` for others.
    """
    named = {"policies": policies, "losses": losses, "heads": heads, "augment": augment,
             "backbones": backbones}  # fmt: skip
    _require_callable("watch", watch)
    _require_callable("begun", begun)
    axes, tuned = _axes(named, vary), _tuned(tune)
    _require_apart(axes, tuned, equal)
    wished = dict(flat(whole(values_of(config, sections))))
    open_policy = policies is None and "freeze.name" not in wished
    if open_policy and not any(len(values) > 1 for values in axes.values()):
        axes = {"freeze.name": POLICIES, **axes}
    loose = _loose({**axes, **tuned}, wished, registries())
    base, known, memory = resolved_call(config, sections, loose)
    _require_protocol(metric, equal, budget, base)
    if base.train.monitor is None:
        train = base.train.model_copy(update={"monitor": metric})
        base = base.model_copy(update={"train": train})
    first = base.train.seed
    arms = arms_of(axes or {"freeze.name": (base.freeze.name,)}, base.head.name)
    plan = Plan(
        tuple(keeping(arm, wished, known) if arm.trains else arm for arm in arms),
        whole_number(folds, argument("folds"), least=2),
        tuple(range(first, first + whole_number(seeds, argument("seeds"), least=1))),
        metric,
        tuned,
        budget,
        equal,
        _options_of(tuned, wished),
    )
    helpers = _helpers(whole_number(jobs, argument("jobs"), least=1), plan, base, known)
    folder = path_of(output, "output") if output is not None else unused(_default(base))
    place = ComparisonDir(Path(folder).absolute())
    notices: list[str] = []
    place.require_free()
    if begun is not None:
        begun(place.path)
    told, heard = watch or (lambda step: None), checked(listeners)
    with TemporaryDirectory() as draft:
        settle: Callable[[], RunConfig] | None = None
        if memory is not None:
            # Until it is sure that they belong into the folder, the images are kept elsewhere.
            items, own = items_of(memory, notices), base
            base = placed(items, base, Path(draft).resolve())
            settle = partial(placed, items, own, place.data)
        compared = _compare(
            plan, base, known, place,
            settle=settle, helpers=helpers, watch=told, listeners=heard,
        )  # fmt: skip
    return _written(compared, known, place, notices)


def _written(
    compared: Compared, known: Mapping[str, Registry], place: ComparisonDir, notices: Sequence[str]
) -> ComparisonResult:
    """Write the config of the best arm and the page of a comparison, and return its result."""
    found = summary(compared)
    # The arms as they were trained: if all took equally long, they have epochs of their own.
    best = next(arm for arm in compared.plan.arms if arm.name == found["best"])
    config = variant_of(compared.plan, compared.base, known, best, _usual(found))
    write_atomic(place.best, config.to_yaml())
    result = {
        **found,
        "notices": [*notices, *found["notices"]],
        "output": str(place.path),
        "config": str(place.best),
        "report": str(place.report),
    }
    from siamkit.report.html.comparison import write_comparison_page

    write_comparison_page(result, place.report)
    return ComparisonResult(result)


def _helpers(
    jobs: int, plan: Plan, base: RunConfig, known: Mapping[str, Registry]
) -> Helpers | None:
    """Return what starts the other processes; None for a single process.

    Args:
        jobs: The number of processes.
        plan: The plan.
        base: The config of all arms.
        known: The registry of each component section.

    Raises:
        ConfigError: A component is not installed, so another process does not have it.
    """
    if jobs == 1:
        return None
    for arm in plan.arms:
        for section, provider in providers(config_of(base, known, arm), known).items():
            if provider.distribution in (GIVEN, HERE):
                raise ConfigError(
                    "must be 1, because other processes do not have the objects of this one",
                    where=argument("jobs"),
                    got=jobs,
                    hint=f"install a plugin that registers the {section}, and name it",
                )
    return Helpers(jobs - 1, helping)


_TAKEN = (
    "data.path", "data.root", "data.path_column", "data.label_column", "data.folds", "data.fold",
    "data.val_fraction", "train.seed", "train.monitor", "run_dir", "report", "track",
)  # fmt: skip
"""The keys that a comparison sets for each run, or that have no effect in it."""

_SAME_IMAGES = ("data.max_pixels", "data.on_unreadable", "data.max_skipped", "data.strict")
"""The keys that decide which images are used, which is the same for all arms."""


def _axes(
    named: Mapping[str, Sequence[str] | None], vary: Mapping[str, Sequence[Any]] | None
) -> dict[str, tuple[Any, ...]]:
    """Return the values that vary from arm to arm, by dotted key.

    Args:
        named: The names to compare, by argument; None for those that were not given.
        vary: The values of other keys.
    """
    axes = {
        _AXES[name]: _require_names(name, _values(name, values))
        for name, values in named.items()
        if values is not None
    }
    varied = _valued("vary", vary)
    if twice := sorted(set(axes) & set(varied)):
        raise ConfigError(
            "is varied twice", where=twice[0], hint=f"give all of its values to {argument('vary')}"
        )
    return axes | varied


def _tuned(tune: Mapping[str, Sequence[Any]] | None) -> dict[str, tuple[Any, ...]]:
    """Return the values that each run of an arm tries, by dotted key."""
    return _valued("tune", tune)


def _options_of(tuned: Collection[str], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's values of the sections whose choice is tuned, by dotted key."""
    sections = [s for s, main in MAIN_KEYS.items() if s in KEPT_KEYS and f"{s}.{main}" in tuned]
    return {k: v for k, v in own.items() if any(k.startswith(f"{s}.") for s in sections)}


def _loose(
    choices: Mapping[str, Sequence[Any]], own: Mapping[str, Any], known: Mapping[str, Registry]
) -> list[str]:
    """Return the user's options that some of the choices have, and the default choice has not.

    Where the user leaves a choice open, such as the loss, the options that come with it are those
    of what is compared. So the config that the arms have in common does not hold them.

    Args:
        choices: The values that are varied or tuned, by dotted key.
        own: The values that the user has set, by dotted key.
        known: The registry of each component section.
    """
    usual = RunConfig()
    loose = []
    for section, registry in known.items():
        names = choices.get(f"{section}.name", ())
        if not names or f"{section}.name" in own:
            continue
        default = options_named(registry, getattr(usual, section).name)
        every = {option for name in names for option in options_named(registry, name)}
        for key in own:
            first, _, rest = key.partition(".")
            option = rest.partition(".")[0]
            if first == section and option in every - set(default):
                loose.append(f"{section}.{option}")
    return loose


def _require_apart(axes: Collection[str], tuned: Collection[str], equal: Any) -> None:
    """Check that keys may be varied or tuned, and that none is both."""
    if wrong := sorted(key for key in {*axes, *tuned} if _is_taken(key)):
        raise ConfigError(
            "cannot be varied, because the comparison sets it",
            where=wrong[0],
            hint=f"{argument('folds')} and {argument('seeds')} decide the data of a run",
        )
    if wrong := sorted({*axes, *tuned}.intersection(_SAME_IMAGES)):
        raise ConfigError(
            "cannot be varied, because it decides which images are used, and arms can be compared "
            "only on the same images",
            where=wrong[0],
            hint=f"choose one value for all arms: {setting(wrong[0], 'VALUE')}",
        )
    if twice := sorted(set(axes) & set(tuned)):
        raise ConfigError("is varied and tuned", where=twice[0], hint="choose one of the two")
    if isinstance(equal, str) and equal == "time" and "train.epochs" in {*axes, *tuned}:
        raise ConfigError(
            "cannot be varied or tuned if all arms shall take equally long, which decides it",
            where="train.epochs",
        )


def _require_protocol(metric: Any, equal: Any, budget: Any, base: RunConfig) -> None:
    """Check how the arms shall be compared."""
    for name, value, allowed in (("metric", metric, METRICS), ("equal", equal, EQUAL)):
        if not isinstance(value, str) or value not in allowed:
            raise ConfigError(
                "is unknown", where=argument(name), got=value, allowed=" or ".join(allowed)
            )
    if budget is not None:
        require_seconds(budget)
    if base.data.folds is not None:
        raise ConfigError(
            "has no effect on a comparison", where=setting("data.folds"), got=base.data.folds,
            hint=f"use {argument('folds')}",
        )  # fmt: skip


def _is_taken(key: str) -> bool:
    return key in _TAKEN or key.partition(".")[0] in ("run_dir", "report", "track", "calibration")


def _values(where: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise ConfigError("must be a list of values", where=where, got=values)
    if not values:
        raise ConfigError("is empty", where=where, allowed="one value or more")
    for number, value in enumerate(values):
        if not isinstance(value, str | int | float | list | tuple | None):
            raise ConfigError("holds a value of a wrong type", where=where, got=type(value))
        if any(type(value) is type(other) and value == other for other in values[:number]):
            raise ConfigError(f"holds {value!r} twice", where=where)
    return tuple(values)


def _valued(where: str, given: Any) -> dict[str, tuple[Any, ...]]:
    """Return the values of each key, by the whole key: ``loss`` stands for ``loss.name``.

    Args:
        where: The name of the argument.
        given: The argument.

    Raises:
        ConfigError: The argument is wrong, or two keys are the same.
    """
    result: dict[str, tuple[Any, ...]] = {}
    for key, values in _keyed(where, given).items():
        full = f"{key}.{MAIN_KEYS[key]}" if key in MAIN_KEYS else key
        if full in result:
            raise ConfigError("is given twice", where=f"{where}[{full!r}]")
        result[full] = _values(f"{where}[{key!r}]", values)
    return result


def _keyed(where: str, values: Any) -> Mapping[str, Any]:
    """Return values by key; empty for None."""
    if values is None:
        return {}
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ConfigError(
            "must be a mapping of keys of the config to lists of values", where=where, got=values
        )
    return values


def _require_names(where: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    for value in values:
        if not isinstance(value, str):
            raise ConfigError("must be a list of names", where=where, got=type(value))
    return values


def _require_callable(where: str, value: Any) -> None:
    if value is not None and not callable(value):
        raise ConfigError("must be a function", where=where, got=type(value))


def _usual(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tuned values that the best arm's runs chose most often, by dotted key."""
    row = next(row for row in found["arms"] if row["name"] == found["best"])
    chosen = row["tuned"]
    counts = [chosen.count(values) for values in chosen]
    return dict(chosen[counts.index(max(counts))])


def _default(config: RunConfig) -> Path:
    name = re.sub(r"[^\w.-]+", "-", Path(config.data.path).stem) or "data"
    return Path("comparisons") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name}"
