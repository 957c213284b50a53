"""What the machine and the container have left, as Linux tells it."""

from pathlib import Path

import pytest

from opsin_detectors import device_memory
from opsin_detectors.device_memory import DeviceMemory, memory_of


def test_free_memory_is_what_the_machine_and_the_container_have_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(device_memory, "_CGROUP", tmp_path)
    assert memory_of("cpu") == DeviceMemory(), "nothing is known"
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4 kB\n")
    assert memory_of("cpu") == DeviceMemory(9216, 4096)
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_of("cpu").free == 4096
    (tmp_path / "memory.max").write_text("3000\n")
    assert memory_of("cpu") == DeviceMemory(3000, 2000)
    (tmp_path / "memory.stat").write_text("file 900\ninactive_file 500\n")
    assert memory_of("cpu").free == 2500
