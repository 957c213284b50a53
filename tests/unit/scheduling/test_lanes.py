"""What a lane promises its owner, on both kinds of device."""

import threading
from queue import Queue
from typing import Any

import pytest

from opsin_server.scheduling.lanes import Lane, Report


class Step:
    """A job that says when it was launched, and is collected when the test lets it."""

    def __init__(self, *, launch_fails: bool = False) -> None:
        self.launched = threading.Event()
        self.may_end = threading.Event()
        self.launch_fails = launch_fails

    def launch(self, lane: Lane) -> str:
        self.launched.set()
        if self.launch_fails:
            raise ValueError("no")
        return "launched"

    def collect(self, lane: Lane, launched: object) -> Any:
        assert launched == "launched"
        assert self.may_end.wait(10)
        return self


@pytest.mark.parametrize("depth", [1, 2])
def test_jobs_are_reported_in_the_order_they_were_given(depth: int) -> None:
    reports: Queue[Report] = Queue()
    lane = Lane(0, reports.put, depth=depth)
    for failing in (False, True, False):
        job = Step(launch_fails=failing)
        job.may_end.set()
        lane.give(job)
        report = reports.get(timeout=10)
        assert report.job is job
        assert (report.error is not None) is failing
        lane.release(report)
    lane.close()
    assert lane.join(10)


def test_a_deep_lane_launches_the_next_job_while_the_device_works_on_the_first() -> None:
    reports: Queue[Report] = Queue()
    lane = Lane(0, reports.put, depth=2)
    first, second = Step(), Step()
    lane.give(first)
    lane.give(second)
    assert second.launched.wait(10)
    assert not first.may_end.is_set()
    first.may_end.set()
    second.may_end.set()
    one, two = reports.get(timeout=10), reports.get(timeout=10)
    assert (one.job, two.job) == (first, second)
    assert two.started >= one.ended  # the device does one at a time
    lane.close()
    assert lane.join(10)


def test_a_shallow_lane_has_room_for_one_job() -> None:
    reports: Queue[Report] = Queue()
    lane = Lane(0, reports.put)
    job = Step()
    lane.give(job)
    assert not lane.room
    with pytest.raises(RuntimeError, match="busy"):
        lane.give(Step())
    job.may_end.set()
    lane.release(reports.get(timeout=10))
    assert lane.room
    lane.close()
    assert lane.join(10)


def test_an_abandoned_lane_reports_nothing_and_its_threads_end_when_the_job_does() -> None:
    reports: Queue[Report] = Queue()
    lane = Lane(0, reports.put, depth=2)
    job = Step()
    lane.give(job)
    lane.abandon()
    job.may_end.set()
    assert lane.join(10)
    assert reports.empty()
