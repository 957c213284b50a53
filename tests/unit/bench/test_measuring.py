"""What the measurements take for granted: distinct inputs, counters, rates, sums that add up."""

import asyncio
import sys
import time
from pathlib import Path

import pytest
import simplejpeg

from bench import overhead
from bench.frames import Reel
from bench.groups import GROUPS
from bench.inputs import Kind, image_maker, numbered, pictures
from bench.load import Load, open_loop
from bench.memory import rise
from bench.scale import Scale
from bench.server import Counters, Process
from bench.shares import deviation
from bench.threads import cpu_by_thread
from bench.timings import gap_us, within
from bench.tree import Tree
from opsin.bench.load import Recording, Sample
from opsin.v1 import Timings

BURNS = """
import subprocess, sys, time
burn = "import time\\nwhile time.process_time() < 0.4: pass\\nprint('burnt', flush=True)\\n"
print("ready at 127.0.0.1:1", flush=True)
subprocess.run([sys.executable, "-c", burn], check=True)
both = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
child = subprocess.Popen([sys.executable, "-c", burn + "input()"], **both)
child.stdout.readline()
print("ended", flush=True)
child.wait()
"""
METRICS = """\
# TYPE opsin_tickets counter
opsin_tickets_total{model="a@1",end="answered"} 3.0
opsin_tickets_total{model="a@1",end="cancelled"} 4.0
opsin_tickets_total{model="b@2",end="answered"} 5.0
"""


def _said(server: Process) -> str:
    assert server._process.stdout is not None
    return server._process.stdout.readline()


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


def test_a_counter_that_the_server_does_not_have_is_no_zero() -> None:
    with pytest.raises(KeyError, match="counts no opsin_tikets_total"):
        Counters(METRICS).total("opsin_tikets_total")
    silent = "# TYPE opsin_batch_size histogram\n# TYPE opsin_queued gauge\n"
    for name in ("opsin_batch_size_sum", "opsin_batch_size_count", "opsin_queued"):
        assert Counters(silent).total(name, model="a") == 0, "it has counted nothing so far"


def test_what_a_server_costs_is_what_all_its_processes_cost() -> None:
    """One that lives and one that has ended: each burns more than the first process does."""
    with Process([sys.executable, "-c", BURNS]) as server:
        while "ended" not in (said := _said(server)):
            assert said
        assert server.cpu_seconds() > 0.6
        assert server.memory_bytes() > Tree(server.pid).processes()[0].memory_info().rss
        assert sum(cpu_by_thread(server.pid).values()) > 0.3, "of those that live"


def test_runs_of_the_cost_of_a_call_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int, int]] = []

    class Still(Process):
        def __init__(self, target: str) -> None:
            self.target = target

        def cpu_seconds(self) -> float:
            return 0.0

    def drive(load: Load) -> Recording:
        ran.append((load.target, load.kind.size, load.callers))
        return Recording(seconds=1.0)

    monkeypatch.setattr(overhead, "drive", drive)
    overhead._turns(Still("ours"), Still("null"), Scale(rounds=2))
    a_round = [(target, *run) for run in overhead.RUNS for target in ("ours", "null")]
    assert ran == a_round * 3


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
