"""The arithmetic of the freeze engine's benchmark, and the images and batches it hands out."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from siamkit.data.sampler import pk_batches


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import ``peers.<name>``, as the benchmark does, from its own folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return lambda name: importlib.import_module(f"peers.{name}")


def test_a_scaled_run_pays_its_start_once_and_each_visit_at_its_fastest_epoch(peers: Any) -> None:
    measure = peers("measure")
    run = measure.Run(seconds=50.0, peak=0, epochs=(24.0, 20.0), visits=100)
    assert measure.scaled(run, epochs=2, visits=100) == 6 + 2 * 20
    assert measure.scaled(run, epochs=10, visits=500) == 6 + 10 * 5 * 20


def test_the_first_epoch_is_left_out_where_there_are_more(peers: Any) -> None:
    steady = peers("measure").steady
    assert steady((9.0, 1.0, 3.0, 2.0)) == 2.0
    assert steady((9.0,)) == 9.0


def test_the_cost_of_an_image_is_free_of_what_each_run_costs(peers: Any) -> None:
    cost = peers("measure").cost_per_image
    for start in (0.0, 12.0):
        assert cost((100, start + 1.0), (1_100, start + 11.0)) == pytest.approx(0.01)


def test_verdicts(peers: Any) -> None:
    row = peers("table").Row
    assert row("w", 2, 30, "n", at_least=15).passed is True
    assert row("w", 2, 29, "n", at_least=15).passed is False
    assert row("w", 1.25, 1, "n", at_most=1.25).passed is True
    assert row("w", 1.26, 1, "n", at_most=1.25).passed is False
    assert row("w", 1, 1, "n").passed is None
    assert row("w", 4.2, 1, "n", at_most=1.2, plus=3).passed is True
    assert row("w", 4.3, 1, "n", at_most=1.2, plus=3).passed is False
    assert row("w", 1, 1, "n", at_most=1.2, plus=3).bar == "<= 1.2x + 3 s"
    assert row("w", 1, -0.1, "n", at_most=1.25).passed is None


def test_the_table_states_ratio_and_verdict(peers: Any) -> None:
    table = peers("table")
    rows = [table.Row("slow", 4, 2, "x", at_most=1.5), table.Row("fast", 2, 300, "y", at_least=15)]
    lines = table.markdown(rows, "Caption").splitlines()
    assert lines[0] == "Caption"
    assert lines[-2] == "| slow | x | <= 1.5x | 4 s | 2 s | 2x | **missed** |"
    assert lines[-1] == "| fast | y | >= 15x | 2 s | 300 s | 150x | met |"


def test_classes_are_as_many_as_go_without_a_rest(peers: Any) -> None:
    count = peers("data").class_count
    assert count(512, 204, 4) == 128
    assert count(512, 44, 4) == 32
    assert count(20_000, 204, 4) == 200
    assert count(14, 100, 2) == 7


def test_images_differ_all_of_them_and_are_the_same_each_time(
    peers: Any, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = peers("data")
    monkeypatch.setattr(data, "VAL_CLASSES", 3)

    def build(name: str) -> list[tuple[str, bytes]]:
        root = data.build(image_folder, tmp_path / name, 40, per_batch_class=4, picture=(64, 48))
        files = sorted(root.rglob("*.jpg"))
        return [(file.relative_to(root).as_posix(), file.read_bytes()) for file in files]

    first = build("a")
    assert first == build("b")
    assert len({content for _, content in first}) == len(first) == 40 + 3 * 2
    parts = {part: set() for part in ("train", "val")}
    for name, _ in first:
        part, label, _ = name.split("/")
        parts[part].add(label)
    assert len(parts["train"]) == 5 and len(parts["val"]) == 3
    assert not parts["train"] & parts["val"]
    with Image.open(tmp_path / "a" / first[0][0]) as image:
        assert image.size == (64, 48)


def test_a_device_is_busy_for_as_long_as_one_kernel_or_more_runs(peers: Any) -> None:
    busy = peers("gpu_idle").busy
    assert busy([]) == 0
    assert busy([(5, 7), (0, 2), (1, 3), (1, 1.5)]) == 5
    assert busy([(0, 10), (2, 3), (10, 11)]) == 11


def test_the_idle_share_is_measured_in_a_part_of_a_run(peers: Any) -> None:
    torch = pytest.importorskip("torch")
    values = {"images": "", "backbone": "", "weights": "", "view": {}, "epochs": 2}
    gpu_idle = peers("gpu_idle")
    watch = gpu_idle.Watch(peers("task").Task(**values))

    def tell(name: str, **data: int) -> None:
        watch(SimpleNamespace(name=name, data=data))
        torch.ones(300, 300) @ torch.ones(300, 300)

    tell("engine")
    tell("fill", done=1, total=2)
    tell("fill", done=2, total=2)
    for epoch in range(1, 5):
        tell("engine")
        tell("fill", done=2, total=2)
        for step in range(1, 4):
            tell("step", epoch=epoch, epoch_step=step, epoch_steps=3)
    assert list(watch.idle) == [gpu_idle.FILL, gpu_idle.HEAD, gpu_idle.STAGES]
    assert all(0 < share < 1 for share in watch.idle.values())


def test_batches_are_siamkits_own_and_move_on_with_each_iteration(peers: Any) -> None:
    task_module = peers("task")
    labels = [i // 6 for i in range(48)]
    values = {"images": "", "backbone": "", "weights": "", "view": {}, "epochs": 2}
    batches = task_module.batch_sampler(task_module.Task(**values, batch=8, per_class=2), labels)
    shape = {"batch_size": 8, "images_per_class": 2, "seed": 0}
    assert [list(batches), list(batches)] == [
        pk_batches(labels, **shape, epoch=epoch) for epoch in range(2)
    ]
    few = task_module.Batches(task_module.Task(**values, batch=8, per_class=2, steps=2), labels)
    assert list(few) == pk_batches(labels, **shape, epoch=0)[:2]
    assert (len(few), few.visits) == (2, 16)
