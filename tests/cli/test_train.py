"""``siamkit train`` shows its own log, so the functions behind it show none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from siamkit import api

from .conftest import Cli


class Asked(Exception):
    """Ends the command where the training would begin."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each way to train is asked for."""
    seen: dict[str, Any] = {}

    def stop(name: str) -> Any:
        def function(*args: Any, **options: Any) -> None:
            seen.update(options, by=name, args=args)
            raise Asked

        return function

    monkeypatch.setattr(api, "fit", stop("fit"))
    for name in ("continued", "begin_or_continue"):
        monkeypatch.setattr(f"siamkit.api.continuing.{name}", stop(name))
    return seen


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize(
    ("flags", "by"),
    [([], "fit"), (["--resume", "auto"], "begin_or_continue"), (["--resume", "RUN"], "continued")],
)
def test_the_log_is_printed_once_and_not_at_all_if_quiet(
    cli: Cli, asked: dict[str, Any], trained: Path, tmp_path: Path, flags: list[str], by: str,
    quiet: bool,
) -> None:  # fmt: skip
    words = [str(trained) if flag == "RUN" else flag for flag in flags]
    data = [] if by == "continued" else ["sample", "--run-dir", str(tmp_path / "run")]
    done = cli("train", *data, *words, *(["--quiet"] if quiet else []))
    assert done.code == 1 and "unexpected Asked" in done.err
    assert asked["by"] == by and asked["progress"] is False
    assert len(asked["listeners"]) == (1 if quiet else 2)
