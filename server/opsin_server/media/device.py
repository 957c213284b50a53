"""JPEGs decoded on the model's device: who decodes, what goes there, and what comes back.

A `DeviceDecoder` gives an `ImageInput` whose pixels are a torch tensor on its device, or nothing: then the
CPU's decoder has the file. It gives nothing for whatever it is not certain about, so that what a caller is
answered or refused does not hang on where a picture was decoded. Torch is loaded only by those who have a
device.

Each thread issues its work to a stream of its own (`working`), which is idle again when a function here
returns. What other streams read afterwards is there; and a decoder that writes its pixels without waiting for
earlier work of the thread's stream, as torchvision's does, is never given memory that is still read.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import structlog

from opsin_detectors.api import ImageInput
from opsin_server.media.exif import moves, upright_size
from opsin_server.media.header import Data, Header
from opsin_server.media.plain_jpeg import is_plain

__all__ = ["Codec", "DeviceDecoder", "NoCodecError", "at_home", "is_tensor", "open_codec", "tight", "working"]

log = structlog.get_logger(__name__)

Codec = Callable[[Data], Any]
"""A JPEG file's bytes -> a tensor of uint8 RGB, (rows, columns, 3), as stored. Raises RuntimeError."""

_CORNER = 16
"""Pixels. The last unit of coded data is no larger, and that is what is missing first."""


class NoCodecError(Exception):
    """Nothing decodes on a device; the message says why."""


class DeviceDecoder:
    """Decodes for one device. May be used in several threads at once.

    name: of the codec, as people are told. device: "cuda:0".
    """

    def __init__(self, name: str, device: str, codec: Codec) -> None:
        self.name = name
        self.device = device
        self._codec = codec
        self._failed = False

    def decode(self, data: Data, header: Header) -> ImageInput | None:
        """The upright picture, or None: the CPU's decoder shall answer, or refuse with its own words.

        The header has been read, and was within the limits.
        """
        if not is_plain(data, header):
            return None
        try:
            with working(self.device):
                pixels = self._codec(data)
                if tuple(pixels.shape) != (header.height, header.width, 3) or _painted_over(pixels):
                    return None
                upright = _upright(pixels, header.orientation)
        except RuntimeError as error:  # torch's own for all of them: a file it cannot read, want of memory
            _calm(self.device)
            self._note(error)
            return None
        return ImageInput(upright, *upright_size(header.width, header.height, header.orientation))

    def is_home_of(self, tensor: Any) -> bool:
        """Whether a tensor is on this device."""
        kind, _, index = self.device.partition(":")
        return tensor.device.type == kind and (tensor.device.index or 0) == int(index or 0)

    def _note(self, error: RuntimeError) -> None:
        """Once: a device that is lost fails every picture."""
        if not self._failed:
            self._failed = True
            log.warning("device_decoding_failed", codec=self.name, device=self.device, error=str(error)[:200])


def open_codec(device: str) -> tuple[str, Codec]:
    """What decodes on a device, by name. Raises NoCodecError."""
    if not device.startswith("cuda"):
        raise NoCodecError(f"nothing decodes on {device} but the CPU's own decoder")
    try:
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise NoCodecError(f"torchvision is not there: pip install 'opsin[nvjpeg]' ({error})") from error

    def nvjpeg(data: Data) -> Any:
        encoded = torch.from_numpy(np.frombuffer(data, np.uint8).copy())  # torch wants it writable
        planes = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
        return planes.permute(1, 2, 0).contiguous()

    return "nvjpeg", nvjpeg


def is_tensor(pixels: Any) -> bool:
    """Whether pixels are a tensor rather than an array."""
    return not isinstance(pixels, np.ndarray)


def at_home(image: ImageInput) -> ImageInput:
    """The same picture with its pixels in an array."""
    if not is_tensor(image.pixels):
        return image
    tensor: Any = image.pixels
    return ImageInput(np.ascontiguousarray(tensor.cpu().numpy()), image.width, image.height)


def tight(tensor: Any) -> Any:
    """A copy whose rows lie close together; the tensor itself where they do."""
    with working(str(tensor.device)):
        return tensor.contiguous()


_own = threading.local()


@contextmanager
def working(device: str) -> Iterator[None]:
    """What this thread issues to a GPU meanwhile goes to a stream of its own, and is done at the end."""
    if not device.startswith("cuda"):
        yield
        return
    import torch

    streams = _own.__dict__
    stream = streams.get(device) or streams.setdefault(device, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        try:
            yield
        finally:
            stream.synchronize()


def _calm(device: str) -> None:
    """Wait for a GPU: a decoder that failed may still write to memory that was given back."""
    if device.startswith("cuda"):
        import torch

        with suppress(RuntimeError):  # it is lost; the lanes will say so
            torch.cuda.synchronize(device)


def _painted_over(pixels: Any) -> bool:
    """Whether the last corner is of one colour: so are parts that a decoder made up for missing data."""
    corner = pixels[-_CORNER:, -_CORNER:]
    return bool((corner == corner[-1, -1]).all())


def _upright(pixels: Any, turn: int) -> Any:
    """As `exif.turn_upright` does with arrays."""
    swapped, mirrored = moves(turn)
    if swapped:
        pixels = pixels.transpose(0, 1)
    return (pixels.flip(mirrored) if mirrored else pixels).contiguous()
