"""What is sent: requests made as they go, no two alike, because equal inputs in flight may be answered once.

A picture is one of a pool of JPEGs with a comment that holds its number; raw pixels and texts hold theirs in
the content. Written into one small `Kind` that crosses to other processes.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.numbering import numbered
from opsin.bench.payloads import make_pictures
from opsin.v1 import DetectRequest, EmbedRequest, Image, RawImage

__all__ = ["Kind", "image_maker", "numbered", "pictures", "request_maker", "text_request"]

POOL = 32


@dataclass(frozen=True, slots=True)
class Kind:
    """paths: JPEGs to send in turn; none: raw pixels of about `size` bytes."""

    paths: tuple[str, ...] = ()
    size: int = 1000


@contextmanager
def pictures(count: int = POOL) -> Iterator[tuple[str, ...]]:
    """Made-up photographs of 640 x 480, for as long as the block runs."""
    with TemporaryDirectory(prefix="opsin-figures-") as folder:
        yield make_pictures(Path(folder), 640, 480, count)


def image_maker(kind: Kind, seed: int = 0) -> Callable[[int], Image]:
    """A function from a number to a picture that no other number or seed makes."""
    if kind.paths:
        pool = [Path(path).read_bytes() for path in kind.paths]
        return lambda number: Image(
            encoded=numbered(pool[(seed + number) % len(pool)], (seed << 40) + number)
        )
    side = max(4, isqrt(kind.size // 3))
    noise = random.Random(seed).randbytes(side * side * 3 - 16)
    # The first pixels are grey: test models read meanings into pure colours there.
    start = bytes([114]) * 8

    def raw(number: int) -> Image:
        return Image(raw=RawImage(data=start + noise + number.to_bytes(8, "little"), width=side, height=side))

    return raw


def request_maker(kind: Kind, model: str, seed: int = 0) -> Callable[[int], DetectRequest]:
    """The same as whole requests."""
    image = image_maker(kind, seed)
    return lambda number: DetectRequest(model=model, image=image(number))


def text_request(model: str, text: str) -> EmbedRequest:
    """A text to embed as it is: not scaled, so that the answer can be checked to the last digit."""
    return EmbedRequest(model=model, text=text, normalize=False)
