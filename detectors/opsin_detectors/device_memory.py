"""How much memory a device has, and how much of it is free. Reads the machine; decides nothing."""

import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DeviceMemory", "memory_of"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of a device's memory in all, and free; 0: not known."""

    total: int = 0
    free: int = 0


def memory_of(device: str) -> DeviceMemory:
    """How a device stands now. A CPU's is what this process may use, its container's limit included."""
    return _of_gpu(device) if device.startswith("cuda") else _of_machine()


def _of_gpu(device: str) -> DeviceMemory:
    torch = sys.modules.get("torch")
    if torch is None:
        return DeviceMemory()
    free, total = torch.cuda.mem_get_info(torch.device(device))
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return DeviceMemory(total, free + cached)


def _of_machine() -> DeviceMemory:
    figures = _table(_MEMINFO)
    machine = DeviceMemory(
        figures.get("MemTotal:", 0) * 1024,
        figures.get("MemAvailable:", 0) * 1024,
    )
    own = _of_container(_CGROUP)
    if not own.total or own.total > machine.total > 0:
        return machine
    return DeviceMemory(own.total, min(own.free, machine.free or own.free))


def _of_container(folder: Path) -> DeviceMemory:
    """By cgroup v2. Pages of files that can be dropped at any time count as free."""
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or no limit: `max`
        return DeviceMemory()
    files = _table(folder / "memory.stat").get("inactive_file", 0)
    return DeviceMemory(limit, max(1, limit - used + files))


def _table(path: Path) -> dict[str, int]:
    """A file of lines of a name and a number."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}
