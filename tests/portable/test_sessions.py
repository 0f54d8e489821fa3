"""Sessions, in a process of their own: a fault of theirs would end the process."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

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
