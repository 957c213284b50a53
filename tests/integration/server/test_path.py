"""The whole path over real gRPC: a picture goes in, what is in it comes out."""

from pathlib import Path

import pytest

from opsin.v1 import BatchDetectRequest, DetectOptions, DetectRequest, EmbedRequest, Image
from opsin.v1.common_pb2 import Box
from serving import serving

PICTURES = Path(__file__).parents[2] / "data" / "images"
ASTRONAUT = (PICTURES / "astronaut.png").read_bytes()
TRUTH = (15 / 512, 14 / 512, 364 / 512, 507 / 512)


def overlap(box: Box) -> float:
    """Intersection over union with the astronaut."""
    x_min, y_min, x_max, y_max = TRUTH
    width = min(box.x_max, x_max) - max(box.x_min, x_min)
    height = min(box.y_max, y_max) - max(box.y_min, y_min)
    both = max(0.0, width) * max(0.0, height)
    areas = (x_max - x_min) * (y_max - y_min) + (box.x_max - box.x_min) * (box.y_max - box.y_min)
    return both / (areas - both)


async def test_the_astronaut_is_found_where_she_is_and_judged_neutral() -> None:
    async with serving("nanodet", "nsfw") as server:
        found = await server.inference.Detect(DetectRequest(image=Image(encoded=ASTRONAUT)))
        person = found.detections[0]
        assert person.label == "person"
        assert person.score >= 0.6
        assert overlap(person.box) >= 0.9
        assert (found.image.width, found.image.height) == (512, 512)
        assert found.model.name == "nanodet"
        judged = await server.inference.Detect(DetectRequest(model="nsfw", image=Image(encoded=ASTRONAUT)))
        assert judged.labels[0].name == "neutral"
        assert judged.labels[0].score >= 0.95
        assert judged.flagged is False
        assert judged.HasField("flagged")
        vector = await server.inference.Embed(EmbedRequest(image=Image(encoded=ASTRONAUT)))
        assert vector.model.name == "nsfw"
        assert len(vector.embedding.values) == 1792


async def test_boxes_come_with_a_vector_each_when_asked() -> None:
    async with serving("nanodet", "nsfw") as server:
        options = DetectOptions(embed_detections=True)
        found = await server.inference.Detect(DetectRequest(image=Image(encoded=ASTRONAUT), options=options))
        assert found.detections
        assert all(d.embedding.dimensions == 1792 for d in found.detections)


async def test_a_region_is_looked_at_alone_and_answered_in_whole_image_coordinates() -> None:
    async with serving("nanodet") as server:
        region = Box(x_min=0.0, y_min=0.0, x_max=0.75, y_max=1.0)
        options = DetectOptions(regions=[region])
        found = await server.inference.Detect(DetectRequest(image=Image(encoded=ASTRONAUT), options=options))
        assert found.detections[0].label == "person"
        assert overlap(found.detections[0].box) >= 0.85
        assert found.detections[0].box.x_max <= 0.75 + 1e-6


async def test_a_classifier_answers_one_detection_for_each_region() -> None:
    async with serving("nsfw") as server:
        regions = [Box(x_min=0, y_min=0, x_max=0.5, y_max=1), Box(x_min=0.5, y_min=0, x_max=1, y_max=1)]
        request = DetectRequest(
            model="nsfw", image=Image(encoded=ASTRONAUT), options=DetectOptions(regions=regions)
        )
        found = await server.inference.Detect(request)
        assert len(found.detections) == 2
        assert all(d.attributes[0].name == "class" for d in found.detections)
        assert all(len(d.attributes[0].labels) == 5 for d in found.detections)


async def test_timings_add_up_to_the_total() -> None:
    """Whatever a call does is in one of its stages; what it waits for a core in between is in none."""
    uncounted: list[float] = []
    async with serving("nanodet") as server:
        while len(uncounted) < 5 or (min(uncounted) > 1 and len(uncounted) < 50):
            times = (await server.inference.Detect(DetectRequest(image=Image(encoded=ASTRONAUT)))).timings
            stages = sum(
                getattr(times, f"{stage}_us")
                for stage in ("admission", "decode", "prepare", "queue", "infer", "finish", "order")
            )
            assert stages <= times.total_us
            uncounted.append((times.total_us - stages) / max(200, 0.05 * times.total_us))
    assert min(uncounted) <= 1


async def test_one_bad_item_of_a_batch_fails_alone() -> None:
    async with serving("echo") as server:
        items = [DetectRequest(model="echo", image=Image(encoded=ASTRONAUT)) for _ in range(3)]
        items[1] = DetectRequest(model="echo", image=Image(encoded=b"\x89PNG\r\n\x1a\nnot really"))
        reply = await server.inference.BatchDetect(BatchDetectRequest(requests=items))
        assert [o.WhichOneof("outcome") for o in reply.outcomes] == ["response", "error", "response"]


@pytest.mark.parametrize("picture", ["coffee.png", "chelsea.png"])
async def test_no_frame_is_lost_for_other_pictures(picture: str) -> None:
    async with serving("nanodet") as server:
        data = (PICTURES / picture).read_bytes()
        found = await server.inference.Detect(DetectRequest(image=Image(encoded=data)))
        assert found.detections
