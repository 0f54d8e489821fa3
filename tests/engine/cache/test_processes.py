"""Processes that die, that compete, and that meet a full disk."""

import random
import resource
import shutil
import signal
import subprocess
import time

import pytest

from siamkit.engine.cache.budget import clear, list_stores
from siamkit.engine.cache.locks import root_locked


@pytest.mark.slow
def test_a_kill_loses_only_what_was_not_published(cache, start):
    child = start("""
with opened(root) as store, store.filling() as fill:
    fill.add([key(i) for i in range(10)], rows(range(10)))
    fill.publish()
    fill.add([key(i) for i in range(10, 15)], rows(range(10, 15)))
    say("ready")
    time.sleep(60)
""")
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not list_stores(cache.root)[0].in_use
    with cache.open() as store:
        assert store.missing(cache.keys(range(20))) == list(range(10, 20))
        assert len(list(store.path.glob(".tmp-*"))) == 1
    cache.fill(range(20))
    cache.check(range(20))
    with cache.open() as store:
        assert list(store.path.glob(".tmp-*")) == [] and store.notices == []


@pytest.mark.slow
def test_killed_at_any_instant_the_store_holds_right_rows_only(cache, start):
    rng, done = random.Random(0), 0
    for _ in range(4):
        child = start(f"""
with opened(root) as store, store.filling(shard_bytes=200) as fill:
    for i in range({done}, {done} + 100_000):
        fill.add([key(i)], rows([i]))
        if i == {done} + 100:  # some rows are stored by now, however slow the machine is
            say("ready")
""")
        child.stdout.readline()
        time.sleep(rng.uniform(0.02, 0.15))
        child.send_signal(signal.SIGKILL)
        child.wait()
        with cache.open() as store:
            kept, done = done, len(store)
            assert store.notices == []
        assert done > kept
        cache.check(range(done))


FILL = """
with opened(root) as store:
    say("open")
    sys.stdin.readline()
    with store.filling(on_wait=lambda: say("waits")) as fill:
        for i in fill.missing([key(i) for i in range(40)]):
            say(i)
            time.sleep(0.005)
            fill.add([key(i)], rows([i]))
"""


@pytest.mark.slow
def test_two_processes_fill_one_store_and_each_row_is_computed_once(cache, program):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(program(FILL), **pipes) for _ in range(2)]
    for child in children:
        assert child.stdout.readline() == "open\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate(timeout=60)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sorted([*said[0], *said[1]]) == sorted([*map(str, range(40)), "waits"])
    cache.check(range(40))


@pytest.mark.slow
def test_a_process_that_dies_filling_lets_the_waiting_one_go_on(cache, start):
    first = start("""
with opened(root) as store, store.filling() as fill:
    fill.add([key(1)], rows([1]))
    fill.publish()
    say("filling")
    time.sleep(60)
""")
    first.stdout.readline()
    second = start("""
with opened(root) as store:
    with store.filling(on_wait=lambda: say("waits")) as fill:
        say(fill.missing([key(1), key(2)]))
""")
    assert second.stdout.readline() == "waits\n"
    first.send_signal(signal.SIGKILL)
    assert second.stdout.readline() == "[1]\n"


@pytest.mark.slow
def test_a_process_that_waits_can_be_stopped(cache, start):
    class Stopped(Exception):
        pass

    child = start('with opened(root) as store, store.filling():\n say("fills")\n time.sleep(60)')
    assert child.stdout.readline() == "fills\n"
    calls = iter(range(100))

    def check():
        if next(calls) == 2:
            raise Stopped

    with cache.open() as store, pytest.raises(Stopped), store.filling(check=check):
        raise AssertionError("the other process still fills")
    child.send_signal(signal.SIGKILL)
    child.wait()
    with cache.open() as store, store.filling(check=check) as fill:
        fill.add(cache.keys([1]), cache.rows([1]))


FULL = """
from siamkit.errors import ResourceError
with opened(root) as store, store.filling() as fill:
    fill.add([key(i) for i in range(50)], rows(range(50)))
    fill.publish()
{limit}
try:
    with opened(root) as store, store.filling(shard_bytes={shard}) as fill:
        for i in range(50, 1_000_000, 500):
            fill.add([key(n) for n in range(i, i + 500)], rows(range(i, i + 500)))
except ResourceError as error:
    say(error)
with opened(root) as store:
    assert list(store.path.glob(".tmp-*")) == []
    n = len(store)
    found = store.rows([key(i) for i in range(n)]).gather(torch.arange(n))
    assert torch.equal(found, rows(range(n))), n
    say(n)
"""


@pytest.mark.slow
def test_a_full_disk_is_an_error_of_ours_and_what_was_published_is_intact(program):
    # Python ignores SIGXFSZ: a file over the limit is an OSError, as on a full disk.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    done = subprocess.run(
        program(FULL.format(limit=limit, shard=1 << 30)),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    error, count = done.stdout.splitlines()
    assert "cannot write: File too large; free some space ('siamkit cache prune" in error
    assert count == "50"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200_000


@pytest.mark.slow
def test_a_small_disk_that_fills_up(program, tmp_path):
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=2m none "$0" && exec "$@"']
    (tmp_path / "cache").mkdir()
    inside = [*mount, str(tmp_path / "cache")]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("needs user namespaces")
    done = subprocess.run(
        [*inside, *program(FULL.format(limit="", shard=100_000))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    error, count = done.stdout.splitlines()
    assert "cannot write: No space left on device" in error
    assert int(count) > 10_000


@pytest.mark.slow
def test_a_store_in_use_by_another_process_is_listed_so_and_stays(cache, start):
    cache.fill([1], prefix="b")
    child = start('with opened(root) as store:\n say("open")\n time.sleep(60)')
    child.stdout.readline()
    used = {store.description["prefix"]: store.in_use for store in list_stores(cache.root)}
    assert used == {"a": True, "b": False}
    assert [store.description["prefix"] for store in clear(cache.root)] == ["b"]
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert [store.description["prefix"] for store in clear(cache.root)] == ["a"]
    assert list_stores(cache.root) == []


MEMORY = """
import resource
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def name(i): return i.to_bytes(16, "big")
def use(count):
    with open_store(Path(root), {"n": count}, (2048,), torch.float32) as store:
        block = torch.randn(64, 2048)
        with store.filling(shard_bytes=8 << 20) as fill:
            for i in range(0, count, 64):
                fill.add([name(n) for n in range(i, i + 64)], block)
    with open_store(Path(root), {"n": count}, (2048,), torch.float32) as store:
        keys = [name(n) for n in range(count)]
        assert store.missing(keys) == []
        found = store.rows(keys)
        for _ in range(2):
            for chosen in torch.randperm(count).split(64):
                found.gather(chosen)
for count in (256, 32768):
    use(count)
    say(peak())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_rows(program):
    done = subprocess.run(program(MEMORY), capture_output=True, text=True, check=True)
    few, many = map(float, done.stdout.split())
    # 2 MB and 262 MB of rows; up to 32 MB are loaded.
    assert many - few < 40


def test_a_cache_may_lie_in_folders_that_are_still_to_be_made(tmp_path):
    with root_locked(tmp_path / "new" / "cache"):
        assert (tmp_path / "new" / "cache").is_dir()
