"""How much memory this process holds, as far as it can be told. Knows no detector."""

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["held", "megabytes"]

_PAGE = 4096


def held(device: str = "cpu") -> int:
    """Bytes held on a device: torch's on a GPU, the process's resident ones on a CPU (0 where unknown)."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return int(torch.cuda.memory_allocated(device))
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc gives back what was freed; others have no such function
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    except OSError:
        return 0


def megabytes(count: int) -> str:
    """`12.3 MB`."""
    return f"{max(0, count) / 1e6:.1f} MB"
