import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamkit.portable.decode import RGB, decode, prepare, with_decoded
from siamkit.portable.looking import look, values_of
from siamkit.portable.pixel_budget import Claim, PixelBudget, decoded_at_once
from siamkit.portable.threads import in_threads


def image_of(pixels: int) -> Image.Image:
    image = Image.Image()
    image._size = (pixels, 1)
    return image


def test_threads_share_the_pixels_and_all_get_their_turn() -> None:
    budget, lock = PixelBudget(100), threading.Lock()
    inside: list[int] = []
    most: list[int] = []

    def use(pixels: int) -> int:
        def work(claim: Claim) -> int:
            claim(image_of(pixels))
            with lock:
                inside.append(pixels)
                most.append(sum(inside))
            threading.Event().wait(0.001)
            with lock:
                inside.remove(pixels)
            return pixels

        return budget.share(work)

    sizes = [1, 40, 100, 60, 7, 99, 30, 30, 30] * 10
    assert list(in_threads(use, sizes, 8)) == sizes
    assert max(most) <= 100
    assert set(most) - set(sizes)  # several at the same time


def test_an_image_above_the_budget_is_alone() -> None:
    budget, done = PixelBudget(10), threading.Event()
    with held(budget, 1000):
        waiting = begin(budget, 1, done)
        assert not done.wait(0.05)
    waiting.join(10)
    assert done.is_set()


def test_a_small_image_does_not_overtake_a_large_one() -> None:
    budget, large, small = PixelBudget(10), threading.Event(), threading.Event()
    with held(budget, 5):
        first = begin(budget, 10, large)
        while not budget._turn.locked():
            pass
        second = begin(budget, 1, small)
        assert not small.wait(0.05)
    first.join(10)
    second.join(10)
    assert large.is_set() and small.is_set()


def test_only_the_last_image_of_a_piece_of_work_counts() -> None:
    budget, done = PixelBudget(10), threading.Event()

    def work(claim: Claim) -> None:
        claim(image_of(8))
        claim(image_of(10))  # with both, it would wait for itself
        claim(image_of(4))
        begin(budget, 6, done).join(10)

    budget.share(work)
    assert done.is_set()
    assert budget._used == 0


def test_an_error_gives_the_share_back() -> None:
    budget = PixelBudget(10)

    def work(claim: Claim) -> None:
        claim(image_of(10))
        raise ValueError("mine")

    for _ in range(2):
        with pytest.raises(ValueError, match="mine"):
            budget.share(work)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_the_threads_of_its_parent() -> None:
    budget = PixelBudget(10)
    with held(budget, 10):
        child = os.fork()
        if not child:
            budget.share(lambda claim: claim(image_of(10)))
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


DECODING = {
    "decode": decode,
    "prepare": lambda path: prepare(Image.open(path)),
    "check": lambda path: list(look([path], full=True)),
    "check of a box": lambda path: list(look([path], boxes={path: [(0, 0, 1, 1)]})),
    "range": lambda path: values_of([path]),
    "use": lambda path: with_decoded(path, RGB, None, lambda image: image.size),
}


@pytest.mark.parametrize("name", DECODING)
def test_all_that_decodes_in_threads_waits_for_its_share(name: str, tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 4095, np.uint16)).save(tmp_path / "a.png")
    done = threading.Event()
    working = threading.Thread(target=lambda: (DECODING[name](tmp_path / "a.png"), done.set()))
    with held(decoded_at_once, 100_000_000):
        working.start()
        assert not done.wait(0.1)
    working.join(10)
    assert done.is_set()


def test_an_image_holds_its_share_until_the_end_of_its_use(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    used = with_decoded(tmp_path / "a.png", RGB, None, lambda image: decoded_at_once._used)
    assert (used, decoded_at_once._used) == (6, 0)


@pytest.mark.slow
def test_threads_give_the_memory_of_large_images_back(tmp_path: Path) -> None:
    for number in range(8):
        Image.new("RGB", (7200, 7200)).save(tmp_path / f"{number}.webp", quality=1, method=0)
    script = f"""
import resource
from pathlib import Path
from siamkit.portable.looking import look
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
paths = sorted(Path({str(tmp_path)!r}).iterdir())
list(look(paths[:1], full=True))
alone = peak()
list(look(paths, full=True))
print(peak() / alone)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert float(done.stdout) < 1.3, done.stderr


@contextmanager
def held(budget: PixelBudget, pixels: int) -> Iterator[None]:
    """Hold pixels in another thread."""
    go, inside = threading.Event(), threading.Event()

    def work(claim: Claim) -> None:
        claim(image_of(pixels))
        inside.set()
        go.wait(30)

    holder = threading.Thread(target=budget.share, args=(work,))
    holder.start()
    assert inside.wait(10)
    try:
        yield
    finally:
        go.set()
        holder.join(10)


def begin(budget: PixelBudget, pixels: int, done: threading.Event) -> threading.Thread:
    """Use pixels in another thread."""
    thread = threading.Thread(
        target=budget.share, args=(lambda claim: (claim(image_of(pixels)), done.set()),)
    )
    thread.start()
    return thread
