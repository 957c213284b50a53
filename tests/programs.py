"""Programs that a worker process can be given: what a test wants to see done there."""

import os
import signal
from typing import Any

import torch

__all__ = ["Deadly", "Halves", "Hungry", "Width"]


class Width:
    """Tells how many threads torch has where the batch is run."""

    memory_bytes = 0

    def __call__(self, batch: Any) -> Any:
        return torch.full((len(batch),), torch.get_num_threads())


class Halves:
    """The batch, taken apart, and nothing where a third thing could be."""

    memory_bytes = 0

    def __call__(self, batch: Any) -> Any:
        return batch[: len(batch) // 2].float(), batch[len(batch) // 2 :], None


class Hungry:
    """Wants more memory than there is."""

    memory_bytes = 0

    def __call__(self, batch: Any) -> Any:
        return torch.empty(1 << 60, dtype=torch.uint8)


class Deadly:
    """Another program, whose process dies of a picture that begins with 66."""

    def __init__(self, program: Any) -> None:
        self.program = program
        self.memory_bytes = 0

    def __call__(self, batch: torch.Tensor) -> Any:
        if (batch.flatten(1)[:, 0] == 66).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        return self.program(batch)
