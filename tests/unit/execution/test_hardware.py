"""What Linux tells of a processor is read; what it does not tell is nothing."""

from opsin_detectors.execution.hardware import cpu_flags, cpu_name, here
from opsin_detectors.execution.views import pictures, views

GENOA = (
    "processor : 0\nvendor_id : AuthenticAMD\nmodel name : AMD EPYC 9354\nflags : fpu avx512f avx512_bf16\n"
)


def test_flags_and_name_are_read() -> None:
    assert cpu_flags(GENOA) == {"fpu", "avx512f", "avx512_bf16"}
    assert "EPYC 9354" in cpu_name(GENOA)
    assert cpu_flags("Features : fp asimd bf16\n") == {"fp", "asimd", "bf16"}


def test_processors_of_one_name_are_told_apart_by_what_they_compute_with() -> None:
    """An int8 graph made where products are summed in 32 bits overflows where they are not."""
    virtual = "model name : QEMU Virtual CPU\nflags : fpu avx2 {}\n"
    assert cpu_name(virtual.format("avx512_vnni")) != cpu_name(virtual.format(""))
    assert cpu_name(virtual.format("mds_clear")) == cpu_name(virtual.format("")), "a kernel's own flag"


def test_arms_processors_are_told_apart() -> None:
    arm = "Features : fp asimd\nCPU implementer : 0x41\nCPU variant : 0x1\nCPU part : {}\n"
    assert cpu_name(arm.format("0xd40")) != cpu_name(arm.format("0xd4f"))


def test_a_system_that_tells_nothing_has_no_flags_and_some_name() -> None:
    assert cpu_flags("") == frozenset()
    assert cpu_name("")


def test_this_machine_can_be_told() -> None:
    assert here("cpu").cores >= 1


def test_what_is_checked_with_is_not_what_was_calibrated_with() -> None:
    assert len(pictures()) == 5
    calibrating, checking = views(checking=False), views(checking=True)
    assert len(checking) >= 50
    assert not {v.pixels.tobytes() for v in calibrating} & {v.pixels.tobytes() for v in checking}
