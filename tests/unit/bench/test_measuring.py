"""What the measurements take for granted: distinct inputs, counters, rates, sums that add up."""

import asyncio
import time
from pathlib import Path

import pytest
import simplejpeg

from bench.frames import Reel
from bench.groups import GROUPS
from bench.inputs import Kind, image_maker, numbered, pictures
from bench.load import open_loop
from bench.memory import rise
from bench.server import Counters
from bench.shares import deviation
from bench.timings import gap_us, within
from opsin.bench.load import Sample
from opsin.v1 import Timings

METRICS = """\
# TYPE opsin_tickets counter
opsin_tickets_total{model="a@1",end="answered"} 3.0
opsin_tickets_total{model="a@1",end="cancelled"} 4.0
opsin_tickets_total{model="b@2",end="answered"} 5.0
"""


def test_no_two_pictures_are_alike_whatever_their_number_or_seed() -> None:
    with pictures(2) as paths:
        for kind in (Kind(paths), Kind(size=1000)):
            made = [image_maker(kind, seed)(n).SerializeToString() for seed in (0, 1) for n in range(6)]
            assert len(set(made)) == len(made)


def test_a_numbered_picture_shows_the_same() -> None:
    with pictures(1) as (path,):
        jpeg = Path(path).read_bytes()
    assert (simplejpeg.decode_jpeg(numbered(jpeg, 77)) == simplejpeg.decode_jpeg(jpeg)).all()


@pytest.mark.parametrize("size", [1000, 50_000])
def test_raw_pixels_are_as_many_bytes_as_asked_for(size: int) -> None:
    raw = image_maker(Kind(size=size))(0).raw
    assert len(raw.data) == raw.width * raw.height * 3
    assert len(raw.data) == pytest.approx(size, rel=0.05)


def test_counters_add_up_over_the_labels_that_are_not_asked_for() -> None:
    counters = Counters(METRICS)
    assert counters.total("opsin_tickets_total", model="a") == 7
    assert counters.total("opsin_tickets_total", end="answered") == 8
    assert counters.total("opsin_tickets_total", model="b@2", end="answered") == 5
    assert counters.total("opsin_tickets_total", model="c") == 0


async def test_an_open_loop_holds_its_rate_when_nobody_answers_in_time() -> None:
    async def call(_: int) -> Sample:
        await asyncio.sleep(0.2)
        return Sample(0.2)

    begun = time.monotonic()
    recording = await open_loop(call, 500, 0.2, seed=3)
    assert 60 < len(recording.samples) < 150, "about 100 begin, though none has ended by then"
    assert time.monotonic() - begun < 15, "one after another they would take twenty seconds"
    assert recording.seconds > 0.35, "the rate is over the time up to the last answer"


def test_frames_astray_are_those_not_answered_once_at_their_turn() -> None:
    assert Reel(sent=3, sequences=[1, 2, 3]).astray == 0
    assert Reel(sent=3, sequences=[1, 2]).astray == 1
    assert Reel(sent=3, sequences=[1, 3, 2]).astray == 2
    assert Reel(sent=2, sequences=[1, 2, 2]).astray == 1


def test_stages_add_up_within_five_percent_or_200_microseconds() -> None:
    assert gap_us(Timings(total_us=1000, queue_us=300, infer_us=500)) == pytest.approx(200)
    assert within(Timings(total_us=1000, infer_us=800))
    assert not within(Timings(total_us=1000, infer_us=799))
    assert within(Timings(total_us=10_000, infer_us=9_500))
    assert not within(Timings(total_us=10_000, infer_us=9_499))
    assert not within(Timings(total_us=1000, infer_us=1300)), "more than the total is as wrong"


def test_device_time_is_judged_by_the_model_furthest_from_its_share() -> None:
    shares = {"a": 1, "b": 1, "c": 2}
    assert deviation({"a": 5.0, "b": 5.0, "c": 10.0}, shares) == 0
    assert deviation({"a": 6.0, "b": 4.0, "c": 10.0}, shares) == pytest.approx(0.2)


def test_memory_is_judged_once_it_has_settled() -> None:
    filling = [(float(second), min(second, 20) * 1e6) for second in range(121)]
    assert rise(filling) == 0
    assert rise([(second, second * (1 << 20) / 60) for second in range(121)]) == pytest.approx(1.0)


def test_every_measurement_names_a_module_that_there_is() -> None:
    folder = Path(__file__).parents[3]
    assert all((folder / f"{group.module.replace('.', '/')}.py").exists() for group in GROUPS.values())
