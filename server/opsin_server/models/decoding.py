"""Whether a model's pictures are decoded on its device: decided once, while it is loaded.

Nothing is taken on trust. Photographs that come with Opsin are decoded by both; the device's decoder is used
only if its pixels are the CPU's (`ALIKE`), and if the detector makes the same of a tensor as of an array. By
default it has to be worth it too: more pictures a second than the threads of the CPU pool together, as
pictures go through a device's decoder one at a time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from opsin_detectors.api import Detector, ImageInput, LoadError, ModelInfo, Prepared
from opsin_detectors.execution import views
from opsin_server.calls import EncodedImage
from opsin_server.media import device as devices
from opsin_server.media.decode import decode
from opsin_server.media.device import DeviceDecoder, NoCodecError, at_home, working
from opsin_server.media.header import MediaLimits

__all__ = ["ALIKE", "Choice", "Wish", "choose", "takes_tensors"]

Wish = Literal["auto", "cpu", "device"]

ALIKE = 2.0
"""Levels that two decoders' pixels may lie apart on average. They round differently, and interpolate colours
differently at edges, so single pixels may differ by far more."""
EDGES = 0.02, 32
"""And of all values no more than this share may differ by more than so many levels."""
SAME = 2
"""Levels by which what `prepare` gives of a tensor may differ from what it gives of the array."""
ROUNDS = 3
"""Runs over all pictures; the first pays for loading code onto the device, the quickest counts."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What decodes a model's pictures. decoder: None for the CPU. why: in words, for people.

    tried: milliseconds a picture takes, decoded and prepared, on the device and on one thread of the CPU.
    """

    decoder: DeviceDecoder | None
    why: str
    tried: str = ""

    @property
    def name(self) -> str:
        """ "cpu", "nvjpeg"."""
        return "cpu" if self.decoder is None else self.decoder.name


class _UnfitError(Exception):
    """The device's decoder, or the detector, does not do what is needed; the message says what."""


def takes_tensors(info: ModelInfo) -> bool:
    """Whether pictures for a model may come from its device at all."""
    return info.takes_tensors and info.input is not None and info.input.framework == "torch"


def choose(
    detector: Detector, wish: Wish, *, threads: int, clock: Callable[[], float] = time.perf_counter
) -> Choice:
    """What decodes for a loaded detector that takes tensors. threads: of the CPU pool. Takes a moment.

    Raises LoadError where `wish` is "device" and that cannot be.
    """
    if wish == "cpu":
        return Choice(None, "told")
    device = detector.info.device
    try:
        name, codec = devices.open_codec(device)
        decoder = DeviceDecoder(name, device, codec)
        pictures = _pictures()
        _prove(detector, decoder, pictures)
        there = _seconds(detector, pictures, decoder, clock)
    except (NoCodecError, _UnfitError) as error:
        if wish == "device":
            raise LoadError(f"pictures cannot be decoded on {device}: {error}") from error
        return Choice(None, str(error))
    here = _seconds(detector, pictures, None, clock)
    tried = f"{name} {there * 1e3:.2f} ms, cpu {here * 1e3:.2f} ms on each of {threads} threads"
    if wish == "device":
        return Choice(decoder, "told", tried)
    if there < here / threads:
        return Choice(decoder, "chosen", tried)
    return Choice(None, f"{name} is slower than {threads} threads", tried)


def _pictures() -> list[bytes]:
    return [path.read_bytes() for path in views.files()]


def _image(data: bytes, decoder: DeviceDecoder | None, near: tuple[int, int] = (0, 0)) -> ImageInput:
    return decode(EncodedImage(data), MediaLimits(), near, decoder)


def _prove(detector: Detector, decoder: DeviceDecoder, pictures: Sequence[bytes]) -> None:
    proved = 0
    for data in pictures:
        there = _image(data, decoder)
        if not devices.is_tensor(there.pixels):
            continue  # of a kind that is left to the CPU
        proved += 1
        home = at_home(there)
        _check_pixels(decoder, home, _image(data, None))
        _check_prepared(_prepared(detector, there), _prepared(detector, home), decoder)
    if not proved:
        raise _UnfitError(f"{decoder.name} decoded none of {len(pictures)} photographs")


def _check_pixels(decoder: DeviceDecoder, one: ImageInput, other: ImageInput) -> None:
    apart = np.abs(one.pixels.astype(np.int16) - other.pixels)
    share, levels = EDGES
    if apart.mean() > ALIKE or (apart > levels).mean() > share:
        figure = f"{apart.mean():.1f} levels on average, {apart.max()} at most"
        raise _UnfitError(f"{decoder.name}'s pixels are not the CPU's: they lie {figure} apart")


def _check_prepared(one: Prepared, other: Prepared, decoder: DeviceDecoder) -> None:
    tensor: Any = one.data
    if isinstance(tensor, np.ndarray) or not decoder.is_home_of(tensor):
        raise _UnfitError("its detector gives no tensor on the device for one")
    array = tensor.cpu().numpy()
    if array.shape != other.data.shape or array.dtype != np.uint8 or one.shape != other.shape:
        raise _UnfitError("its detector gives something else for a tensor than for an array")
    apart = int(np.abs(array.astype(np.int16) - other.data).max())
    if apart > SAME:
        raise _UnfitError(f"what its detector makes of a tensor lies {apart} levels from that of an array")


def _prepared(detector: Detector, image: ImageInput) -> Prepared:
    """Raises _UnfitError where it fails on a tensor; what it raises for an array, as it is."""
    info = detector.info
    if not devices.is_tensor(image.pixels):
        return detector.prepare(image, min(info.tasks), info.defaults)
    try:
        with working(info.device):
            return detector.prepare(image, min(info.tasks), info.defaults)
    except Exception as error:  # whatever its author did not think of
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise _UnfitError(f"its detector fails on a tensor: {why}") from error


def _seconds(
    detector: Detector, pictures: Sequence[bytes], decoder: DeviceDecoder | None, clock: Callable[[], float]
) -> float:
    """Of one picture: the quickest round's average."""
    near = detector.info.decode_size
    rounds = []
    for _ in range(ROUNDS):
        begun = clock()
        for data in pictures:
            _prepared(detector, _image(data, decoder, near))
        rounds.append((clock() - begun) / len(pictures))
    return min(rounds)
