"""Memory that two processes see: a file without a name, mapped by both, grown by whichever needs more.

Knows nothing of what lies in it, nor whose turn it is: whoever uses it takes turns by other means.
"""

import mmap
import os
import tempfile

import torch

__all__ = ["ALIGNED", "Room", "nameless_file"]

ALIGNED = 64
"""What lies in it begins at a multiple of this: vector instructions read it so."""
_LEAST = 1 << 20


def nameless_file(name: str) -> int:
    """The descriptor of an empty file in memory, gone when nobody holds it. name: for who looks at /proc."""
    if hasattr(os, "memfd_create"):
        # No file system's size bounds it, as that of /dev/shm in a container does.
        return os.memfd_create(name)
    with tempfile.TemporaryFile(prefix=name) as file:
        return os.dup(file.fileno())


class Room:
    """One process's view of such a file."""

    def __init__(self, file: int) -> None:
        """file: its descriptor, which this closes with itself."""
        self.file = file
        self._bytes = torch.empty(0, dtype=torch.uint8)

    @property
    def size(self) -> int:
        """Bytes that this process sees now."""
        return self._bytes.numel()

    def place(self, tensor: torch.Tensor, at: int) -> int:
        """Copy a tensor to what begins at byte `at`, which is aligned; the next free byte that is.

        Raises MemoryError when the file cannot grow.
        """
        ends = at + tensor.nbytes
        self._reserve(ends)
        self.view(tensor.dtype, tensor.shape, at).copy_(tensor)
        return -(-ends // ALIGNED) * ALIGNED

    def view(self, dtype: torch.dtype, shape: tuple[int, ...], at: int) -> torch.Tensor:
        """What lies at byte `at`, without a copy."""
        count = torch.Size(shape).numel() * dtype.itemsize
        return self._bytes[at : at + count].view(dtype).view(shape)

    def look_again(self, size: int) -> None:
        """The other process sees so many bytes: see as many."""
        if size > self.size:
            self._map(size)

    def close(self) -> None:
        """Let go of it. What was viewed stays until it is let go of, too."""
        self._bytes = torch.empty(0, dtype=torch.uint8)
        os.close(self.file)

    def _reserve(self, size: int) -> None:
        if size <= self.size:
            return
        size = max(_LEAST, 1 << (size - 1).bit_length())
        try:
            # Not only promised: a page that is missing when it is written to ends the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.file, 0, size)
            else:
                os.ftruncate(self.file, size)
        except OSError as error:
            raise MemoryError(f"no {size} bytes of memory to share between processes: {error}") from error
        self._map(size)

    def _map(self, size: int) -> None:
        self._bytes = torch.frombuffer(mmap.mmap(self.file, size), dtype=torch.uint8)
