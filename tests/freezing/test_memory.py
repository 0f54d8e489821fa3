from __future__ import annotations

import torch

from siamkit.freezing.allocations import LARGE, Bytes
from siamkit.freezing.memory import Memory, kept_by_libraries, probe_images, share_of

CPU = torch.device("cpu")


def test_the_parts_add_up_to_the_peak() -> None:
    memory = Memory(weights=1, gradients=2, optimizer=4, activations=8, libraries=16)
    assert memory.peak == 31
    assert memory.to_json() == {
        "weights": 1, "gradients": 2, "optimizer": 4, "activations": 8, "libraries": 16, "peak": 31,
    }  # fmt: skip


def test_a_cpu_keeps_more_than_the_tensors_but_not_for_large_blocks_that_stay() -> None:
    nothing, small, large = Bytes(), Bytes.of(LARGE - 1), Bytes.of(LARGE)
    once = kept_by_libraries(nothing, nothing, CPU)
    assert 0 < once == kept_by_libraries(large, nothing, CPU)
    assert once < kept_by_libraries(nothing, small, CPU)
    assert once < kept_by_libraries(small, nothing, CPU)
    # Gaps between tensors are smaller than the tensors, and are least between those that stay.
    of_state, of_passing = (
        kept_by_libraries(*given, CPU) - once for given in ((small, nothing), (nothing, small))
    )
    assert of_state < of_passing < small.total


def test_a_gpu_needs_what_its_tensors_need() -> None:
    block = Bytes.of(1000)
    assert kept_by_libraries(block, block, torch.device("cuda")) == 0


def test_of_tensors_that_pass_large_blocks_count_half() -> None:
    assert share_of(Bytes.of(1000)) == 1000
    assert share_of(Bytes.of(4 * LARGE)) == 2 * LARGE


def test_images_for_a_measurement_are_four_different_ones_and_the_same_each_time() -> None:
    images = probe_images(3, (8, 6), torch.device("cpu"))
    assert images.shape == (4, 3, 8, 6)
    assert not torch.equal(images[0], images[1])
    assert torch.equal(images, probe_images(3, (8, 6), torch.device("cpu")))
