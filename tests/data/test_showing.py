"""Views as pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from siamkit.data.showing import picture
from siamkit.interfaces import Preprocessing


def test_values_are_scaled_back_and_clipped() -> None:
    pre = Preprocessing(mean=(0.5,) * 3, std=(0.25, 0.5, 1.0), size=(1, 4))
    view = torch.tensor([[-2.0, 0.0, 2.0, 3.0], [-1.0, 0.5, 1.0, 2.0], [-0.5, 0.1, 0.5, -9.0]])
    found = np.asarray(picture(view[:, None], pre))
    assert found.shape == (1, 4, 3)
    assert found[0, :, 0].tolist() == [0, 128, 255, 255]
    assert found[0, :, 1].tolist() == [0, 191, 255, 255]
    assert found[0, :, 2].tolist() == [0, 153, 255, 0]


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_becomes_three_channels_and_transparency_lies_on_white(channels: int) -> None:
    pre = Preprocessing(mean=(0.0,) * channels, std=(1.0,) * channels, size=(1, 2))
    view = torch.zeros(channels, 1, 2)
    view[-1] = torch.tensor([0.2, 1.0])
    found = np.asarray(picture(view, pre))[0].tolist()
    grey = [[51] * 3, [255] * 3]
    # Black with an alpha of 0.2 lets 0.8 of the white through.
    assert found == (grey if channels == 1 else [[204] * 3, [0] * 3])


def test_a_picture_is_as_wide_and_tall_as_the_view() -> None:
    pre = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, size=(2, 5))
    assert picture(torch.zeros(3, 2, 5), pre).size == (5, 2)
