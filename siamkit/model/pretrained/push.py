"""Pushing: uploads a saved network to the model hub."""

from __future__ import annotations

from pathlib import Path

from siamkit.config.base import expanded
from siamkit.errors import ConfigError, DataError, ResourceError
from siamkit.files import path_of
from siamkit.hub import HUB, out_of_reach, refused, require_name
from siamkit.model.pretrained.card import for_repo
from siamkit.model.pretrained.folder import BACKBONE, CARD, CONFIG, REST, read_folder


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = "Add model",
) -> str:
    """Push a saved network to the model hub in one commit, and return the commit's address.

    The folder's files are checked first. On the hub, the examples of the model card name the hub's
    model instead of the folder. The folder itself is not changed.

    Args:
        folder: A folder that ``save_pretrained`` wrote.
        repo_id: The model on the hub, as ``ORG/NAME``. It is created if it doesn't exist.
        private: Whether a new model is private; None for the account's default.
        token: An access token; None for the token of the logged-in user.
        revision: The branch to commit to; None for the main branch.
        create_pr: Whether to open a pull request instead of committing to the branch.
        message: The message of the commit.

    Raises:
        ConfigError: ``repo_id`` is invalid, there is no such folder, timm or a run wrote it, it has
            no model card, you are not logged in, or the token has no write access.
        CheckpointError: The folder is not a saved network, a file of it is missing or damaged, or
            the hub has no such revision.
        DataError: The model card is not UTF-8.
        ResourceError: The hub is unreachable, or the connection broke.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    require_name(repo_id)
    path = read_folder(expanded(path_of(folder, "folder", "a saved network"))).path
    if constants.HF_HUB_OFFLINE:
        raise ResourceError(
            "cannot be pushed: HF_HUB_OFFLINE is set", where=HUB + repo_id, hint="unset it"
        )
    if why := out_of_reach(constants.ENDPOINT):
        raise ResourceError(
            f"cannot be pushed: {why}",
            where=HUB + repo_id,
            hint=f"push from a machine that can reach the hub; all files are in {path}",
        )
    card = for_repo(_card(path), path.absolute().name, repo_id)
    operations = [
        CommitOperationAdd(CARD, card.encode()),
        *(CommitOperationAdd(name, str(path / name)) for name in (CONFIG, BACKBONE, REST)),
    ]
    api = HfApi(token=token, library_name="siamkit")
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(
            repo_id, operations, commit_message=message, revision=revision, create_pr=create_pr
        )
    except Exception as error:  # of the client, or of the transport that it uses
        raise refused(error, repo_id, pushing=True) from error
    return str(commit.pr_url or commit.commit_url)


def _card(path: Path) -> str:
    file = path / CARD
    if not file.is_file():
        raise ConfigError(
            "has no model card", where=str(path), hint=f"write a {CARD}, or save the network again"
        )
    try:
        return file.read_text(encoding="utf-8")
    except ValueError:
        raise DataError("the model card is not valid UTF-8", where=str(file)) from None
