from __future__ import annotations

from pathlib import Path

import pytest

from siamkit.data.images import Sample
from siamkit.data.inputs import is_file, samples_of
from siamkit.errors import DataError


def test_files_get_label_0_and_samples_stay_as_they_are(make_images) -> None:
    root = make_images({"a": 2, "b": 1})
    file = root / "a/0.png"
    assert samples_of(file) == (Sample(file, 0, "0.png"),)
    known = Sample(root / "b/0.png", 3, "key")
    assert samples_of([str(file), known]) == (Sample(file, 0, "0.png"), known)
    assert samples_of(iter([known, file])) == (known, Sample(file, 0, "0.png"))
    found = samples_of(root)
    assert [sample.path for sample in found] == sorted(root.rglob("*.png"))
    assert {sample.label for sample in found} == {0}
    with pytest.raises(DataError):
        samples_of(root / "missing.png")


def test_what_is_in_memory_is_no_file(tmp_path: Path) -> None:
    assert is_file("a.png") and is_file(tmp_path) and is_file(Sample(tmp_path, 0, "a"))
    assert not is_file(None) and not is_file(b"a.png")
