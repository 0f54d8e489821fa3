"""The example loops: plain PyTorch, Lightning, Accelerate; each with the cache and without."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from siamkit.engine.cache.budget import list_stores
from siamkit.freezing.proof import fingerprint

LOOPS = Path(__file__).parent.parent / "examples" / "loops"
EPOCHS = 3  # two of the head alone, one of the last stage too
NETWORK = "test_resnet"


def needs(name):
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")


SCRIPTS = [
    "plain",
    pytest.param("lightning_module", marks=needs("lightning")),
    pytest.param("accelerate_loop", marks=needs("accelerate")),
]


def run(script, folder, patch):
    """Run a script as people do; return the results, networks and first weights of its two runs."""
    patch.syspath_prepend(str(LOOPS))
    patch.delitem(sys.modules, "shared", raising=False)
    patch.setattr(sys, "argv", [script, str(folder), "--epochs", str(EPOCHS)])
    import shared

    runs = SimpleNamespace(nets=[], first=[], results=[])
    setup, compare = shared.setup, shared.compare

    def smaller(folder, epochs):
        images, net, *rest = setup(folder, epochs, NETWORK)
        runs.nets.append(net)
        runs.first.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        return images, net, *rest

    patch.setattr(shared, "setup", smaller)
    patch.setattr(shared, "compare", lambda main: runs.results.extend(compare(main)))
    try:
        runpy.run_path(str(LOOPS / f"{script}.py"), run_name="__main__")
    finally:
        sys.modules.pop("shared", None)
    return runs


@pytest.fixture(scope="module")
def plain(image_folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIAMKIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return run("plain", image_folder, patch)


# Lightning notes that what is frozen is in eval mode, and that no workers load images.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(in eval mode|does not have many workers).*")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_loop_gives_the_same_with_the_cache_and_without(
    script, plain, image_folder, tmp_path, monkeypatch, capsys
):
    runs = run(script, image_folder, monkeypatch)
    (live, losses), (cached, cached_losses) = runs.results
    assert live == cached == plain.results[0][0]
    assert len(losses) == 2 * EPOCHS
    assert losses == pytest.approx(plain.results[0][1], rel=1e-5)
    assert cached_losses == pytest.approx(losses, rel=2e-3)
    assert cached_losses != losses, "rows in half precision leave a trace: was the cache used?"
    assert sorted(s.description["boundary"] for s in list_stores(tmp_path / "cache")) == [
        "layer3", "layer4",
    ]  # fmt: skip
    for net, first in zip(runs.nets, runs.first, strict=True):
        now = net.state_dict()
        moved = {name for name, tensor in now.items() if not torch.equal(tensor, first[name])}
        assert moved.isdisjoint(live) and {"fc.weight", "layer4.0.conv1.weight"} <= moved
        assert {name: fingerprint(first[name]) for name in live} == live
    assert any(n.endswith("running_mean") for n in live) and "fc.weight" not in live
    out = capsys.readouterr().out
    assert re.search(r"\n\d+\.\d\d times as fast with the cache; the same frozen tensors\n", out)


@pytest.mark.slow
@needs("accelerate")
@pytest.mark.parametrize("cached", [True, False])
def test_two_processes_train_one_network(image_folder, tmp_path, cached):
    script = tmp_path / "two.py"
    script.write_text(
        f"""
import sys
sys.path.insert(0, {str(LOOPS)!r})
import shared, torch
setup, nets = shared.setup, []
def smaller(folder, epochs):
    made = setup(folder, epochs, {NETWORK!r})
    nets.append(made[1])
    return made
shared.setup = smaller
import accelerate_loop, json, torch.distributed as dist
from pathlib import Path
from siamkit.freezing.proof import fingerprint
frozen, losses = accelerate_loop.main({str(image_folder)!r}, {EPOCHS}, {cached})
weights = {{name: fingerprint(tensor) for name, tensor in nets[0].state_dict().items()}}
result = json.dumps([dist.get_world_size(), losses, frozen, weights])
Path({str(tmp_path)!r}, f"{{dist.get_rank()}}.json").write_text(result)
dist.destroy_process_group()
"""
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    a, b = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert a[0] == b[0] == 2 and len(a[1]) == EPOCHS
    assert a[1] != b[1], "each process had batches of its own"
    assert a[2:] == b[2:], "the two networks are equal, what is frozen and what trained"
