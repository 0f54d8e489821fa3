"""The exception tree. Every error says where and what is wrong, what it got, and what to do next.

::

    SiamkitError              exit 1   a bug in siamkit or in a plugin
    ├── ConfigError           exit 2   usage, configuration, unknown names
    ├── DataError             exit 3   images, labels, splits
    ├── CheckpointError       exit 4   runs, checkpoints, weights, exports and indexes
    ├── PluginError           exit 5   a plugin that does not load, fails or breaks its contract
    ├── NonFiniteError        exit 6   NaN or infinity in a loss, a gradient or an embedding
    ├── ResourceError         exit 7   disk, memory, file access, a run in use, no hub to push to
    │   └── NoMemoryError     exit 7   memory ran out, also with the smallest forward passes
    ├── FrozenDriftError      exit 1   a frozen tensor changed: the freezing proof failed
    └── Interrupted           exit 130 or 143, a signal stopped the command
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from .words import printable


class SiamkitError(Exception):
    """The base class of all errors that siamkit raises on purpose.

    Args:
        what: The problem, as a sentence without a full stop.
        where: What the user can change: a file, a config key, an option or a row of a table.
        got: The offending value.
        of: The thing that the value belongs to, such as ``loss 'triplet'``.
        allowed: The values that would have been accepted.
        hint: The next step. Arguments and commands in it are spelled by :mod:`siamkit.spelling`.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: Any = None,
        of: str | None = None,
        allowed: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.got = got
        self.of = of
        self.allowed = allowed
        self.hint = hint
        self.problems: tuple[SiamkitError, ...] = ()
        super().__init__(printable(self._render()))

    @classmethod
    def of_all(cls, problems: Sequence[Self]) -> Self:
        """Return one error for all of ``problems``, with one line for each."""
        if len(problems) == 1:
            return problems[0]
        each = [one for problem in problems for one in (problem.problems or (problem,))]
        lines = "".join(f"\n  {one}" for one in each)
        error = cls(f"{len(each)} problems:{lines}")
        error.problems = tuple(each)
        return error

    def _render(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.got is not None:
            text += f", got {self.got!r}"
        if self.of is not None:
            text += f" ({self.of})"
        if self.allowed is not None:
            text += f", allowed: {self.allowed}"
        if self.hint is not None:
            text += f"; {self.hint}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the error as plain JSON values, for ``--json``."""
        fields = {"where": self.where, "got": self.got, "allowed": self.allowed, "hint": self.hint}
        given: dict[str, Any] = {
            key: value if isinstance(value, int | float) else str(value)
            for key, value in fields.items()
            if value is not None
        }
        if self.problems:
            given["problems"] = [problem.to_dict() for problem in self.problems]
        return {
            "type": type(self).__name__,
            "message": str(self),
            "exit_code": self.exit_code,
            **given,
        }


class ConfigError(SiamkitError):
    """A command line, a configuration file or an option value is wrong."""

    exit_code = 2


class DataError(SiamkitError):
    """The images, labels or splits cannot be used."""

    exit_code = 3


class CheckpointError(SiamkitError):
    """A run, checkpoint, weights file, export or index is missing, damaged, or does not fit."""

    exit_code = 4


class PluginError(SiamkitError):
    """A plugin does not load, raises an exception, breaks its contract, or claims a taken name."""

    exit_code = 5


class NonFiniteError(SiamkitError):
    """A loss, a gradient or an embedding is NaN or infinite."""

    exit_code = 6


class ResourceError(SiamkitError):
    """Disk space, memory or access to a file is lacking, or another process uses the run."""

    exit_code = 7


class NoMemoryError(ResourceError):
    """Memory ran out, and smaller forward passes are impossible or would not help."""


class FrozenDriftError(SiamkitError):
    """A tensor that was frozen changed during a phase."""


class Interrupted(SiamkitError):
    """A signal stopped the command. A run that was being trained can be resumed.

    ``exit_code`` is 130 for SIGINT and 143 for SIGTERM.
    """

    # exit_code needs a default: pickle copies an error by calling its class with ``what`` alone,
    # and sets the attributes afterwards.
    def __init__(self, what: str, *, exit_code: int = 130, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.exit_code = exit_code  # type: ignore[misc]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` for the nearest of ``names``, or an empty string."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""


_NO_MEMORY = re.compile(
    "out of memory|can(no|')t allocate memory|bad_alloc|STATUS_ALLOC_FAILED"
    # oneDNN says no more than this. For other reasons, it lacks a primitive *descriptor*.
    "|could not create a primitive$|could not execute a primitive|could not create a memory",
    re.IGNORECASE | re.MULTILINE,
)
"""The texts of a lack of memory, of torch's allocators, the C++ library, cuBLAS, cuDNN, oneDNN."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out, on a CPU or a GPU."""
    # By name and text: torch's error does not derive from MemoryError, and torch's CPU allocator
    # raises a plain RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):  # a worker process cannot start
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def is_nobodys_fault(error: BaseException) -> bool:
    """Return whether an exception that a plugin's code raised is not the plugin's fault.

    These exceptions are siamkit's own errors, which a plugin may raise on purpose; an interruption
    by the user; and a lack of memory.
    """
    return isinstance(error, SiamkitError | KeyboardInterrupt) or is_out_of_memory(error)


@contextmanager
def calling(whose: str, doing: str = "failed") -> Iterator[None]:
    """Turn an exception of a plugin, even ``SystemExit``, into an error that names the plugin.

    Args:
        whose: The plugin's entry, such as ``loss 'triplet' of siamkit-mine``.
        doing: The words after ``whose`` in the message, such as ``failed to build``.

    Raises:
        PluginError: The block raised an exception. Exceptions for which :func:`is_nobodys_fault`
            returns True pass unchanged.
    """
    try:
        yield
    except BaseException as error:
        if is_nobodys_fault(error):
            raise
        raise PluginError(f"{whose} {doing}: {type(error).__name__}: {error}") from error
