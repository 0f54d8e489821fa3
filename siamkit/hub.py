"""The model hub: checks that it is reachable, and downloads files into its client's cache."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from siamkit.errors import CheckpointError, ConfigError, SiamkitError

HUB = "hf-hub:"
"""The prefix of the names of models on the hub: ``hf-hub:ORG/NAME`` or ``...@REVISION``."""

TIMEOUT = 5.0
"""Seconds after which a model hub that does not answer counts as unreachable."""

LOG_IN = "log in with 'hf auth login', or set HF_TOKEN"


@contextmanager
def quick_to_fail() -> Iterator[str | None]:
    """Use only the local cache while the hub is unreachable; yield the reason, or None.

    Otherwise its client retries for 45 seconds, even with the file in the cache.
    """
    from huggingface_hub import constants

    timeout, offline = socket.getdefaulttimeout(), constants.HF_HUB_OFFLINE
    # Old weights come by plain URL, which has no timeout.
    socket.setdefaulttimeout(timeout or 4 * TIMEOUT)
    why = "HF_HUB_OFFLINE is set" if offline else out_of_reach(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = why is not None
    try:
        yield why and f"{why}, and they are not in the local cache"
    finally:
        socket.setdefaulttimeout(timeout)
        constants.HF_HUB_OFFLINE = offline


def out_of_reach(endpoint: str) -> str | None:
    """Return why ``endpoint`` is unreachable; None if it is not, or a proxy is configured."""
    address = urlsplit(endpoint)
    if address.hostname is None or getproxies().keys() & {"all", address.scheme}:
        return None
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=TIMEOUT).close()
    except OSError as error:
        return f"{address.hostname} is unreachable ({error.strerror or error})"
    return None


def reason(error: BaseException) -> str:
    """Return the first line of the innermost cause: the client's own text is a paragraph."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def fetch(name: str, *files: Sequence[str], hint: str | None = None) -> Path:
    """Fetch files of a model, all of one revision, and return the folder that holds them.

    What is in the local cache already is not fetched again, so that this works offline then.

    Args:
        name: ``ORG/NAME`` or ``ORG/NAME@REVISION``.
        *files: The names of each file: the first that the model has is taken.
        hint: The next step, for messages.

    Raises:
        ConfigError: It is no such name.
        CheckpointError: The hub is unreachable, or has no such model or file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    require_name(repo)
    folder = Path()
    with quick_to_fail() as offline:
        for choices in files:
            for choice in choices:
                try:
                    path = Path(hf_hub_download(repo, choice, revision=revision or None))
                except (LocalEntryNotFoundError, EntryNotFoundError) as error:
                    # Offline, each kind of absence reads the same.
                    if choice != choices[-1]:
                        continue
                    missing = not isinstance(error, LocalEntryNotFoundError)
                    why = f"it has no {' or '.join(choices)}" if missing else offline
                    raise _unfetched(name, why or reason(error), hint) from error
                except Exception as error:  # the client's, or the transport's below it
                    raise refused(error, name, offline, hint) from error
                folder, revision = path.parent, path.parent.name  # the commit's name
                break
    return folder


def require_name(repo: str) -> None:
    """Check that ``repo`` can be the name of a model on the hub.

    Raises:
        ConfigError: It cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(
            f"not a name of a model on the hub ({reason(error)})", got=repo, allowed="ORG/NAME"
        ) from None


def refused(
    error: Exception,
    name: str,
    offline: str | None = None,
    hint: str | None = None,
    *,
    doing: str = "be fetched from",
) -> SiamkitError:
    """Return what to say of an error that the hub's client raised.

    Args:
        error: The error.
        name: The model's name.
        offline: Why the hub is unreachable; None if it is not.
        hint: The next step where nothing better is known.
        doing: What could not be done, after "cannot".
    """
    from huggingface_hub.errors import LocalTokenNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return ConfigError(
            "not logged in to the hub, or no such model", where=HUB + name, hint=LOG_IN
        )
    if status == 403:
        return ConfigError(
            "the hub refused access: the token has no permission for this model",
            where=HUB + name,
            hint="use a token with access (to push, with write access), or a name under your own "
            "account",
        )
    if status == 404:
        return CheckpointError(
            "the hub has no such model or revision, or you have no access to it",
            where=HUB + name,
            hint=f"check the name; for a private model, {LOG_IN}",
        )
    return _unfetched(name, offline or reason(error), hint, doing)


def _unfetched(
    name: str, why: str, hint: str | None, doing: str = "be fetched from"
) -> CheckpointError:
    return CheckpointError(f"cannot {doing} the hub: {why}", where=HUB + name, hint=hint)
