"""The conformance kit: pytest checks that plugins and objects keep siamkit's contracts.

::

    from siamkit.testing import check_plugin

    def test_conforms():
        check_plugin("my-distribution")

or one test per entry::

    @pytest.mark.parametrize("name", registered("losses", "my-distribution"))
    def test_loss(name):
        check_loss(name)

or objects that :func:`siamkit.fit` takes, without a plugin::

    def test_my_objects():
        check_backbone(MyNet(), image_size=64)
        check_freeze_policy(my_policy)
        check_loss((MultiSimilarityLoss(), MultiSimilarityMiner()))

Each check raises only ``AssertionError``, whatever the plugin raises. The message says what was
expected, what the check got, and how a user would be affected. Nothing is downloaded: backbones are
built with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from siamkit import commands, plugins
from siamkit.interfaces import Event
from siamkit.plugins import PluginInfo
from siamkit.registry import canonical
from siamkit.testing.backbones import check_backbone
from siamkit.testing.common import Expect, Values
from siamkit.testing.freeze_policies import check_freeze_policy
from siamkit.testing.heads import check_head
from siamkit.testing.losses import check_loss
from siamkit.testing.optimizers import check_optimizer
from siamkit.testing.schedulers import check_scheduler
from siamkit.testing.subjects import conformance
from siamkit.testing.trackers import check_observer, check_tracker

__all__ = [
    "check_backbone",
    "check_freeze_policy",
    "check_head",
    "check_loss",
    "check_optimizer",
    "check_plugin",
    "check_scheduler",
    "check_tracker",
    "registered",
]

_CHECKS: dict[str, Callable[[str, Values | None], None]] = {
    "backbones": check_backbone,
    "heads": check_head,
    "freeze_policies": check_freeze_policy,
    "losses": check_loss,
    "optimizers": check_optimizer,
    "schedulers": check_scheduler,
    "trackers": check_tracker,
}
"""The check for each kind in :data:`siamkit.registry.KINDS`."""


def registered(kind: str, distribution: str | None = None) -> list[str]:
    """Return the names of one kind that a distribution registered, or that all did.

    Prefixes such as ``timm:`` are left out, because they stand for many models.

    Args:
        kind: One of :data:`siamkit.registry.KINDS`, such as ``losses``.
        distribution: The name of the distribution; None: all distributions.
    """
    wanted = None if distribution is None else canonical(distribution)
    return [
        entry.name
        for entry in plugins.get().registries[kind]
        if not entry.name.endswith(":") and wanted in (None, canonical(entry.distribution))
    ]


@conformance
def check_plugin(distribution: str, options: Mapping[str, Values] | None = None) -> None:
    """Check that a distribution's plugins load, and check everything that they register.

    Args:
        distribution: The name of the distribution, as for ``pip``.
        options: Option values by registered name, for entries whose options have no defaults.
    """
    loaded = plugins.get()
    own = [i for i in loaded.infos if canonical(i.distribution) == canonical(distribution)]
    expect = Expect(f"distribution {distribution!r}")
    there = sorted({info.distribution for info in loaded.infos})
    expect(
        bool(own),
        "an installed entry point in the group 'siamkit'",
        f"entry points of {there} only",
        "siamkit would never load it.",
    )
    for info in own:
        expect(info.error is None, f"the plugin {info.name!r} to load", info.error,
               "Users could use nothing that it registers.")  # fmt: skip
    _check_conflicts(distribution, expect)
    for info in own:
        if "siamkit_event" in info.hooks:
            check_observer(_observer(info), expect.within(f"the observer {info.name!r}"))
    for kind, check in _CHECKS.items():
        for name in registered(kind, distribution):
            check(name, (options or {}).get(name))


def _check_conflicts(distribution: str, expect: Expect) -> None:
    """Check that no other distribution registers the same names, including commands."""
    loaded = plugins.get()
    every = list(commands.added(loaded))
    claims = [
        (registry.kind, name, by)
        for registry in loaded.registries.values()
        for name, by in registry.conflicts.items()
    ] + [("command", name, by) for name, by in commands.conflicts(every).items()]
    for kind, name, by in claims:
        ours = canonical(distribution) in map(canonical, by)
        expect(
            not ours,
            f"a {kind} name {name!r} of its own",
            f"a name that {' and '.join(by)} register",
            "Users could not use the name if both are installed.",
        )
    for one in every:
        if canonical(one.distribution) == canonical(distribution):
            expect(not one.problems, "commands that run", "; ".join(one.problems),
                   "The commands would fail, or never run.")  # fmt: skip


def _observer(info: PluginInfo) -> Callable[[Event], object]:
    manager = plugins.get().manager
    key = f"{info.distribution}:{info.name}"
    others = [p for name, p in manager.list_name_plugin() if name != key]
    hook = manager.subset_hook_caller("siamkit_event", others)
    return lambda event: hook(event=event)
