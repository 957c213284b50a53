"""What a bench sends. Inputs are distinct, because a server may answer equal ones in flight once.

Pictures are files, made by `make_pictures` or given by the user, so that the bare model can be run on the
same ones; JPEG and PNG files are given a comment with a number, so that one sent twice is not the same file.
Small payloads, for models that hardly look at them, are made as they are sent, each with its number.
"""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any, Literal

__all__ = ["Payload", "make_pictures", "numbered", "opener"]

POOL = 64
"""Distinct pictures that are sent in turn."""


@dataclass(frozen=True, slots=True)
class Payload:
    """How inputs are had: `files` in turn; `raw` pictures or `text` of about `size` bytes, made up.

    same: the first of them, every time.
    """

    kind: Literal["files", "raw", "text"]
    paths: tuple[str, ...] = ()
    size: int = 0
    same: bool = False


def opener(payload: Payload, seed: int) -> Callable[[int], Any]:
    """A function from a call's number to its input as `opsin.Client` takes it. Files are read once, here."""
    if payload.same:
        only = opener(replace(payload, same=False), 0)(0)
        return lambda _: only
    match payload.kind:
        case "files":
            pool = [Path(path).read_bytes() for path in payload.paths]
            return lambda number: numbered(pool[(seed + number) % len(pool)], (seed << 40) + number)
        case "raw":
            return _raw(payload.size, seed)
        case "text":
            return _text(payload.size, seed)


def numbered(picture: bytes, number: int) -> bytes:
    """The same picture as a different file, below 2**64: JPEG and PNG can say so; others stay as they are."""
    note = number.to_bytes(8, "big")
    if picture.startswith(b"\xff\xd8"):  # a comment right behind the start of the image
        return picture[:2] + b"\xff\xfe\x00\x0a" + note + picture[2:]
    if picture.startswith(b"\x89PNG\r\n\x1a\n"):  # a text chunk right behind the header chunk, 8 + 25 bytes
        text = b"tEXt" + b"Comment\0" + note.hex().encode()
        chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
        return picture[:33] + chunk + picture[33:]
    return picture


def _raw(size: int, seed: int) -> Callable[[int], Any]:
    import opsin

    side = max(3, isqrt(size // 3))
    noise = random.Random(seed).randbytes(side * side * 3 - 16)  # noqa: S311
    # The first pixels are grey: test models read meanings into pure colours there.
    start = bytes([114]) * 8

    def make(number: int) -> Any:
        return opsin.RawFrame(start + noise + number.to_bytes(8, "little"), side, side)

    return make


def _text(size: int, seed: int) -> Callable[[int], Any]:
    import opsin

    letters = "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz     ", k=size))  # noqa: S311
    return lambda number: opsin.Text(f"{seed}-{number} {letters}"[: max(size, 24)])


def make_pictures(folder: Path, width: int, height: int, count: int = POOL) -> tuple[str, ...]:
    """JPEGs of that many pixels, soft shapes with some grain: as large and as hard to decode as photos."""
    import numpy as np
    from PIL import Image

    paths = []
    for number in range(count):
        chance = np.random.default_rng(number)
        soft = Image.fromarray(chance.integers(0, 255, (9, 12, 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        grain = chance.normal(0, 6, (height, width, 1))
        picture = Image.fromarray(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8))
        paths.append(str(folder / f"{number:03d}.jpg"))
        picture.save(paths[-1], quality=85)
    return tuple(paths)
