"""Pushing to a hub and fetching from it: the real client, against a server of our own."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import siamkit
from siamkit import hub as hub_module
from siamkit.errors import CheckpointError, ConfigError, ResourceError

TOKEN = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"
COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """As much of a hub as a push of small files and a download take."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, object]] = []
        self.writers = {"someone"}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def answer(self, value: object, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid credentials"}, 401)
        parts = self.path.partition("?")[0].strip("/").split("/")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            owner = asked.get("organization") or "someone"
            if owner not in self.server.writers:
                return self.answer({"error": "Forbidden"}, 403)
            self.server.created.append(asked)
            return self.answer({"url": f"{self.server.address}/{owner}/{asked['name']}"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        repo, action = "/".join(parts[2:4]), parts[4]
        if action == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for f in files]  # fmt: skip
            return self.answer({"files": modes})
        lines = [json.loads(line) for line in body.splitlines()]
        self.server.files[repo] = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        url = f"{self.server.address}/{repo}/commit/{COMMIT}"
        return self.answer({"success": True, "commitUrl": url, "commitOid": COMMIT})

    def do_GET(self) -> None:
        owner, name, *rest = self.path.partition("?")[0].strip("/").split("/")
        files = self.server.files.get(f"{owner}/{name}")
        code = {"X_Error_Code": "RepoNotFound" if files is None else "EntryNotFound"}
        if files is None or rest[:1] != ["resolve"] or rest[-1] not in files:
            return self.answer({"error": "not found"}, 404, **code)
        data = files[rest[-1]]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self.answer(data, ETag=etag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def net() -> siamkit.SiameseNet:
    torch.manual_seed(0)
    head = {"name": "mlp", "hidden": 8, "dim": 8}
    return siamkit.create_model("timm:test_resnet", pretrained=False, head=head, image_size=32)


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory) -> Path:
    return net.save_pretrained(tmp_path_factory.mktemp("hub") / "mine")


def test_what_is_pushed_comes_back(hub, folder, net, monkeypatch):
    card = (folder / "README.md").read_bytes()
    url = siamkit.push_to_hub(folder, "someone/birds", token=TOKEN, private=True)
    assert url == f"{hub.address}/someone/birds/commit/{COMMIT}"
    assert hub.created[0]["name"] == "birds"
    files = hub.files["someone/birds"]
    assert sorted(files) == [
        "README.md", "config.json", "model.safetensors", "siamkit.safetensors",
    ]  # fmt: skip
    for name in set(files) - {"README.md"}:
        assert files[name] == (folder / name).read_bytes()
    text = files["README.md"].decode()
    assert 'Embedder.from_pretrained("hf-hub:someone/birds")' in text
    assert 'create_model("hf-hub:someone/birds", pretrained=True' in text
    assert "\n# birds\n" in text and "mine" not in text
    assert (folder / "README.md").read_bytes() == card, "the folder stays as it is"

    images = torch.randn(2, 3, 32, 32)
    back = siamkit.from_pretrained("hf-hub:someone/birds")
    assert torch.equal(back.embed(images), net.embed(images))
    based = siamkit.create_model("timm:hf-hub:someone/birds", image_size=32)
    assert torch.equal(based.features(images), net.features(images))
    assert based.origin.weights == "pretrained: hf-hub:someone/birds"
    # And without the hub, from the client's cache.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    siamkit.Embedder.from_pretrained("hf-hub:someone/birds", device="cpu")


def test_a_download_that_is_damaged_is_refused(hub, folder):
    siamkit.push_to_hub(folder, "someone/birds", token=TOKEN)
    data = bytearray(hub.files["someone/birds"]["model.safetensors"])
    data[-1] ^= 1
    hub.files["someone/birds"]["model.safetensors"] = bytes(data)
    for load in (
        lambda: siamkit.from_pretrained("hf-hub:someone/birds"),
        lambda: siamkit.create_model("timm:hf-hub:someone/birds"),
    ):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: the file is damaged"):
            load()


def test_a_model_that_is_not_there(hub):
    with pytest.raises(CheckpointError, match=r"hf-hub:someone/none: the hub has no such model"):
        siamkit.from_pretrained("hf-hub:someone/none")
    hub.files["someone/empty"] = {"notes": b""}
    with pytest.raises(CheckpointError, match=r"the model has no config\.json"):
        siamkit.from_pretrained("hf-hub:someone/empty")


def test_nobody_is_logged_in(hub, folder):
    with pytest.raises(ConfigError, match=r"not logged in.*hf auth login.*HF_TOKEN"):
        siamkit.push_to_hub(folder, "someone/birds")
    with pytest.raises(ConfigError, match=r"not logged in"):
        siamkit.push_to_hub(folder, "someone/birds", token="hf_wrong")
    assert hub.files == {}


def test_the_token_has_no_right(hub, folder):
    with pytest.raises(ConfigError, match=r"hf-hub:google/birds: .*no permission.*under your own"):
        siamkit.push_to_hub(folder, "google/birds", token=TOKEN)


@pytest.mark.parametrize("name", ["", "a/b/c", "with space/x", "../x", "a--b/c"])
def test_names_that_are_none(hub, folder, name):
    with pytest.raises(ConfigError, match="not the name of a model on the hub"):
        siamkit.push_to_hub(folder, name, token=TOKEN)


def test_only_whole_folders_are_pushed(hub, folder, tmp_path):
    import shutil

    with pytest.raises(ConfigError, match="no such folder"):
        siamkit.push_to_hub(tmp_path / "none", "someone/birds", token=TOKEN)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="the file is damaged"):
        siamkit.push_to_hub(copy, "someone/birds", token=TOKEN)
    (copy / "README.md").unlink()
    shutil.copyfile(folder / "model.safetensors", copy / "model.safetensors")
    with pytest.raises(ConfigError, match="has no model card"):
        siamkit.push_to_hub(copy, "someone/birds", token=TOKEN)
    assert hub.files == {}


def test_the_connection_breaks_during_a_push(hub, folder, monkeypatch):
    def broken(*args, **kwargs):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", broken)
    with pytest.raises(ResourceError, match=r"cannot be pushed to the hub: .*reset by peer"):
        siamkit.push_to_hub(folder, "someone/birds", token=TOKEN)


def test_offline(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ResourceError, match="HF_HUB_OFFLINE is set; unset it"):
        siamkit.push_to_hub(folder, "someone/birds", token=TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(ResourceError, match=r"unreachable.*a machine that can reach the hub"):
        siamkit.push_to_hub(folder, "someone/birds", token=TOKEN)
    with pytest.raises(CheckpointError, match=r"hf-hub:a/b: cannot be fetched from .* unreachable"):
        siamkit.from_pretrained("hf-hub:a/b")


@pytest.mark.parametrize("endpoint, port", [
    ("https://hub.example", 443), ("http://hub.example", 80), ("https://hub.example:8443", 8443),
])  # fmt: skip
def test_a_hub_is_tried_at_the_port_of_its_address(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, port: int
) -> None:
    asked: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float) -> None:
        asked.append(address)
        raise OSError("nobody there")

    monkeypatch.setattr(hub_module, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert hub_module.out_of_reach(endpoint) == "hub.example is unreachable (nobody there)"
    assert asked == [("hub.example", port)]
