"""What detectors on torch share: choosing device and number type, normalising a batch, counting bytes.

Knows no model. Sets no thread counts: that is the business of whoever runs the lanes.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from opsin_detectors.api import LoadContext, LoadError

__all__ = ["Normalizer", "bytes_of", "device_of", "dtype_of", "layout_of", "name_of", "placed"]

_Module = TypeVar("_Module", bound=nn.Module)

_DTYPES = {
    "auto": torch.float32,  # exact everywhere; a narrower default has to earn its place by measurement
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


_TORCH = ("auto", "eager", "channels_last")


def dtype_of(context: LoadContext) -> torch.dtype:
    """The number type asked for, where torch runs the network and nothing is chosen.

    Raises LoadError naming the known ones, and for a runtime that is not torch's.
    """
    if context.runtime not in _TORCH:
        raise LoadError(
            f"runtime {context.runtime} cannot run model “{context.name}”; it can be {', '.join(_TORCH)}"
        )
    if context.dtype not in _DTYPES:
        raise LoadError(
            f"dtype of model “{context.name}” has to be one of {', '.join(_DTYPES)}, not {context.dtype}"
        )
    return _DTYPES[context.dtype]


def device_of(context: LoadContext) -> torch.device:
    """The device asked for, checked to be there. Raises LoadError when it is not."""
    try:
        device = torch.device(context.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise LoadError(
            f"device “{context.device}” of model “{context.name}” cannot be used: {why}"
        ) from error
    return device


def layout_of(context: LoadContext) -> str:
    """How a network of convolutions is laid out: "eager" where that is told, else "channels_last"."""
    return "eager" if context.runtime == "eager" else "channels_last"


def placed(
    module: _Module, device: torch.device, dtype: torch.dtype, layout: str = "channels_last"
) -> _Module:
    """The module on its device and of its type, for inference only. layout: as `layout_of` tells it."""
    module.eval().requires_grad_(False).to(device, dtype)
    if layout == "channels_last":
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def name_of(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def bytes_of(module: nn.Module) -> int:
    """Bytes of a module's weights and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


class Normalizer:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) of the model's type, channels-last: (level - mean) / deviation.

    The permuted view of interleaved pixels is channels-last already, so the conversion is one pass over
    memory.
    mean, deviation: per channel, in levels 0..255.
    """

    def __init__(
        self, mean: Sequence[float], deviation: Sequence[float], device: torch.device, dtype: torch.dtype
    ) -> None:
        self._dtype = dtype
        self._scale = (1.0 / torch.tensor(deviation, device=device)).view(-1, 1, 1)
        self._shift = -torch.tensor(mean, device=device).view(-1, 1, 1) * self._scale

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Normalise in float32, then round once to the model's type."""
        levels = batch.permute(0, 3, 1, 2).to(torch.float32)
        return torch.addcmul(self._shift, levels, self._scale).to(self._dtype)
