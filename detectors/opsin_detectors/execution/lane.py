"""What a network is measured on: a lane's number of threads, and on a GPU a stream that can be captured."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["stream", "width"]


@contextmanager
def width(threads: int) -> Iterator[None]:
    """As many torch threads as a lane has, which is what is to be measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, threads))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def stream(device: str) -> Iterator[None]:
    """A stream of its own on a GPU: the default one cannot be captured, and is not what lanes use."""
    if device == "cpu":
        yield
        return
    own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    own.wait_stream(torch.cuda.current_stream(device))  # which put the weights there
    with torch.cuda.stream(own):
        yield
    own.synchronize()  # lanes use what was made here on streams of theirs
