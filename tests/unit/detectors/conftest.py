"""Loaded detectors, shared by a session, and the sample pictures with what was recorded for them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from opsin_detectors.api import Detector, ImageInput, LoadContext
from opsin_detectors.finder import find, load
from opsin_detectors.testing import image

TESTS = Path(__file__).parents[2]

Picture = Callable[[str], ImageInput]
Echo = Callable[..., Detector]


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models on a shared machine: a second torch thread mostly spins while it waits for a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def nanodet() -> Detector:
    return load(find()["nanodet"], LoadContext("nanodet"))


@pytest.fixture(scope="session")
def nsfw() -> Detector:
    return load(find()["nsfw"], LoadContext("nsfw"))


@pytest.fixture
def echo() -> Echo:
    return lambda **settings: load(find()["echo"], LoadContext("echo", settings=settings))


@pytest.fixture(scope="session")
def picture() -> Picture:
    def read(name: str) -> ImageInput:
        with Image.open(TESTS / "data" / "images" / name) as opened:
            return image(np.array(opened.convert("RGB")))

    return read


@pytest.fixture(scope="session")
def recorded() -> Callable[[str], dict[str, Any]]:
    def read(name: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((TESTS / "recorded" / f"{name}.json").read_text())
        return answer

    return read
