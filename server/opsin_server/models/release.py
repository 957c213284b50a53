"""Giving memory back once a model is gone.

Its weights go with the last reference. What is left is freed memory that the allocators keep: torch's on a
GPU, glibc's on the host, where a server that loads and unloads would otherwise only ever grow. Not for the
event loop: it takes up to tenths of a second.
"""

import ctypes
import sys
import weakref
from contextlib import suppress

from opsin_server.interpreter import collect

__all__ = ["give_back"]


def give_back(gone: "weakref.ref[object]") -> None:
    """Free what a model took. gone: its detector, which nobody holds any more but, perhaps, itself.

    A full collection stops every thread, the event loop too, for as long as it takes (0.1 s and more with
    torch loaded), so it is left out where the last reference was enough.
    """
    if gone() is not None:
        collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # another libc: nothing to be done
        ctypes.CDLL(None).malloc_trim(0)
