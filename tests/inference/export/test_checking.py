import numpy as np
import pytest

from siamkit.errors import CheckpointError
from siamkit.inference.export.checking import require_same, require_steady


def images(count=7):
    return np.random.default_rng(0).standard_normal((count, 3, 4, 4)).astype(np.float32)


def flat(x):
    return x.reshape(len(x), -1)


def test_equal_networks_pass_with_their_cosine():
    assert require_same(flat, flat, images(), "onnx") == pytest.approx(1.0, abs=1e-9)
    require_steady(flat, flat, images(), "onnx")


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_network_that_differs_at_one_batch_size_is_refused(size):
    def odd(x):
        return flat(x) + (0.1 if len(x) == size else 0)

    with pytest.raises(CheckpointError, match=f"onnx, batch of {size}: .*nothing was written"):
        require_same(odd, flat, images(), "onnx")
    if size > 1:
        with pytest.raises(CheckpointError, match="depends on the other images"):
            require_steady(lambda x: flat(x) + 0.5 * x.mean() * len(x), flat, images(), "onnx")


def test_other_lengths_are_refused_too():
    with pytest.raises(CheckpointError, match=r"lengths that differ by 0\.5"):
        require_same(lambda x: 1.5 * flat(x), flat, images(), "onnx")


def test_nan_and_other_shapes_are_refused():
    with pytest.raises(CheckpointError, match="with NaN or infinity"):
        require_steady(lambda x: flat(x) * np.nan, flat, images(), "onnx in int8")
    with pytest.raises(CheckpointError, match=r"got 'shape \[1, 2\]'"):
        require_same(lambda x: flat(x)[:, :2], flat, images(), "onnx")
