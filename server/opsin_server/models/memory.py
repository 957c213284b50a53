"""Whether there is memory for a model before it is loaded.

An estimate from the files alone: the tensors that a safetensors header lists, at the type that they will
have, or the size of any other file of weights. What cannot be known (a hub id that is not here yet, a
detector that needs no file) counts as nothing: then loading itself finds out. Not for the event loop: it
reads files.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from opsin_detectors.device_memory import DeviceMemory, memory_of
from opsin_server.errors import Failure, Reason, quote

__all__ = ["DeviceMemory", "memory_of", "needed", "refuse_if_short", "taken"]

WORK_SPACE = 1.2
"""What a loaded model takes for each byte of weights: buffers and activations of small batches."""
WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".onnx"})
_HEADER_LIMIT = 100 << 20
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def needed(source: str, dtype: str = "auto") -> int:
    """About how many bytes a model from `source` takes when loaded as `dtype`; 0 when that cannot be told."""
    path = Path(source) if source else None
    if path is None or not path.exists():
        return 0
    return round(WORK_SPACE * sum(_weights(file, dtype) for file in _files(path)))


def _files(path: Path) -> Iterator[Path]:
    """A file of weights, or those in a folder; of copies in several formats the safest one."""
    if path.is_file():
        yield path
        return
    found = [file for file in path.iterdir() if file.suffix in WEIGHTS and file.is_file()]
    safe = [file for file in found if file.suffix == ".safetensors"]
    yield from safe or found


def _weights(file: Path, dtype: str) -> int:
    size = file.stat().st_size
    if file.suffix != ".safetensors" or dtype not in _BYTES:
        return size
    with suppress(OSError, ValueError, KeyError, TypeError):
        return sum(_tensor(entry, _BYTES[dtype]) for entry in _header(file).values())
    return size  # not what it says it is: loading will tell


def _header(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file by name: eight bytes of length, then JSON."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > _HEADER_LIMIT:
            raise ValueError(f"{file}: a header of {length} bytes")
        header: dict[str, Any] = json.loads(opened.read(length))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _tensor(entry: dict[str, Any], width: int) -> int:
    begin, end = entry["data_offsets"]
    if entry["dtype"] not in _FLOATS:
        return int(end - begin)
    count = 1
    for side in entry["shape"]:
        count *= int(side)
    return count * width


def refuse_if_short(name: str, device: str, bytes_needed: int, memory: DeviceMemory) -> None:
    """Raise Failure DEVICE_MEMORY when a model surely does not fit."""
    if not bytes_needed or not memory.free or bytes_needed <= memory.free:
        return
    raise Failure(
        Reason.DEVICE_MEMORY,
        f"model {quote(name)} needs about {_figure(bytes_needed)}; {device} has {_figure(memory.free)} free",
        metadata={
            "model": name,
            "device": device,
            "needed_bytes": str(bytes_needed),
            "free_bytes": str(memory.free),
        },
        never_retry=True,
    )


def taken(device: str) -> int:
    """Bytes that this process and its workers hold on a device now, 0: not known.

    The allocator's reserve is included.
    """
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return int(torch.cuda.memory_reserved(device))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):  # not Linux
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + _taken_apart()


def _taken_apart() -> int:
    """By the processes that run models, where there are such."""
    apart = sys.modules.get("opsin_detectors.execution.apart")
    return 0 if apart is None else int(apart.held())


def _figure(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
