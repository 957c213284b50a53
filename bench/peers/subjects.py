"""The model files that all contestants serve, and the pictures they are asked about."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import opsin_detectors
from bench.vit import random_vit
from opsin.bench.payloads import make_pictures

__all__ = ["SUBJECTS", "Subject", "Table", "laid_out"]

SUBJECTS = ("nsfw", "nanodet", "vit")
"""nsfw: MobileNetV2 1.4 at 224, genuine weights. nanodet: NanoDet-g at 416, genuine weights. vit: ViT-base/16
at 224 with two labels and random weights, the compute of a common moderation classifier."""

POOL = 32
PHOTOS = Path(__file__).parents[2] / "tests" / "data" / "images"
_BUILT_IN = Path(opsin_detectors.__file__).parent


@dataclass(frozen=True, slots=True)
class Subject:
    """A model. kind and source: as `user_model.load` takes them. spec: as `opsin serve --model` takes it."""

    name: str
    kind: Literal["classifier", "detector"]
    source: str
    spec: str


@dataclass(frozen=True, slots=True)
class Table:
    """What is laid out: the subject, pictures to time, and pictures to compare answers on."""

    subject: Subject
    timed: tuple[str, ...]
    compared: tuple[str, ...]


@contextmanager
def laid_out(name: str) -> Iterator[Table]:
    """Everything there is to be served and asked, for as long as the block runs."""
    with TemporaryDirectory(prefix="opsin-peers-") as folder:
        made = make_pictures(Path(folder), 640, 480, POOL)
        yield Table(_subject(name, Path(folder)), made, (*_photos(Path(folder)), *made[:4]))


def _subject(name: str, folder: Path) -> Subject:
    match name:
        case "nsfw":
            return Subject(name, "classifier", str(_BUILT_IN / "nsfw" / "weights"), "nsfw")
        case "nanodet":
            return Subject(name, "detector", str(_BUILT_IN / "nanodet" / "model.safetensors"), "nanodet")
        case "vit":
            source = str(random_vit(folder / "vit"))
            return Subject(name, "classifier", source, f"vit={source}")
        case _:
            raise ValueError(f"{name} is none of {', '.join(SUBJECTS)}")


def _photos(folder: Path) -> list[str]:
    """The photographs of the tests as JPEGs, so that detectors have something to find."""
    from PIL import Image

    paths = []
    for photo in sorted(PHOTOS.iterdir()):
        if photo.suffix in {".png", ".jpg"}:
            paths.append(str(folder / f"photo-{photo.stem}.jpg"))
            Image.open(photo).convert("RGB").save(paths[-1], quality=92)
    return paths
