"""The model hub: checks that the hub is reachable, and downloads files into the client's cache."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from siamkit.errors import CheckpointError, ConfigError, ResourceError, SiamkitError

HUB = "hf-hub:"
"""The prefix of the names of models on the hub: ``hf-hub:ORG/NAME`` or ``...@REVISION``."""

TIMEOUT = 5.0
"""A model hub that does not answer within this many seconds counts as unreachable."""

LOG_IN = "log in with 'hf auth login', or set HF_TOKEN"


@contextmanager
def quick_to_fail() -> Iterator[str | None]:
    """Within the block, use only the local cache if the hub is unreachable.

    Yields the reason, for errors about files that are not in the cache; None if the hub is
    reachable. Without this, the hub's client retries for 45 seconds, even if the file is in the
    cache.
    """
    from huggingface_hub import constants

    timeout, offline = socket.getdefaulttimeout(), constants.HF_HUB_OFFLINE
    # Old weights are downloaded from plain URLs, without the hub's client and its timeouts.
    socket.setdefaulttimeout(timeout or 4 * TIMEOUT)
    why = "HF_HUB_OFFLINE is set" if offline else out_of_reach(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = why is not None
    try:
        yield why and f"{why}, and the files are not in the local cache"
    finally:
        socket.setdefaulttimeout(timeout)
        constants.HF_HUB_OFFLINE = offline


def out_of_reach(endpoint: str) -> str | None:
    """Return why ``endpoint`` is unreachable; None if it is reachable or a proxy is configured."""
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
    """Return the first line of an error's innermost cause; the error's own text may be long."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def fetch(name: str, *files: Sequence[str], hint: str | None = None) -> Path:
    """Fetch files of a model, all of one revision, and return the folder that holds them.

    Files in the local cache are not fetched again, so this works offline if all files are there.

    Args:
        name: ``ORG/NAME`` or ``ORG/NAME@REVISION``.
        *files: For each file to fetch, its possible names. The first one that the model has counts.
        hint: The next step, for messages.

    Raises:
        ConfigError: ``name`` cannot be the name of a model, or the hub refuses access to it.
        CheckpointError: The hub is unreachable, or has no such model, revision or file.
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
                    # Offline, a file that the model lacks looks like one that is not in the cache.
                    if choice != choices[-1]:
                        continue
                    missing = not isinstance(error, LocalEntryNotFoundError)
                    why = f"the model has no {' or '.join(choices)}" if missing else offline
                    raise _unfetched(name, why or reason(error), hint) from error
                except Exception as error:  # the client's, or the transport's below it
                    raise refused(error, name, offline, hint) from error
                folder, revision = path.parent, path.parent.name  # the commit's name
                break
    return folder


def require_name(repo: str) -> None:
    """Check that ``repo`` can be the name of a model on the hub.

    Raises:
        ConfigError: ``repo`` cannot be the name of a model on the hub.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(
            f"not the name of a model on the hub ({reason(error)})", got=repo, allowed="ORG/NAME"
        ) from None


def refused(
    error: Exception,
    name: str,
    offline: str | None = None,
    hint: str | None = None,
    *,
    pushing: bool = False,
) -> SiamkitError:
    """Return siamkit's error for an error that the hub's client raised.

    Args:
        error: The error.
        name: The model's name.
        offline: Why the hub is unreachable; None if it is reachable.
        hint: The next step, for errors without a more precise one.
        pushing: Whether a model was being pushed, not fetched.
    """
    from huggingface_hub.errors import LocalTokenNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return ConfigError(
            "not logged in to the hub, or no such model",
            where=HUB + name,
            hint=f"check the name, or {LOG_IN}",
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
    if pushing:
        why = offline or reason(error)
        return ResourceError(f"cannot be pushed to the hub: {why}", where=HUB + name, hint=hint)
    return _unfetched(name, offline or reason(error), hint)


def _unfetched(name: str, why: str, hint: str | None) -> CheckpointError:
    return CheckpointError(f"cannot be fetched from the hub: {why}", where=HUB + name, hint=hint)
