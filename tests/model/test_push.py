"""What a push hands to the hub's client. ``tests/test_hub.py`` has the client and a server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

import siamkit
from siamkit.errors import ConfigError, DataError, ResourceError
from siamkit.model.pretrained import push
from siamkit.model.pretrained.card import for_repo
from siamkit.model.pretrained.push import push_to_hub


class Api:
    """The client of the hub, which notes how it is called."""

    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]]
    pr_url: str | None = None

    def __init__(self, **about: Any) -> None:
        self.calls.append(("HfApi", (), about))

    def create_repo(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append(("create_repo", args, kwargs))

    def create_commit(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(("create_commit", args, kwargs))
        return SimpleNamespace(pr_url=self.pr_url, commit_url="https://hub/commit/1")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    Api.calls = []
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(push, "out_of_reach", lambda endpoint: None)
    return Api.calls


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = siamkit.create_model("timm:test_resnet", pretrained=False, image_size=32)
    return net.save_pretrained(tmp_path_factory.mktemp("push") / "my model")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    from shutil import copytree

    return Path(copytree(saved, tmp_path / "my model"))


def test_a_push_is_one_commit_of_all_files_to_the_main_branch(folder: Path, calls: Any) -> None:
    assert push_to_hub(folder, "me/emoji") == "https://hub/commit/1"
    api, repo, commit = calls
    assert api == ("HfApi", (), {"token": None, "library_name": "siamkit"})
    assert repo == ("create_repo", ("me/emoji",), {"private": None, "exist_ok": True})
    name, (target, operations), options = commit
    assert (name, target) == ("create_commit", "me/emoji")
    assert options == {"commit_message": "Add model", "revision": None, "create_pr": False}
    assert {operation.path_in_repo for operation in operations} == {
        path.name for path in folder.iterdir()
    }
    card = operations[0]
    assert card.path_in_repo == "README.md"
    text = card.path_or_fileobj.decode()
    assert "# emoji\n" in text and "me/emoji" in text and "my model" not in text
    assert "# my model\n" in (folder / "README.md").read_text(), "the folder stays as it is"


def test_a_pull_request_has_an_address_of_its_own(
    folder: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Api, "pr_url", "https://hub/pr/2")
    options = {"private": True, "token": "t", "revision": "r", "create_pr": True, "message": "m"}
    assert push_to_hub(folder, "me/emoji", **options) == "https://hub/pr/2"
    assert calls[0][2]["token"] == "t" and calls[1][2]["private"] is True
    assert calls[2][2] == {"commit_message": "m", "revision": "r", "create_pr": True}


def test_what_stands_in_the_way_is_said_before_anything_is_sent(
    folder: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError):
        push_to_hub(folder, "no name")
    monkeypatch.setattr(push, "out_of_reach", lambda endpoint: "the hub sleeps")
    with pytest.raises(ResourceError, match="cannot be pushed: the hub sleeps"):
        push_to_hub(folder, "me/emoji")
    monkeypatch.setattr(push, "out_of_reach", lambda endpoint: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE is set"):
        push_to_hub(folder, "me/emoji")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (folder / "README.md").write_bytes(b"\xff")
    with pytest.raises(DataError, match="not valid UTF-8"):
        push_to_hub(folder, "me/emoji")
    (folder / "README.md").unlink()
    with pytest.raises(ConfigError, match="has no model card"):
        push_to_hub(folder, "me/emoji")
    assert calls == []


def test_the_examples_of_a_card_load_the_model_from_the_hub() -> None:
    card = (
        '# a.b\n\nfrom_pretrained("a.b"), create_model("local-dir:a.b"), "a.b"\n\n# a.b c\n# aXb\n'
    )
    assert for_repo(card, "a.b", "me/emoji") == (
        '# emoji\n\nfrom_pretrained("hf-hub:me/emoji"), create_model("hf-hub:me/emoji"), "a.b"\n\n'
        "# a.b c\n# aXb\n"
    )
