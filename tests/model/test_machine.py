from siamkit.model.machine import this_machine


def test_the_facts_about_the_cpu_are_read(tmp_path):
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx_vnni\n"
    )
    machine = this_machine(tmp_path / "cpuinfo")
    assert machine.int8 is True and machine.cpu == "Some CPU @ 2 GHz" and machine.threads >= 1


def test_a_machine_that_does_not_say_is_unknown(tmp_path):
    machine = this_machine(tmp_path / "none")
    assert machine.int8 is None and machine.cpu
