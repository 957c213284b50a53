"""What a loaded model is, beyond its name and version: servers that share answers must mean the same by it.

`nanodet@1` on two servers is one model only if code, weights, settings and precision agree. The identity is a
digest of all these; where one differs, answers are not shared. Reads files, so it is not for the event loop.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from opsin_detectors.api import ModelInfo

__all__ = ["Origin", "identity"]

_WHOLE = 64 << 20
"""Files up to this size are read whole; of larger ones the size and a few parts count."""
_PART = 1 << 20
_PARTS = 16


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from. folder: where the detector's code, and weights packed with it, lie.

    decoder: of its pictures, where that is not the CPU's, whose pixels others match only nearly.
    """

    detector: str
    source: str
    settings: Mapping[str, str]
    info: ModelInfo
    release: str
    folder: Path | None = None
    decoder: str = ""


def identity(origin: Origin) -> bytes:
    """32 bytes, equal on two servers whose models give the same answers."""
    hasher = hashlib.blake2b(digest_size=32)
    info = origin.info
    plain = (
        origin.release,
        origin.detector,
        origin.source if not Path(origin.source).exists() else "",
        sorted(origin.settings.items()),
        sorted(info.tasks),
        info.classes,
        (info.device.partition(":")[0], info.dtype, info.runtime, origin.decoder),
        (info.input, info.decode_size, info.embedding_dimensions),
        (info.defaults.min_score, info.defaults.iou_threshold),
        info.flag and (sorted(info.flag.classes), info.flag.threshold),
    )
    hasher.update(repr(plain).encode())
    places = [Path(origin.source)] if origin.source else []
    for place in [*places, *([origin.folder] if origin.folder else [])]:
        for name, file in _files(place):
            hasher.update(f"{name} {file.stat().st_size}\n".encode())
            for part in _parts(file):
                hasher.update(part)
    return hasher.digest()


def _files(place: Path) -> Iterator[tuple[str, Path]]:
    if place.is_file():
        yield place.name, place
    elif place.is_dir():
        for file in sorted(p for p in place.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            yield str(file.relative_to(place)), file


def _parts(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        if size <= _WHOLE:
            while part := opened.read(_PART):
                yield part
            return
        for index in range(_PARTS):
            opened.seek((size - _PART) * index // (_PARTS - 1))
            yield opened.read(_PART)
