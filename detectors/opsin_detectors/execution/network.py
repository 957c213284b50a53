"""What a detector gives to be run: its module, and what is done with a batch before it.

Knows no runtime: `programs.py` and `graphs.py` make this run.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from opsin_detectors.api import Detector, InputSpec, ModelInfo

__all__ = ["Arguments", "Network", "Outputs", "Program", "Runnable", "digest", "each"]

Outputs = torch.Tensor | tuple[torch.Tensor, ...]
Arguments = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """body: called with the keyword arguments below; gives a tensor, or a tuple of them. float32, in eval
        mode, on its device.
    arguments: from a batch, as `infer` gets it, to these, on the device, floats in float32.
    picture: the shape of one picture where a batch is one uint8 tensor of these and nothing else goes in;
        None where it is not. Only such a network can be exported.
    """

    body: nn.Module
    arguments: Callable[[Any], Arguments]
    picture: InputSpec | None = None


class Program(Protocol):
    """A network made to run one way. Several lanes may call it at once."""

    memory_bytes: int
    """Weights and buffers that it holds."""

    def __call__(self, batch: Any) -> Any:
        """A batch as `infer` gets it -> the body's outputs: a tensor, or a tuple of tensors."""
        ...


class Runnable(Detector, Protocol):
    """A detector whose network is run by a program that can be changed until it serves."""

    info: ModelInfo
    program: Program


def each(outputs: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`change` for every tensor of a network's outputs."""
    if isinstance(outputs, torch.Tensor):
        return change(outputs)
    return tuple(None if one is None else change(one) for one in outputs)


def digest(body: nn.Module) -> str:
    """Of the weights and of the modules' kinds: equal for equal networks, whatever file they came from."""
    known = hashlib.sha256()
    for name, module in body.named_modules():
        known.update(f"{name}:{type(module).__qualname__};".encode())
    for name, tensor in body.state_dict().items():
        known.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        plain = tensor.detach().cpu().contiguous().view(-1)
        if plain.numel():
            known.update(memoryview(plain.view(torch.uint8).numpy()))
    return known.hexdigest()
