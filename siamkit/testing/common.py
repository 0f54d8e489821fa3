"""The common parts of the checks: expectations, random numbers, histories."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch import Tensor, nn

from siamkit.interfaces import Progress

Values = Mapping[str, Any]


class NotConforming(AssertionError):
    """A plugin breaks its contract. The checks raise nothing else."""


class Expect:
    """Checks conditions on one subject; the error names the consequence for users.

    Args:
        subject: What is checked, such as ``loss 'triplet' of siamkit-mine``. The error begins with
            it.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject

    def __call__(self, holds: bool, expected: str, got: object, suffers: str) -> None:
        """Raise :class:`NotConforming` if the condition is false.

        Args:
            holds: The condition.
            expected: The expected value or behaviour.
            got: The actual value or behaviour.
            suffers: A sentence about the consequence for users of the plugin.
        """
        if not holds:
            raise self.failure(expected, got, suffers)

    def within(self, detail: str) -> Expect:
        """Return an :class:`Expect` for a detail of the subject, such as ``in_chans=3``."""
        return Expect(f"{self.subject}: {detail}")

    def failure(self, expected: str, got: object, suffers: str) -> NotConforming:
        """Return the error, without raising it."""
        return NotConforming(f"{self.subject}: expected {expected}; got {_shown(got)}. {suffers}")

    @contextmanager
    def during(self, doing: str, suffers: str, expected: str | None = None) -> Iterator[None]:
        """Turn any exception of the block, including ``SystemExit``, into :class:`NotConforming`.

        Args:
            doing: When the exception was raised, such as ``in build``.
            suffers: A sentence about the consequence for users of the plugin.
            expected: The expected behaviour. None: "no error ``doing``".
        """
        try:
            yield
        except NotConforming:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            wanted = expected or f"no error {doing}"
            raised = f"{type(error).__name__}, raised {doing}: {error}"
            raise self.failure(wanted, raised, suffers) from error


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value
    try:
        return str(value)
    except Exception as error:
        return f"a {type(value).__name__} whose text fails ({type(error).__name__})"


@contextmanager
def offline() -> Iterator[None]:
    """Refuse network connections, so that nothing is downloaded."""

    def refuse(*_: object) -> None:
        raise ConnectionError("it opened a network connection although no download was requested")

    with mock.patch.object(socket.socket, "connect", refuse):
        yield


History = tuple[dict[str, float], ...]


def histories(epochs: int) -> dict[str, tuple[str, History]]:
    """Return simulated runs by label: each run's monitored metric, and its metrics per epoch.

    With more epochs, the history of a label begins with the same metrics.
    """
    noise = (0.31, 0.62, 0.18, 0.55, 0.07, 0.71, 0.44, 0.29, 0.66, 0.12)
    courses: dict[str, Callable[[int], float]] = {
        "rising": lambda e: 1 - 0.8**e,
        "flat": lambda e: 0.5,
        "falling": lambda e: 0.9**e,
        "noisy": lambda e: noise[e % len(noise)],
    }
    runs = {
        label: ("recall@1", tuple(_labelled(course(e)) for e in range(epochs)))
        for label, course in courses.items()
    }
    paired = tuple(_paired(courses["noisy"](e)) for e in range(epochs))
    return {**runs, "noisy, on pairs": ("auc", paired)}


def _labelled(value: float) -> dict[str, float]:
    names = {"recall@1": value, "map@r": 0.8 * value}
    return {**names, "train_loss": 1 - value, **{f"train_{n}": v for n, v in names.items()}}


def _paired(value: float) -> dict[str, float]:
    names = {"auc": value, "eer": 1 - value}
    return {**names, "train_loss": 1 - value, **{f"train_{n}": v for n, v in names.items()}}


@contextmanager
def untouched(expect: Expect, moments: list[Progress]) -> Iterator[None]:
    """Raise an error if the block changes the histories of ``moments``."""
    before = copy.deepcopy([moment.history for moment in moments])
    yield
    expect(
        before == [moment.history for moment in moments],
        "an unchanged history", "a changed history",
        "The run's own record of its metrics would be damaged.",
    )  # fmt: skip


def loose_leaves(output: Tensor, module: nn.Module, inputs: tuple[Tensor, ...] = ()) -> list[str]:
    """Return the leaf tensors that gradients from ``output`` reach, but ``module`` does not own."""
    known = {id(tensor) for tensor in (*module.parameters(), *inputs)}
    names = {
        id(value): key
        for part in module.modules()
        for key, value in vars(part).items()
        if isinstance(value, Tensor)
    }
    loose: dict[int, str] = {}
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor) and id(leaf) not in known:
            loose[id(leaf)] = f"{names.get(id(leaf), 'a tensor')} {list(leaf.shape)}"
    return sorted(loose.values())
