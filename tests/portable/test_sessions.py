"""Sessions, mostly in a process of their own: a fault of theirs would end the process."""

import functools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from siamkit.portable import sessions
from siamkit.portable.cores import THREADS
from siamkit.portable.sessions import KERNELS, onnx_network, openvino_network

SIGNAL = """
import gc, os, signal
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
"""

NETWORKS = """
import faulthandler
import numpy as np
import openvino
from openvino import opset13 as op
from siamkit.portable.sessions import openvino_network

def network():
    images = op.parameter([-1, 3], np.float32)
    return openvino_network(openvino.Model([op.relu(images)], [images], "relu"), 1)

faulthandler.enable()  # gives signal handlers a stack of their own, as pytest and many servers do
first, second = network(), network()
"""

QUANTIZED = """
from pathlib import Path
import sys
import numpy as np
import openvino
from openvino import opset13 as op
from siamkit.inference.quantizing.openvino import OpenVinoQuantizer

draws = np.random.default_rng(0)
images = op.parameter([-1, 3, 8, 8], np.float32)
kernel = op.constant(draws.normal(size=(4, 3, 3, 3)).astype(np.float32))
convolved = op.convolution(images, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
path = Path(sys.argv[1]) / "model.xml"
openvino.save_model(openvino.Model([op.relu(convolved)], [images], "net"), path)
data = draws.normal(size=(4, 3, 8, 8)).astype(np.float32)

Core, made = openvino.Core, []
openvino.Core = lambda: made.append(1) or Core()  # NNCF makes cores of its own, if it can

def quantized():
    return OpenVinoQuantizer(path, data, path.parent).quantized(())

first, second = quantized(), quantized()
assert len(made) == 1, f"{len(made)} cores"
"""


@pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")
@pytest.mark.parametrize(
    "networks",
    [NETWORKS, pytest.param(QUANTIZED, marks=pytest.mark.slow)],
    ids=["opened", "quantized"],
)
def test_a_signal_is_handled_after_networks_are_gone_in_any_order(networks, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", networks + SIGNAL, str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("handled\n")


def onnx_bytes():
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    ones = make.make_tensor("ones", kind, [WIDTH, WIDTH], np.ones(WIDTH * WIDTH, np.float32))
    graph = make.make_graph(
        [make.make_node("MatMul", ["images", "ones"], ["sums"])], "sums",
        [make.make_tensor_value_info("images", kind, ["N", WIDTH])],
        [make.make_tensor_value_info("sums", kind, ["N", WIDTH])],
        [ones],
    )  # fmt: skip
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def onnx_sums():
    return onnx_network(onnx_bytes(), 1)


def openvino_sums():
    openvino = pytest.importorskip("openvino")
    op = openvino.opset13
    images = op.parameter([-1, WIDTH], np.float32)
    sums = op.matmul(images, op.constant(np.ones((WIDTH, WIDTH), np.float32)), False, False)
    return openvino_network(openvino.Model([sums], [images], "sums"), 1)


WIDTH = 64
SUMS = {"onnx": onnx_sums, "openvino": openvino_sums}


@pytest.mark.parametrize("kind", KERNELS)
def test_each_thread_gets_the_results_of_its_own_images(kind):
    run = SUMS[kind]().run

    def wrong(number: int) -> int:
        images = np.full((1 + number % 3, WIDTH), number, np.float32)
        return sum(not np.array_equal(run(images), images * WIDTH) for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(wrong, range(4))) == [0] * 4


def openvino_threads(model: bytes, threads: int | None) -> int:
    openvino = pytest.importorskip("openvino")
    run = openvino_network(openvino.Core().read_model(model), threads).run
    names = run.__code__.co_freevars
    compiled = run.__closure__[names.index("compiled")].cell_contents
    return compiled.get_property("INFERENCE_NUM_THREADS")


def onnx_threads(model: bytes, threads: int | None) -> int:
    return sessions.onnx_session(model, threads).get_session_options().intra_op_num_threads


@pytest.mark.parametrize("of", [onnx_threads, openvino_threads])
def test_a_network_has_the_threads_that_are_given_or_those_of_the_environment(monkeypatch, of):
    model = onnx_bytes()
    monkeypatch.setenv(THREADS, "2")
    assert of(model, 1) == 1
    monkeypatch.setenv(THREADS, "1")
    assert of(model, None) == 1


def test_threads_that_ask_at_once_get_one_core(monkeypatch):
    made, waiting = [], threading.Barrier(2, timeout=0.2)

    def core():
        made.append(1)
        try:
            waiting.wait()  # until the other thread makes a core too
        except threading.BrokenBarrierError:
            pass
        return object()

    monkeypatch.setattr(sessions, "_core", functools.cache(core))
    with ThreadPoolExecutor(2) as pool:
        cores = list(pool.map(lambda _: sessions.openvino_core(), range(2)))
    assert len(made) == 1 and cores[0] is cores[1]


@pytest.mark.parametrize(
    ("precision", "machine", "int8", "exact"),
    [
        ("float32", "x86_64", False, True),  # the run's own int8 part has weights of 8 bits
        ("float32", "x86_64", True, False),
        ("float32", "AMD64", None, True),  # Windows does not say
        ("float32", "arm64", None, False),
        ("float32", "aarch64", False, False),
        ("int8", "x86_64", False, False),  # weights of 7 bits cannot overflow
    ],
)
def test_weights_of_8_bits_do_not_overflow(monkeypatch, precision, machine, int8, exact):
    opened = []

    def network(content, threads, *, exact):
        opened.append((content, threads, exact))
        return SimpleNamespace(run="the session")

    monkeypatch.setattr(sessions, "has_int8", lambda facts: int8)
    monkeypatch.setattr(sessions.platform, "machine", lambda: machine)
    monkeypatch.setattr(sessions, "onnx_network", network)
    monkeypatch.setattr(sessions, "_require_match", lambda *given: None)
    manifest = SimpleNamespace(kind="onnx", precision=precision, model="model.onnx")
    assert sessions.open_session(manifest, {"model.onnx": b"net"}, "place", 3) == "the session"
    assert opened == [(b"net", 3, exact)]
