"""``siamkit cache``."""

import io
import os
import subprocess
import sys

import pytest
import torch

from siamkit.engine.cache.store import open_store

MADE = {
    "backbone": "resnet50[/bold]",
    "boundary": "layer4",
    "image_size": [224, 160],
    "dtype": "float16",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A cache of two stores; the second was used ten days ago."""
    root = tmp_path / "features"
    monkeypatch.setenv("SIAMKIT_CACHE_DIR", str(root))
    for days, description in ((0, MADE), (10, {"else": 1})):
        with open_store(root, description, (8,), torch.float16) as store:
            with store.filling() as fill:
                fill.add([bytes([i]) * 16 for i in range(5)], torch.zeros(5, 8))
            path = store.path
        time = (path / "store.json").stat().st_mtime - days * 86_400
        os.utime(path / "store.json", (time, time))
    return root


def stores(cli, *args):
    return cli("cache", "list", *args, "--json").json["stores"]


def test_list_tells_what_is_cached(cli, root):
    done = cli("cache", "list")
    assert done.code == 0
    first, second = (line for line in done.out.splitlines() if " 5  " in line)
    assert "resnet50[/bold] → layer4, 224 x 160 px, float16" in first
    assert "unknown" in second
    assert done.out.splitlines()[-1].startswith("2 stores, ")
    assert done.out.splitlines()[-1].endswith(f" kB in {root}")


def test_list_as_json(cli, root):
    result = cli("cache", "list", "--json").json
    assert result["schema"] == "siamkit.cache/1"
    assert result["folder"] == str(root)
    first, second = result["stores"]
    assert first["description"] == MADE
    assert (first["rows"], first["in_use"], first["dtype"]) == (5, False, "F16")
    assert first["last_used"] > second["last_used"]
    assert result["bytes"] == first["bytes"] + second["bytes"] > 8192


def test_an_empty_cache_is_no_error(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("SIAMKIT_CACHE_DIR", str(tmp_path / "none"))
    for verb in (["list"], ["clear"], ["prune", "--max-gb", "1"]):
        done = cli("cache", *verb)
        assert done.code == 0
        assert str(tmp_path / "none") in done.out
    assert not (tmp_path / "none").exists()


def test_another_folder_is_named_or_refused(cli, root, tmp_path, monkeypatch):
    monkeypatch.delenv("SIAMKIT_CACHE_DIR")
    assert len(stores(cli, "--cache-dir", root)) == 2
    done = cli("cache", "list", "--cache-dir", tmp_path / "typo")
    assert done.code == 2
    assert "--cache-dir: no such folder" in done.err


def test_prune_by_age(cli, root):
    done = cli("cache", "prune", "--older-than", 5)
    assert "removed 1 store (4." in done.out
    assert "; 1 store left (4." in done.out
    assert [store["description"] for store in stores(cli)] == [MADE]


def test_prune_by_size(cli, root):
    result = cli("cache", "prune", "--max-gb", "5e-6", "--json").json
    assert result["schema"] == "siamkit.cache-removed/1"
    assert [store["description"] for store in result["removed"]] == [{"else": 1}]
    assert [store["description"] for store in result["left"]] == [MADE]


def test_prune_wants_to_know_what(cli, root):
    done = cli("cache", "prune")
    assert done.code == 2
    assert "give --max-gb or --older-than" in done.err
    assert len(stores(cli)) == 2


def test_clear_asks(cli, root, monkeypatch):
    done = cli("cache", "clear")
    assert done.code == 2
    assert "add --yes" in done.err
    terminal = io.StringIO("n\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    done = cli("cache", "clear")
    assert done.code == 130
    assert "Remove 2 stores" in done.err
    assert len(stores(cli)) == 2


def test_clear_removes_all_but_what_is_in_use(cli, root):
    with open_store(root, MADE, (8,), torch.float16):
        done = cli("cache", "clear", "--yes")
        assert done.code == 0
        assert "removed 1 store" in done.out
        assert "1 store left" in done.out and ", 1 in use)" in done.out
        (left,) = stores(cli)
        assert left["in_use"] and left["description"] == MADE
    result = cli("cache", "clear", "-y", "--json").json
    assert (len(result["removed"]), result["left"]) == (1, [])
    assert [path.name for path in root.iterdir()] == [".lock"]


def test_it_needs_no_torch(root):
    program = (
        "import sys; from siamkit.cli.app import main; main(['cache', 'list']); "
        "main(['cache', 'clear', '--yes']); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("flag", ["--max-gb", "--older-than"])
@pytest.mark.parametrize("value", ["1e400", "1e308", "inf", "nan"])
def test_a_limit_that_is_no_number_is_refused(cli, root, flag, value):
    done = cli("cache", "prune", flag, value)
    assert done.code == 2
    assert flag in done.err and "Traceback" not in done.err
    assert len(stores(cli)) == 2
