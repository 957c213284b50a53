"""Pictures of sizes that nobody thinks of share a batch with ordinary ones, and break nothing."""

import io

import numpy as np
import pytest
from PIL import Image

from opsin_detectors.api import Detector, Item, LoadContext, Options, Task
from opsin_detectors.finder import find, load
from opsin_server.calls import EncodedImage
from opsin_server.media.decode import decode
from opsin_server.media.header import MediaLimits
from opsin_server.models.loaded import LoadedModel

SIZES = [(1, 1), (1, 4000), (4000, 1), (2, 3), (3000, 2), (64, 48)]
"""Width and height."""


@pytest.fixture(scope="module")
def face_emotion() -> Detector:
    return load(find()["face-emotion"], LoadContext("face-emotion"))


def encoded(width: int, height: int, kind: str) -> EncodedImage:
    data = io.BytesIO()
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(data, kind)
    return EncodedImage(data.getvalue())


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("name", ["nanodet", "nsfw", "face_emotion"])
def test_the_smallest_and_the_narrowest_pictures_are_answered_in_one_batch_with_others(
    name: str, kind: str, request: pytest.FixtureRequest
) -> None:
    model = LoadedModel(name.replace("_", "-"), 1, request.getfixturevalue(name))
    task = Task.DETECT if Task.DETECT in model.info.tasks else Task.CLASSIFY_IMAGE
    options = Options(min_score=0.01)
    near = model.info.decode_size
    images = [decode(encoded(*size, kind), MediaLimits(), near=near) for size in SIZES]
    assert [(one.width, one.height) for one in images] == SIZES
    prepared = [model.detector.prepare(one, task, options) for one in images]
    items = [
        Item(task, options, ready.state, one.width, one.height)
        for ready, one in zip(prepared, images, strict=True)
    ]
    answers = model.finish(model.collect(model.launch(prepared, {}), {}), items)
    assert len(answers) == len(SIZES)
    for answer in answers:
        assert not isinstance(answer, Exception)
        for found in answer.detections:
            assert 0 <= found.box.x_min <= found.box.x_max <= 1
            assert 0 <= found.box.y_min <= found.box.y_max <= 1
