"""A detector that looks at nothing and is always right: the server's own cost, and its faults, made visible.

It answers a picture with one detection over the whole of it and the label `echo`, a text with the label, and
embeds both to 8 numbers (`image_vector`, `text_vector`). It is the yardstick for throughput, so the work per
item is a handful of attribute reads. Settings, all off by default:

    delay_ms, delay_item_ms   infer sleeps so long per batch, and per item
    poison=true               a picture whose first pixel is magenta (255, 0, 255) makes infer raise
    hang=true                 first pixel cyan (0, 255, 255): infer does not return before `close`
    short=true                first pixel yellow (255, 255, 0): one answer too few
    light=false               run on the lanes as a real model would; so it does with any of the above
"""

import hashlib
import threading
import time
from collections.abc import Sequence

import numpy as np

from opsin_detectors.api import (
    Box,
    Detection,
    Detector,
    ImageInput,
    Input,
    Item,
    Label,
    LoadContext,
    ModelInfo,
    Options,
    Output,
    Pixels,
    Prepared,
    Task,
    TextInput,
    Vector,
)
from opsin_detectors.settings import Settings

__all__ = ["CYAN", "DIMENSIONS", "MAGENTA", "YELLOW", "Echo", "image_vector", "text_vector"]

DIMENSIONS = 8
MAGENTA, CYAN, YELLOW = b"\xff\x00\xff", b"\x00\xff\xff", b"\xff\xff\x00"

_LABELS = (Label("echo", 1.0),)
_WHOLE = (Detection(Box(0.0, 0.0, 1.0, 1.0), "echo", 1.0),)
_PICTURE = Output(detections=_WHOLE, labels=_LABELS)
_TEXT = Output(labels=_LABELS)


class Echo(Detector):
    """See the module. The batch is a list of (first pixel or b"", Output)."""

    def __init__(self, context: LoadContext) -> None:
        settings = Settings(context)
        self._delay = settings.number("delay_ms", 0.0, least=0.0) / 1000
        self._delay_item = settings.number("delay_item_ms", 0.0, least=0.0) / 1000
        faults: tuple[tuple[str, bytes], ...] = (("poison", MAGENTA), ("hang", CYAN), ("short", YELLOW))
        self._faults = {colour: name for name, colour in faults if settings.switch(name)}
        light = settings.switch("light", not (self._delay or self._delay_item or self._faults))
        settings.done()
        self._closed = threading.Event()
        self.info = ModelInfo(
            tasks=frozenset(
                {Task.DETECT, Task.CLASSIFY_IMAGE, Task.CLASSIFY_TEXT, Task.EMBED_IMAGE, Task.EMBED_TEXT}
            ),
            classes=("echo",),
            embedding_dimensions=DIMENSIONS,
            max_batch=64,
            light=light,
            device=context.device,
        )

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        """Never refuses anything."""
        match source:
            case ImageInput():
                # Reading the pixel costs a copy of three bytes, and only models with faults pay it.
                mark = source.pixels[0, 0].tobytes() if self._faults else b""
                answer = Output(vector=image_vector(source)) if task is Task.EMBED_IMAGE else _PICTURE
            case TextInput():
                mark = b""
                answer = Output(vector=text_vector(source.text)) if task is Task.EMBED_TEXT else _TEXT
        return Prepared((mark, answer))

    def infer(self, batch: Sequence[tuple[bytes, Output]]) -> list[Output]:
        """Sleep as told (the GIL is free meanwhile, as with a device), then hand the answers on."""
        delay = self._delay + self._delay_item * len(batch)
        if delay:
            time.sleep(delay)
        if self._faults:
            return self._with_faults(batch)
        return [answer for _, answer in batch]

    def finish(self, outputs: Sequence[Output], items: Sequence[Item]) -> Sequence[Output]:
        """The answers as they are."""
        return outputs

    def close(self) -> None:
        """Let go of every `infer` that hangs; it raises."""
        self._closed.set()

    def _with_faults(self, batch: Sequence[tuple[bytes, Output]]) -> list[Output]:
        seen = {self._faults.get(mark, "") for mark, _ in batch}
        if "hang" in seen:
            self._closed.wait()
            raise RuntimeError("echo hung, as told, until it was closed")
        if "poison" in seen:
            raise RuntimeError("echo was poisoned, as told")
        return [answer for mark, answer in batch if self._faults.get(mark) != "short"]


def image_vector(image: ImageInput) -> Vector:
    """Eight numbers about a picture, float32, each in 0..1.

    Mean of red, green and blue; standard deviation of red, green and blue; width / (width + height); 1. Means
    and deviations are over a grid of at most 64 x 64 pixels: every n-th row and column from the first, n the
    least that is enough.
    """
    sample = _grid(image.pixels).reshape(-1, 3) / np.float32(255)
    shape = image.width / max(1, image.width + image.height)
    return np.concatenate([sample.mean(0), sample.std(0), [shape, 1.0]]).astype(np.float32)


def text_vector(text: str) -> Vector:
    """Eight numbers about a text, float32, each in 0..1: the bytes of its 8-byte BLAKE2b digest / 255."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIMENSIONS).digest()
    return np.frombuffer(digest, np.uint8).astype(np.float32) / np.float32(255)


def _grid(pixels: Pixels) -> Pixels:
    rows, columns = (-(-side // 64) for side in pixels.shape[:2])
    return pixels[:: max(1, rows), :: max(1, columns)]
