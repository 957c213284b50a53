"""Large raw pictures, which are not parsed, are answered as all others are; odd secrets sign streams."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from opsin.v1 import (
    DetectRequest,
    EmbedRequest,
    Frame,
    Freshness,
    Image,
    PixelFormat,
    RawImage,
    StreamConfig,
    StreamDetectRequest,
)
from serving import serving

SHAPE = (720, 1280, 3)
RGB = np.random.default_rng(5).integers(0, 256, SHAPE, np.uint8)


def raw(pixels: np.ndarray, form: PixelFormat = PixelFormat.PIXEL_FORMAT_RGB24) -> Image:
    return Image(raw=RawImage(data=pixels.tobytes(), width=SHAPE[1], height=SHAPE[0], format=form))


def png() -> Image:
    file = io.BytesIO()
    Pillow.fromarray(RGB).save(file, "PNG", compress_level=0)
    return Image(encoded=file.getvalue())


@pytest.mark.parametrize("light", ["true", "false"])
@pytest.mark.parametrize("memory", [0, 1 << 20])
async def test_what_was_not_parsed_is_the_picture_that_was_sent(light: str, memory: int) -> None:
    bgr = raw(RGB[..., ::-1], PixelFormat.PIXEL_FORMAT_BGR24)
    async with serving(f"echo=echo,light={light}", cache={"memory_bytes": memory}) as server:
        vectors = [
            list((await server.inference.Embed(EmbedRequest(image=image))).embedding.values)
            for image in (png(), raw(RGB), bgr, raw(RGB))
        ]
        assert vectors[1:] == [vectors[0]] * 3
        reply = await server.inference.Detect(DetectRequest(image=raw(RGB)))
        assert (reply.image.width, reply.image.height) == (SHAPE[1], SHAPE[0])


async def test_streamed_ones_too() -> None:
    async with serving("echo") as server:
        stream = server.inference.StreamDetect()
        await stream.write(StreamDetectRequest(config=StreamConfig(model="echo", freshness=Freshness())))
        assert (await stream.read()).HasField("ready")
        for sequence in range(1, 4):
            await stream.write(StreamDetectRequest(frame=Frame(sequence=sequence, image=raw(RGB))))
            result = (await stream.read()).result
            assert (result.sequence, result.response.image.width) == (sequence, SHAPE[1])
        await stream.done_writing()


async def test_a_secret_of_bytes_that_are_no_text_signs_too() -> None:
    """As a variable of the environment may be."""
    async with serving("echo", streams={"secret": "é\udcff"}) as server:
        stream = server.inference.StreamDetect()
        await stream.write(StreamDetectRequest(config=StreamConfig(model="echo", freshness=Freshness())))
        assert (await stream.read()).ready.resume_token
        await stream.done_writing()
