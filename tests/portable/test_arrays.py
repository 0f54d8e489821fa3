from pathlib import Path

import numpy as np
import pytest

from siamkit.errors import CheckpointError
from siamkit.portable.arrays import mapped


def test_the_array_is_mapped_and_cannot_be_changed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    array = mapped(tmp_path / "a.npy", "do it again")
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]] and isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@pytest.mark.parametrize("change", [
    (18, b"{"), (42, b"("), (55, b"\0" * 6), (0, b"PK\3\4"), (0, b"x"), (8, b"\xff\xff"),
    (21, b"f4'"), (10, b"\xff" * 60), (70, b"1e999"), (61, b"-9"), (61, b"9" * 30),
])  # fmt: skip
def test_a_damaged_header_is_an_error_of_ours(tmp_path: Path, change: tuple[int, bytes]) -> None:
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    content = bytearray((tmp_path / "a.npy").read_bytes())
    at, new = change
    content[at : at + len(new)] = new
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.npy: the file is damaged; do it again"):
        mapped(tmp_path / "a.npy", "do it again")


@pytest.mark.parametrize("content", [None, b"", b"PK\3\4" + bytes(90)])
def test_what_is_no_array_is_an_error_of_ours(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(CheckpointError):
        mapped(tmp_path / "a.npy", "do it again")
