import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from siamkit.batches import Batch
from siamkit.config import AugmentConfig
from siamkit.data.class_folders import class_images
from siamkit.data.loader import Loader, ViewDataset, default_workers
from siamkit.data.views import EvalView, TrainView
from siamkit.errors import DataError, ResourceError, SiamkitError
from siamkit.interfaces import Preprocessing
from siamkit.portable.decode import Decoding, decode
from siamkit.portable.folders import scan

PRE = Preprocessing(size=(16, 16))
BATCHES = [[0, 5, 1], [7, 2], [3, 3, 6, 4]]


@pytest.fixture
def images(make_images):
    return class_images(scan(make_images({"a": 4, "b": 4})))


def dataset(images, seed=0, **augment):
    return ViewDataset(images, TrainView(PRE, AugmentConfig(**augment)), seed)


def processes(loader):
    return loader._loader._iterator._workers


def gone(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


# --- what comes out ------------------------------------------------------------------------------


def test_a_view_is_a_function_of_image_seed_and_index(images):
    data = dataset(images)
    assert torch.equal(data[3, 2], dataset(images)[3, 2])
    assert not torch.equal(data[3, 0], data[3, 2])
    assert not torch.equal(data[3, 0], dataset(images, seed=1)[3, 0])
    assert data.seed(3, 0) != data.seed(3, 2)


def test_without_augmentation_all_views_are_one(images):
    data = dataset(images, preset="none")
    assert data.seed(3, 0) is None and torch.equal(data[3, 0], data[3, 2])
    assert data.identity == ViewDataset(images, EvalView(PRE), 0).identity
    assert data.identity != dataset(images).identity


def test_a_large_jpeg_keeps_the_pixels_that_the_smallest_crop_needs(tmp_path):
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.effect_noise((256, 256), 90).convert("RGB").save(tmp_path / name)
    found = class_images(scan(tmp_path))
    plain, path = ViewDataset(found, EvalView(PRE), 0), tmp_path / "a/1.jpg"
    # 16 px, seen through a crop of 0.875, need 16 / 0.875 px of the image; it keeps twice that.
    assert torch.equal(plain[0, 0], EvalView(PRE)(decode(path, Decoding(least=37))))
    assert not torch.equal(plain[0, 0], EvalView(PRE)(decode(path)))
    # A crop of a sixteenth of the area needs four times as many pixels per side.
    augment = AugmentConfig(crop_scale=(1 / 16, 1), crop_ratio=(1, 1))
    view, random = TrainView(PRE, augment), ViewDataset(found, TrainView(PRE, augment), 0)
    image = decode(path, Decoding(least=128))
    assert image.size == (128, 128)
    assert torch.equal(random[0, 1], view(image, random.seed(0, 1)))


def test_images_get_views_of_their_own(make_images):
    root = make_images({"a": 1, "b": 1})
    (root / "b/0.png").write_bytes((root / "a/0.png").read_bytes())
    data = dataset(class_images(scan(root)))
    assert not torch.equal(data[0, 0], data[1, 0])


def test_the_evaluation_view_is_always_the_same(images):
    data = ViewDataset(images, EvalView(PRE), 0)
    assert torch.equal(data[0, 0], data[0, 9])


def test_batches_are_what_was_asked_for(images):
    data = dataset(images)
    with Loader(data) as loader:
        batches = list(loader.batches(BATCHES, view=3))
    assert [batch.indices.tolist() for batch in batches] == BATCHES
    assert [batch.labels.tolist() for batch in batches] == [[0, 1, 0], [1, 0], [0, 0, 1, 1]]
    assert [len(batch) for batch in batches] == [3, 2, 4]
    assert batches[0].inputs.shape == (3, 3, 16, 16)
    assert torch.equal(batches[1].inputs[0], data[7, 3])


def test_results_do_not_depend_on_the_number_of_workers(images):
    runs = []
    for workers in (0, 1, 2):
        with Loader(dataset(images), workers) as loader:
            runs.append([b for epoch in (0, 4) for b in loader.batches(BATCHES, epoch)])
    for run in runs[1:]:
        for batch, expected in zip(run, runs[0], strict=True):
            assert torch.equal(batch.inputs, expected.inputs)
            assert torch.equal(batch.labels, expected.labels)
            assert torch.equal(batch.indices, expected.indices)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_callers_random_state_is_untouched(images, workers):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with Loader(dataset(images), workers) as loader:
        list(loader.batches(BATCHES))
    assert torch.equal(torch.rand(3), expected)


def test_batches_move_between_devices(images):
    batch = Batch(torch.ones(2, 3, 4, 4), torch.tensor([0, 1]), torch.tensor([5, 6]))
    moved = batch.to("meta", non_blocking=True)
    assert moved.inputs.is_meta and moved.labels.is_meta and moved.indices.is_meta
    assert moved.inputs.shape == (2, 3, 4, 4)


# --- workers -------------------------------------------------------------------------------------


def test_workers_live_from_epoch_to_epoch_and_end_with_the_loader(images):
    with Loader(dataset(images), 2) as loader:
        list(loader.batches(BATCHES, 0))
        pids = [worker.pid for worker in processes(loader)]
        list(loader.batches(BATCHES[:1], 1))
        assert [worker.pid for worker in processes(loader)] == pids
    assert gone(pids)
    loader.close()  # a second time does no harm
    with loader:
        assert len(list(loader.batches(BATCHES))) == 3


def test_an_iteration_may_be_left_early(images):
    with Loader(dataset(images), 2) as loader:
        next(loader.batches(BATCHES * 5))
        batches = list(loader.batches(BATCHES[1:], 1))
    assert [batch.indices.tolist() for batch in batches] == BATCHES[1:]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iteration_that_another_replaced_is_an_error(images, workers):
    with Loader(dataset(images), workers) as loader:
        first = loader.batches(BATCHES)
        next(first)
        next(loader.batches(BATCHES))
        with pytest.raises(SiamkitError, match="one iteration at a time"):
            next(first)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_come_out_as_they_went_in_and_the_loader_lives_on(images, workers):
    bad = images.samples[2].path
    content = bad.read_bytes()
    bad.write_bytes(content[:-40])
    with Loader(dataset(images), workers) as loader:
        with pytest.raises(DataError) as caught:
            list(loader.batches(BATCHES))
        assert type(caught.value) is DataError
        assert caught.value.where == str(bad)
        assert caught.value.hint
        assert str(caught.value).startswith(f"{bad}: cannot read the image: ")
        bad.write_bytes(content)
        assert len(list(loader.batches(BATCHES))) == 3


class Broken(EvalView):
    def __call__(self, image, seed):
        raise RuntimeError("a bug")


@pytest.mark.parametrize("workers", [0, 1])
def test_other_errors_stay_what_they_are(images, workers):
    with Loader(ViewDataset(images, Broken(PRE), 0), workers) as loader:
        with pytest.raises(RuntimeError, match="a bug"):
            list(loader.batches(BATCHES))


class Slow(EvalView):
    seconds = 0.05

    def __call__(self, image: Image.Image, seed: int = 0) -> torch.Tensor:
        time.sleep(self.seconds)
        return super().__call__(image)


class Slower(Slow):
    seconds = 1


class Stuck(Slow):
    seconds = 60


@pytest.mark.slow
def test_a_worker_killed_while_the_caller_waits_is_an_error_and_not_a_hang(images):
    start = time.monotonic()
    with Loader(ViewDataset(images, Slower(PRE), 0), 2) as loader:
        list(loader.batches([]))
        command = f"sleep 0.3; kill -9 {processes(loader)[1].pid}"
        with subprocess.Popen(command, shell=True):
            with pytest.raises(ResourceError, match=r"images died: .*; .*fewer workers") as caught:
                next(loader.batches(BATCHES))
    assert caught.value.exit_code == 7
    assert time.monotonic() - start < 10


def test_a_stuck_worker_is_killed(images, monkeypatch, request):
    # A shell's background jobs begin with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    # How long torch waits for a worker that does not end: 5 s.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
    with Loader(ViewDataset(images, Stuck(PRE), 0), 1) as loader:
        list(loader.batches([]))
        pids = [worker.pid for worker in processes(loader)]
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            next(loader.batches(BATCHES))
    assert gone(pids)


def test_a_worker_that_ends_because_the_run_was_stopped_is_no_fault_of_the_worker(images):
    class Stopped(Exception):
        pass

    def check():
        if killed:
            raise Stopped

    killed = []
    loader = Loader(dataset(images), 1, check=check)
    with pytest.raises(Stopped):
        next(loader.batches(BATCHES * 20))
        for worker in processes(loader):
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
        list(loader.batches(BATCHES * 20))


def test_a_worker_killed_while_the_caller_computes_is_the_same_error(images):
    with pytest.raises(ResourceError, match="a worker process that loads images died"):
        with Loader(dataset(images), 1) as loader:
            next(loader.batches(BATCHES * 20))
            pids = [worker.pid for worker in processes(loader)]
            os.kill(pids[0], signal.SIGKILL)
            time.sleep(5)
            pytest.fail("nobody noticed")
    assert gone(pids)


def test_workers_outlive_the_signals_that_stop_a_run(images):
    with Loader(ViewDataset(images, Slow(PRE), 0), 1) as loader:
        batches = loader.batches(BATCHES * 2)
        next(batches)
        for name in (signal.SIGINT, signal.SIGTERM):
            os.kill(processes(loader)[0].pid, name)
        assert len(list(batches)) == 5


@pytest.mark.parametrize("cores, device, images, workers", [
    (1, "cpu", 10_000, 0), (2, "cpu", 10_000, 0), (3, "cpu", 10_000, 2),
    (4, "cpu", 10_000, 3), (64, "cpu", 10_000, 8),
    (1, "cuda", 10_000, 1), (2, "cuda", 10_000, 1), (64, "cuda:1", 100, 2), (64, "cpu", 1, 1),
])  # fmt: skip
def test_the_number_of_workers_follows_cores_device_and_images(
    monkeypatch, cores, device, images, workers
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert default_workers(images, device) == workers
