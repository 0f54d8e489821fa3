"""The verbs that take an exported model in place of a run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import siamkit
from siamkit.portable.manifest import MANIFEST

WITHOUT_TORCH = """
import json, sys

class NoTorch:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "pytorch_metric_learning"):
            raise ImportError(f"{name} was imported")

sys.meta_path.insert(0, NoTorch())
from siamkit.cli.app import main
for args in json.loads(sys.argv[1]):
    print(args[0], main(args), file=sys.stderr)
"""


@pytest.fixture
def pairs(image_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(image_folder, tmp_path / "images")
    path = tmp_path / "pairs.csv"
    one, other, third = (f"images/class{name}.png" for name in ("0/0", "0/1", "1/0"))
    path.write_text(f"a,b,same\n{one},{other},1\n{one},{third},0\n")
    return path


@pytest.mark.slow
def test_verify_embed_index_search_and_evaluate_run_without_torch(
    exported_run, image_folder, pairs, tmp_path
):
    one, other = image_folder / "class0/0.png", image_folder / "class1/1.png"
    model, index = exported_run[1], tmp_path / "index"
    commands = [
        ["verify", model, one, other],
        ["verify", model, one, other, "--json"],
        ["verify", model, "--pairs", pairs, "-o", tmp_path / "verdicts.csv"],
        ["embed", model, image_folder, "-o", tmp_path / "out.npy"],
        ["index", model, image_folder, "-o", index],
        ["index", model, image_folder, "-o", tmp_path / "cells", "--kind", "faiss"],
        ["search", index, one, "-k", "3"],
        ["search", index, one, "--run", model, "--json"],
        ["evaluate", model, image_folder],
        ["evaluate", model, "sample", "--seed", "1", "--json"],
    ]
    args = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, args], capture_output=True, text=True, check=True
    )
    codes = [line for line in done.stderr.splitlines() if line.rpartition(" ")[2].isdigit()]
    assert codes == [f"{command[0]} 0" for command in commands], done.stderr
    assert np.load(tmp_path / "out.npy").shape == (48, 8)
    assert len((tmp_path / "verdicts.csv").read_text().splitlines()) == 3


def test_this_check_notices_an_import(exported_run, image_folder):
    args = json.dumps([["verify", str(exported_run[0]), *[str(image_folder / "class0/0.png")] * 2]])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, args], capture_output=True, text=True, check=True
    )
    assert "verify 1" in done.stderr and "torch" in done.stderr


def test_the_results_are_those_of_the_run(cli, exported_run, image_folder, pairs, tmp_path):
    run, model = exported_run
    one, other = image_folder / "class0/0.png", image_folder / "class0/1.png"

    def both(verb, *words) -> tuple[dict, dict]:
        return tuple(cli(verb, place, *words, "--device", "cpu", "--json").json
                     for place in (run, model))  # fmt: skip

    ours, theirs = both("verify", one, other)
    assert list(ours) == list(theirs) and ours["same"] == theirs["same"]
    assert ours["score"] == pytest.approx(theirs["score"], abs=5e-6)
    ours, theirs = both("verify", "--pairs", pairs)
    assert ours["errors"] == theirs["errors"] and ours["pairs"] == theirs["pairs"] == 2
    for place, name in ((run, "run"), (model, "model")):
        cli("index", place, image_folder, "-o", tmp_path / name, "--device", "cpu")
    found = [cli("search", tmp_path / name, one, "-k", "4", "--json").json
             for name in ("run", "model")]  # fmt: skip
    paths = [[n["path"] for n in one["queries"][0]["neighbours"]] for one in found]
    assert paths[0] == paths[1] and list(found[0]) == list(found[1])
    # A float32 model has the fingerprint of its run, so each searches the other's index.
    crossed = cli("search", tmp_path / "run", one, "-k", "4", "--run", model, "--json").json
    assert [n["path"] for n in crossed["queries"][0]["neighbours"]] == paths[0]


def test_evaluate_measures_the_exported_model(cli, exported_run, image_folder):
    run, model = exported_run
    ours = cli("evaluate", model, image_folder, "--json").json
    theirs = cli("evaluate", run, image_folder, "--device", "cpu", "--json").json
    assert ours["run_dir"] == str(model) and ours["which"] is None
    assert ours["retrieval"]["recall@1"] == pytest.approx(theirs["retrieval"]["recall@1"])
    assert ours["verification"]["at_threshold"] == theirs["verification"]["at_threshold"]
    refused = cli("evaluate", model)
    assert refused.code == 2 and "has no data of its own" in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda"], "--device: an exported model runs on the CPU, got 'cuda'"),
        (["--last"], "--last: cannot be used with an exported model"),
        (["--workers", "2"], "--workers: cannot be used with an exported model"),
    ],
)
def test_options_without_a_meaning_are_refused(words, message, cli, exported_run, image_folder):
    done = cli("embed", exported_run[1], image_folder, "-o", "never.npy", *words)
    assert done.code == 2 and message in done.err and not Path("never.npy").exists()


def test_a_damaged_model_is_refused_by_every_verb(cli, exported_run, image_folder, tmp_path):
    model = shutil.copytree(exported_run[1], tmp_path / "model")
    one = image_folder / "class0/0.png"
    cli("index", model, image_folder / "class0", "-o", tmp_path / "index")
    content = bytearray((model / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 4
    (model / "model.onnx").write_bytes(content)
    for words in (
        ["verify", model, one, one],
        ["embed", model, one, "-o", tmp_path / "x.npy"],
        ["index", model, one, "-o", tmp_path / "y"],
        ["search", tmp_path / "index", one],
        ["evaluate", model, image_folder],
    ):
        done = cli(*words)
        assert done.code == 4, words
        assert "model.onnx: does not match export.json" in done.err and "Traceback" not in done.err
    text = (model / MANIFEST).read_text()
    (model / MANIFEST).write_text(text.replace('"format": 1', '"format": 2', 1))
    done = cli("verify", model, one, one)
    assert done.code == 4 and "another version of the format, got 2, allowed: 1" in done.err


def test_the_functions_in_python_take_an_exported_model_too(exported_run, image_folder, tmp_path):
    model = exported_run[1]
    siamkit.build_index(model, image_folder, tmp_path / "index")
    assert len(siamkit.load_index(tmp_path / "index")) == 48
    opened = siamkit.ExportedModel(model)
    assert siamkit.evaluate(opened, image_folder)["run_dir"] is None
    with pytest.raises(siamkit.SiamkitError, match=r"siamkit\.ExportedModel\(FOLDER\) opens it"):
        siamkit.load_embedder(model)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "timm"])
def test_a_model_that_was_exported_for_torch_is_an_embedder(
    format, exported_run, image_folder, tmp_path
):
    run, target = exported_run[0], tmp_path / "torch"
    siamkit.export(run, target, format=format)
    ours, theirs = (siamkit.load_embedder(place, device="cpu") for place in (target, run))
    one = image_folder / "class0/0.png"
    assert np.allclose(ours.embed(one), theirs.embed(one))
    assert ours.calibration.threshold == theirs.calibration.threshold
    assert ours.decoding == theirs.decoding
    path = target / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(siamkit.SiamkitError, match="does not match export"):
        siamkit.load_embedder(target)
