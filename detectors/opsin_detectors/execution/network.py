"""What a detector gives to be run: its module, and what is done with a batch before it.

Knows no runtime: `programs.py` and `graphs.py` make this run.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from opsin_detectors.api import Detector, InputSpec, ModelInfo

__all__ = ["Argument", "Arguments", "Network", "Outputs", "Program", "Runnable", "digest", "each"]

Outputs = torch.Tensor | tuple[torch.Tensor, ...]
Arguments = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Argument:
    """The arguments of a body that takes one: its name, and what makes it from a batch.

    Unlike a lambda, it can be given to another process.
    """

    name: str
    made: Callable[[Any], torch.Tensor]

    def __call__(self, batch: Any) -> Arguments:
        """See `Network.arguments`."""
        return {self.name: self.made(batch)}


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """body: called with the keyword arguments below; gives a tensor, or a tuple of them. float32, in eval
        mode, on its device.
    arguments: from a batch, as `infer` gets it, to these, on the device, floats in float32. Where it and the
        body can be pickled, the network can be run in other processes.
    picture: the shape of one picture where a batch is one uint8 tensor of these and nothing else goes in;
        None where it is not. Only such a network can be exported.
    """

    body: nn.Module
    arguments: Callable[[Any], Arguments]
    picture: InputSpec | None = None


class Program(Protocol):
    """A network made to run one way. Several lanes may call it at once."""

    @property
    def memory_bytes(self) -> int:
        """Weights and buffers that it holds."""
        ...

    def __call__(self, batch: Any) -> Any:
        """A batch as `infer` gets it -> the body's outputs: a tensor, or a tuple of tensors."""
        ...


class Runnable(Detector, Protocol):
    """A detector whose network is run by a program that can be changed until it serves."""

    info: ModelInfo
    program: Program

    def close(self) -> None:
        """End the processes that run its network, where there are such."""
        if end := getattr(self.program, "close", None):
            end()


def each(outputs: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`change` for every tensor of a network's outputs."""
    if isinstance(outputs, torch.Tensor):
        return change(outputs)
    return tuple(None if one is None else change(one) for one in outputs)


def digest(network: Network) -> str:
    """Of all that an exported graph is made of: equal for equal networks, whatever files they came from.

    Weights, buffers, the modules' kinds and what they say of themselves, and what becomes of a picture on the
    way in: two checkpoints with the same weights may scale pictures to other numbers, or to another size.
    """
    known = hashlib.sha256()
    for name, module in network.body.named_modules():
        known.update(f"{name}:{type(module).__qualname__}:{module.extra_repr()};".encode())
    for name, tensor in itertools.chain(network.body.named_parameters(), network.body.named_buffers()):
        _add(known, name, tensor)
    known.update(repr(network.picture).encode())
    if network.picture is not None:
        for name, tensor in network.arguments(_levels(network.picture, network.body)).items():
            _add(known, name, tensor)
    return known.hexdigest()


def _levels(picture: InputSpec, body: nn.Module) -> torch.Tensor:
    """A picture of all levels, on the network's device."""
    device = next((one.device for one in body.parameters()), torch.device("cpu"))
    shape = (1, picture.height, picture.width, picture.channels)
    return (torch.arange(math.prod(shape), device=device) % 251).to(torch.uint8).reshape(shape)


def _add(known: Any, name: str, tensor: torch.Tensor) -> None:
    known.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
    plain = tensor.detach().cpu().contiguous().view(-1)
    if plain.numel():
        known.update(plain.view(torch.uint8).numpy())
