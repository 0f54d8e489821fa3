"""Damage to a finished run is refused, gone back from, or without effect: never a wrong result."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import siamkit
from siamkit import api
from siamkit.api.galleries import build_index, embed
from siamkit.config import decisive
from siamkit.data.digest import digest
from siamkit.data.load import load_data
from siamkit.errors import CheckpointError, DataError, ResourceError, SiamkitError
from siamkit.json_files import parsed, read_json, unsealed, write_json
from siamkit.report.html.gather import gather
from siamkit.runs import checkpoint
from siamkit.runs.directory import RunDir

RunValues = Callable[..., dict[str, Any]]

SAMPLE = 150  # flips of each file in the default suite
MOST = 20_000  # and in the slow one: all of the calibration and the config
ROOT = Path("checkpoints")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, values_of: RunValues) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "run"
    api.fit(values_of(folder, train={"epochs": 3}, freeze={"name": "stages", "warmup": 1}))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """Flip one bit of a file within the block."""
    whole = path.read_bytes()
    content = bytearray(whole)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


def bits_of(path: Path, sample: bool) -> Sequence[int]:
    every = range(8 * path.stat().st_size)
    most = SAMPLE if sample else MOST
    return random.Random(path.name).sample(every, min(most, len(every)))


def tensors_equal(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


sweep = pytest.mark.parametrize(
    "sample", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["sample", "all"]
)


@pytest.mark.slow
@sweep
def test_a_bit_of_the_calibration_is_refused_or_changes_nothing(run: Path, sample: bool) -> None:
    path = run / "calibration.json"
    whole = api.open_run(run).calibration()
    refused = 0
    for bit in bits_of(path, sample):
        with flipped(path, bit):
            try:
                assert api.open_run(run).calibration() == whole
            except CheckpointError as error:
                refused += 1
                assert "calibration.json" in str(error) and "siamkit.calibrate" in str(error)
    assert refused > 0.6 * len(bits_of(path, sample))


@sweep
def test_a_bit_of_the_config_is_refused_or_changes_no_result(run: Path, sample: bool) -> None:
    path = run / "config.yaml"
    whole = api.open_run(run).config
    for bit in bits_of(path, sample):
        with flipped(path, bit):
            try:
                opened = api.open_run(run)
                config = opened.config
            except SiamkitError as error:
                assert "config.yaml" in str(error) or ": data." in str(error)
                continue
            assert decisive(config) == decisive(whole)
            if (config.data.path, config.data.root) != (whole.data.path, whole.data.root):
                # Another folder, if there is one at all, must hold the same images.
                with suppress(DataError, CheckpointError):
                    found = load_data(config.data, config.train.seed).val
                    opened.require_images("val", found)
                    assert digest(found) == digest(load_data(whole.data, whole.train.seed).val)


def test_a_config_that_names_pruned_channels_which_the_run_has_not_is_refused(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("pruning: null", "pruning: n.json"))
    with pytest.raises(
        CheckpointError,
        match=r"config\.yaml: backbone\.pruning changed.*got .*n\.json.*allowed: no value",
    ):
        _ = api.open_run(run).config


def test_a_bit_of_a_manifest_is_gone_back_from(run: Path) -> None:
    newest, older, *_ = checkpoint.newest_first(run / ROOT)
    path = newest / "manifest.json"
    whole = checkpoint.load(newest)
    gone_back = 0
    for bit in bits_of(path, sample=True):
        with flipped(path, bit):
            saved, notice = checkpoint.latest_intact(run / ROOT)
            if notice is None:
                assert (saved.name, saved.frozen, saved.files) == (
                    whole.name, whole.frozen, whole.files,
                )  # fmt: skip
                continue
            gone_back += 1
            assert saved.name == older.name and "manifest.json" in notice
    assert gone_back > 0.6 * SAMPLE


@pytest.mark.slow
def test_no_bit_of_a_manifest_passes_its_seal(run: Path) -> None:
    """All bits, in memory: by files, this many would take a quarter of an hour."""
    content = (checkpoint.newest_first(run / ROOT)[0] / "manifest.json").read_bytes()
    whole = unsealed(parsed(content), "manifest")
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        with suppress(ValueError, CheckpointError):
            assert unsealed(parsed(bytes(damaged)), "manifest") == whole


@pytest.mark.slow
@sweep
def test_a_bit_of_another_record_is_refused_or_changes_nothing(run: Path, sample: bool) -> None:
    def held_out() -> Any:
        kept = api.open_run(run).held_out("val")
        assert kept is not None
        return kept.images, kept.epoch, kept.network, kept.embeddings.tolist()

    folder = run / ROOT / api.open_run(run).checkpoint_name()
    readers: dict[Path, Callable[[], Any]] = {
        run / "metrics.json": lambda: api.open_run(run).metrics,
        run / "embeddings/val.safetensors": held_out,
        folder / "state.json": lambda: api.open_run(run).best.state,
        run / ROOT / "BEST": lambda: api.open_run(run).checkpoint_name("best"),
        run / ROOT / "LATEST": lambda: api.open_run(run).checkpoint_name("last"),
    }
    for path, read in readers.items():
        whole = read()
        bits = bits_of(path, sample)
        for bit in bits if sample else bits[:2000]:
            with flipped(path, bit):
                try:
                    assert read() == whole
                except CheckpointError as error:
                    assert path.name in str(error)


def test_a_bit_of_the_event_log_is_left_out_and_said(run: Path) -> None:
    path = run / "events.jsonl"
    whole = api.open_run(run).log
    for bit in bits_of(path, sample=True):
        with flipped(path, bit):
            log = api.open_run(run).log
            plain = [{k: v for k, v in e.items() if k in whole.events[0]} for e in log.events]
            kept = [{k: v for k, v in e.items() if k in whole.events[0]} for e in whole.events]
            assert log.damaged or plain == kept


# --- from end to end -----------------------------------------------------------------------------


def test_every_way_to_use_a_run_refuses_a_config_that_changed(
    run: Path, image_folder: Path, tmp_path: Path
) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("image_size: 32", "image_size: 22"))
    image = image_folder / "class0/0.png"
    uses: list[Callable[[], Any]] = [
        lambda: siamkit.load_model(run),
        lambda: siamkit.load_embedder(run),
        lambda: siamkit.evaluate(run),
        lambda: siamkit.calibrate(run),
        lambda: embed(run, image, tmp_path / "e.npy"),
        lambda: build_index(run, image_folder, tmp_path / "index"),
        lambda: siamkit.save_pretrained(run, tmp_path / "net"),
        lambda: siamkit.inspect(run),
        lambda: siamkit.resume(run),
    ]
    for use in uses:
        with pytest.raises(CheckpointError, match=r"config data\.image_size changed") as caught:
            use()
        assert "config.yaml" in str(caught.value) and "got '22', allowed: 32" in str(caught.value)
    assert any("image_size changed" in text for text in siamkit.write_report(run)["notices"])


def test_comments_and_what_decides_nothing_may_be_edited(run: Path) -> None:
    path = run / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["data"]["workers"] = 1
    values["report"] = False
    path.write_text("# mine\n" + yaml.safe_dump(values, sort_keys=True))
    assert siamkit.load_model(run).embedding_dim == 8


def test_data_that_changed_is_not_taken_for_what_was_held_out(
    run: Path, image_folder: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(image_folder, tmp_path / "moved")
    path = run / "config.yaml"
    path.write_text(path.read_text().replace(str(image_folder), str(data)))
    assert siamkit.evaluate(run, device="cpu")["data"]["path"] == str(data), "moved, and the same"
    kept = api.open_run(run).held_out("val")
    assert kept is not None
    assert siamkit.calibrate(run, device="cpu").provenance.digest == kept.digest
    first, last = (data / kept.images.samples[i].key for i in (0, -1))
    whole = first.read_bytes()
    first.write_bytes(last.read_bytes())
    with pytest.raises(CheckpointError, match="the data has changed since the run"):
        siamkit.evaluate(run, device="cpu")
    first.write_bytes(whole)
    assert "threshold" in siamkit.evaluate(run, device="cpu")["data"]["chose"]
    first.unlink()
    with pytest.raises(CheckpointError, match="the data has changed since the run"):
        siamkit.evaluate(run, device="cpu")
    assert siamkit.evaluate(run, data, device="cpu")


def test_embeddings_of_another_network_are_not_used(run: Path, image_folder: Path) -> None:
    opened = api.open_run(run)
    kept = opened.held_out("val")
    assert kept is not None
    from dataclasses import replace

    replace(kept, network="another", embeddings=kept.embeddings[::-1]).save(opened.dir)
    assert api.open_run(run).held_out("val") is None
    before = opened.calibration()
    again = siamkit.calibrate(run, device="cpu")
    assert again.threshold == pytest.approx(before.threshold, abs=1e-3)


def test_a_threshold_that_was_damaged_is_fitted_again_with_a_word(run: Path) -> None:
    path = run / "calibration.json"
    before = api.open_run(run).calibration()
    path.write_text(path.read_text().replace('"threshold": 0.', '"threshold": 0.1'))
    notices: list[str] = []
    siamkit.resume(
        run, listeners=[lambda e: notices.append(e.data["text"]) if e.name == "notice" else None]
    )
    assert any("the threshold is fitted again" in text for text in notices)
    assert api.open_run(run).calibration() == before


@pytest.mark.parametrize("pointer", ["BEST", "LATEST"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"epoch-00001-step-00000003\n", None])
def test_pointers_decide_nothing(run: Path, pointer: str, content: bytes | None) -> None:
    path = run / ROOT / pointer
    whole = siamkit.load_model(run).state_dict()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    folders = [p.name for p in checkpoint.newest_first(run / ROOT)]
    assert tensors_equal(siamkit.load_model(run).state_dict(), whole)
    siamkit.resume(run)
    assert [p.name for p in checkpoint.newest_first(run / ROOT)] == folders


def test_a_lost_best_network_is_told_and_the_last_one_is_there(run: Path) -> None:
    opened = api.open_run(run)
    names = opened.checkpoint_name("best"), opened.checkpoint_name("last")
    if names[0] == names[1]:
        pytest.skip("the last epoch is the best one")
    path = run / ROOT / names[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    for use in (siamkit.load_model, siamkit.resume):
        with pytest.raises(CheckpointError, match=r"model\.safetensors.*the last epoch"):
            use(run)
    assert siamkit.load_model(run, "last").embedding_dim == 8


def test_a_damaged_manifest_in_a_resumed_run_costs_an_epoch_and_nothing_else(
    run: Path, trained: Path
) -> None:
    newest = checkpoint.newest_first(run / ROOT)[0]
    values = read_json(newest / "manifest.json")
    name = next(iter(values["frozen"]))
    values["frozen"][name] = values["frozen"][name].replace("1", "2")
    write_json(newest / "manifest.json", values)
    with pytest.raises(CheckpointError, match=r"manifest\.json.*siamkit\.resume"):
        siamkit.load_model(run, "last")
    notices: list[str] = []
    siamkit.resume(
        run, listeners=[lambda e: notices.append(e.data["text"]) if e.name == "notice" else None]
    )
    assert any("manifest.json" in text and "going back to" in text for text in notices)
    for which in ("best", "last"):
        mine, its = (siamkit.load_model(r, which).state_dict() for r in (run, trained))
        assert tensors_equal(mine, its)


def test_an_event_that_lacks_a_key_does_not_stop_the_report(run: Path) -> None:
    here = RunDir.open(run)
    for name in ("epoch_end", "step", "phase_start", "engine", "notice", "non_finite"):
        here.append_event(name, {"epoch": "three"})
    here.append_event("run_start", {"finished_epochs": None})
    with (run / "events.jsonl").open("a") as file:
        file.write('{"time": true, "event": []}\n' + "[" * 100_000 + "\n")
        file.write('{"time": 1.0, "event": "notice", "text": "this line has no seal"}\n')
    notices = siamkit.write_report(run)["notices"]
    assert any("10 unreadable lines of events.jsonl left out" in text for text in notices)


FILES = [
    "config.yaml", "events.jsonl", "metrics.json", "calibration.json", "plugins.json",
    "embeddings/val.safetensors", "checkpoints/BEST", "checkpoints/LATEST",
]  # fmt: skip


def loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo, loop], ids=["folder", "fifo", "loop"])
@pytest.mark.timeout(120)
def test_whatever_lies_in_a_files_place_nothing_hangs_and_errors_are_ours(
    run: Path, tmp_path: Path, file: str, put: Callable[[Path], object]
) -> None:
    path = run / file
    path.unlink()
    put(path)
    uses: dict[str, Callable[[], Any]] = {
        "verify": lambda: siamkit.load_embedder(run, device="cpu").calibration,
        "calibrate": lambda: siamkit.calibrate(run, device="cpu"),
        "report": lambda: siamkit.write_report(run, tmp_path / "report.html"),
        "resume": lambda: siamkit.resume(run),
    }
    for use in uses.values():
        try:
            use()
        except (CheckpointError, ResourceError) as error:
            assert path.name in str(error) and error.exit_code in (4, 7)


def test_a_run_of_somebody_else_may_be_read_or_refuses_with_its_path(run: Path) -> None:
    for folder in run.parents:
        if "pytest-of" in str(folder):
            folder.chmod(0o755)
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    siamkit.load_embedder(run, device="cpu")  # imports what somebody else may be unable to read
    siamkit.load_model(run)
    os.seteuid(65534)
    try:
        assert siamkit.load_embedder(run, device="cpu").calibration
        with pytest.raises(ResourceError, match=r"calibration\.json: cannot write: Permission"):
            siamkit.calibrate(run)
        with pytest.raises(ResourceError, match="cannot write: Permission denied"):
            siamkit.resume(run)
    finally:
        os.seteuid(0)
    (run / "calibration.json").chmod(0o600)
    (run / ROOT).chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(CheckpointError, match="checkpoints: cannot read: Permission denied"):
            siamkit.load_model(run)
    finally:
        os.seteuid(0)


def test_the_report_says_that_it_leaves_the_held_out_images_out(run: Path) -> None:
    path = run / "embeddings/val.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    notices = siamkit.write_report(run)["notices"]
    assert any("held-out images are left out" in n and "val.safetensors" in n for n in notices)


def test_the_report_reads_all_of_an_undamaged_run(run: Path) -> None:
    found = gather(api.open_run(run))
    assert found.metrics and found.held is not None
    assert [text for text in found.notices if "random weights" not in text] == []
