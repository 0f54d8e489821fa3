"""The conformance kit: what siamkit expects of a plugin, in one line of pytest.

::

    from siamkit.testing import check_plugin

    def test_conforms():
        check_plugin("my-distribution")

or one test an entry::

    @pytest.mark.parametrize("name", registered("losses", "my-distribution"))
    def test_loss(name):
        check_loss(name)

Each check raises ``AssertionError`` with what was expected and what came. Nothing is downloaded:
backbones are built with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from siamkit import plugins
from siamkit.registry import canonical
from siamkit.testing.backbones import check_backbone
from siamkit.testing.common import Expect, Kind, Values
from siamkit.testing.freeze_policies import check_freeze_policy
from siamkit.testing.losses import check_loss
from siamkit.testing.schedulers import check_scheduler
from siamkit.testing.trackers import check_tracker

__all__ = [
    "check_backbone",
    "check_freeze_policy",
    "check_loss",
    "check_plugin",
    "check_scheduler",
    "check_tracker",
    "registered",
]

_CHECKS: dict[Kind, Callable[[str, Values | None], None]] = {
    "backbones": check_backbone,
    "freeze_policies": check_freeze_policy,
    "losses": check_loss,
    "schedulers": check_scheduler,
    "trackers": check_tracker,
}


def registered(kind: Kind, distribution: str | None = None) -> list[str]:
    """Return the names registered under ``kind``, by one distribution or by all.

    Names that stand for many (``timm:``) are left out: they have no one entry to check.
    """
    wanted = None if distribution is None else canonical(distribution)
    return [
        entry.name
        for entry in plugins.get().registries[kind]
        if not entry.name.endswith(":") and wanted in (None, canonical(entry.distribution))
    ]


def check_plugin(distribution: str, options: Mapping[str, Values] | None = None) -> None:
    """Check that a distribution's plugins load, and everything that they register.

    Args:
        distribution: Its name, as ``pip`` knows it.
        options: Option values by registered name, for entries whose options have no defaults.
    """
    infos = plugins.get().infos
    own = [info for info in infos if canonical(info.distribution) == canonical(distribution)]
    expect = Expect(f"distribution {distribution!r}")
    there = sorted({info.distribution for info in infos})
    expect(bool(own), "an installed entry point in the group 'siamkit'", f"those of {there}")
    for info in own:
        expect(info.error is None, f"the plugin {info.name!r} to load", info.error)
    for kind, check in _CHECKS.items():
        for name in registered(kind, distribution):
            check(name, (options or {}).get(name))
