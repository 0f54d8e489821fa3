from __future__ import annotations

import pytest

from siamkit.training.speeds import Speeds, paid


@pytest.mark.parametrize(
    ("computed", "seconds", "said", "not_said"),
    [
        (10_000, 5.0, ["Quantizing took 5 s", "saves about 400 s on the 10000 im"], "pays only"),
        (100, 5.0, ["pays only from the next run"], "earlier run"),
        (100, None, ["An earlier run has quantized it"], "pays only"),
        (100, 5.0, ["as for siamkit.verify_pairs(), takes as long as 8: 160 ms"], "ago"),
    ],
)
def test_what_int8_saves_is_said(
    computed: int, seconds: float | None, said: list[str], not_said: str
) -> None:
    text = paid(Speeds(0.06, 0.02), computed, seconds)
    assert all(part in text for part in said) and not_said not in text
    assert "20 ms per image instead of 60 ms" in text


def test_a_single_image_that_is_no_slower_is_not_mentioned() -> None:
    assert "single image" not in paid(Speeds(0.08, 0.01), 100, None)
