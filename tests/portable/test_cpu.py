import pytest

from siamkit.portable.cpu import described, has_int8


@pytest.mark.parametrize(("flags", "int8"), [
    ("flags\t\t: fpu avx2", False),
    ("flags\t\t: fpu avx2 avx_vnni", True),
    ("flags\t\t: avx512f avx512_vnni", True),
    ("Features\t: fp asimd asimddp", True),
    ("Features\t: fp i8mm", True),
    ("Features\t: fp", False),
    ("bogomips\t: 4000", None),
])  # fmt: skip
def test_the_instructions_for_int8_are_read(tmp_path, flags, int8):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n{flags}\n")
    facts = described(tmp_path / "cpuinfo")
    assert facts["model name"] == "Some CPU @ 2 GHz"
    assert has_int8(facts) is int8


def test_without_a_description_nothing_is_known(tmp_path):
    assert described(tmp_path / "none") == {}
    assert has_int8({}) is None
