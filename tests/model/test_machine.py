import pytest

from siamkit.model.machine import this_machine


@pytest.mark.parametrize(("flags", "int8"), [
    ("flags\t\t: fpu avx2", False),
    ("flags\t\t: fpu avx2 avx_vnni", True),
    ("flags\t\t: avx512f avx512_vnni", True),
    ("Features\t: fp asimd asimddp", True),
])  # fmt: skip
def test_the_instructions_for_int8_are_read(tmp_path, flags, int8):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n{flags}\n")
    machine = this_machine(tmp_path / "cpuinfo")
    assert machine.int8 is int8 and machine.cpu == "Some CPU @ 2 GHz" and machine.threads >= 1


def test_a_machine_that_does_not_say_is_unknown(tmp_path):
    machine = this_machine(tmp_path / "none")
    assert machine.int8 is None and machine.cpu
