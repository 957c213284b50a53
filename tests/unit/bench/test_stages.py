"""CPU time by stage: whose thread it was, and where the samples of a profile fall."""

import os
from pathlib import Path

import pytest

from bench.flames import by_function, by_role, parse
from bench.inputs import pictures
from bench.stage_costs import STEPS, costs
from bench.threads import ROLES, cpu_by_thread, role, shares
from opsin_detectors.api import LoadContext
from opsin_detectors.finder import find, load
from opsin_detectors.sources import parse as parse_spec
from opsin_detectors.sources import resolve

FOLDED = """\
thread (0x7F01): MainThread;main (app.py:9);run (loop.py:12) 30
thread (0x7F02): lane-0-1;work (lanes.py:5);infer (detector.py:40) 50
thread (0x7F02): lane-0-1;work (lanes.py:5);infer (detector.py:41) 10
thread (0x7F03): opsin-cpu-2;_work (pool.py:3);decode (decode.py:7) 10
"""


@pytest.mark.parametrize(
    ("name", "does"),
    [
        ("MainThread", "event loop"),
        ("opsin-cpu-3", "decode and prepare"),
        ("lane-1-2", "infer"),
        ("finish_0", "finish"),
        ("event_engine", "gRPC"),
        ("Thread-1 (_poller_wrapper)", "gRPC"),
        ("watchdog", "other"),
        ("", "other"),
    ],
)
def test_a_thread_is_known_by_its_name(name: str, does: str) -> None:
    assert role(name) == does


def test_time_counts_from_the_first_look_and_a_new_thread_from_nothing() -> None:
    called = {1: "MainThread", 2: "lane-0-0", 3: "lane-1-0"}
    found = shares({1: 1.0, 2: 5.0}, {1: 1.5, 2: 7.0, 3: 0.25, 4: 0.125}, called)
    assert found == dict.fromkeys(ROLES, 0.0) | {"event loop": 0.5, "infer": 2.25, "other": 0.125}


def test_the_system_tells_the_time_of_every_thread_of_a_process() -> None:
    assert os.getpid() in cpu_by_thread(os.getpid())


def test_a_profile_is_told_by_thread_and_by_function_whatever_the_line() -> None:
    stacks = parse(FOLDED)
    assert dict(by_role(stacks)) == {"infer": 0.6, "event loop": 0.3, "decode and prepare": 0.1}
    assert by_function(stacks)[0] == ("infer: infer (detector.py)", 0.6)
    assert sum(share for _, share in by_function(stacks)) == pytest.approx(1)


def test_the_cost_of_each_step_is_its_own_threads_time() -> None:
    spec = parse_spec("echo")
    resolved = resolve(spec, find(()))
    model = load(resolved.found, LoadContext("echo", resolved.source))
    with pictures(2) as paths:
        batch = [Path(path).read_bytes() for path in paths]
    found = costs(model, batch, 0.02)
    assert tuple(found) == STEPS
    assert found["decode"] > 0
