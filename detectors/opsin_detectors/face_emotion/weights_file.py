"""Filling a network from its packaged weights, or saying in a sentence why that fails."""

from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file
from torch import nn

from opsin_detectors.api import LoadError

__all__ = ["filled"]

_Module = TypeVar("_Module", bound=nn.Module)


def filled(network: _Module, path: Path) -> _Module:
    """The network with the file's weights. Raises LoadError when the file is missing or holds others."""
    if not path.is_file():
        raise LoadError(f"face-emotion's weights are missing: {path} is not a file")
    try:
        network.load_state_dict(load_file(path))
    except Exception as error:
        name = type(network).__name__
        why = str(error).replace("\n", " ")
        raise LoadError(f"{path} does not hold the weights of {name}: {why}") from error
    return network
