"""All lanes of a device: which are idle, which are lost, and whether the device as a whole makes progress.

A lane is lost when its batch runs longer than `stall_timeout`, or its thread dies. It is replaced, and the
new lane counts as making progress only after it has run a probe, where there is one. After `spare` losses no
more threads are spent: each lost one may hold a core and memory for good, and a process in that state is
better restarted, which the health it reports will bring about.

Runs on the owner's thread; decides nothing about tickets.
"""

import itertools
from collections.abc import Callable

import structlog

from opsin_server.scheduling.lanes import Job, Lane, Report

__all__ = ["Fleet"]

log = structlog.get_logger(__name__)


class Fleet:
    """The lanes of one device.

    report: what lanes call, on their own threads, when a job is done.
    on_health: told when the answer of `healthy` changes.
    """

    def __init__(
        self,
        count: int,
        report: Callable[[Report], None],
        *,
        threads: int,
        depth: int = 1,
        spare: int,
        on_health: Callable[[], None],
    ) -> None:
        self._report = report
        self._threads = threads
        self._depth = depth
        self._spare = spare
        self._on_health = on_health
        self._ids = itertools.count()
        self._lanes = [self._new() for _ in range(count)]
        self._unproven: set[Lane] = set()
        self._lost = 0
        self.healthy = True
        """Whether some lane makes progress."""

    def __len__(self) -> int:
        return len(self._lanes)

    def __contains__(self, lane: Lane) -> bool:
        return lane in self._lanes

    @property
    def idle(self) -> list[Lane]:
        """Lanes that have nothing to do."""
        return [lane for lane in self._lanes if lane.idle and lane not in self._unproven]

    @property
    def free(self) -> Lane | None:
        """A lane that has nothing to do, if there is one."""
        return next((lane for lane in self._lanes if not lane.jobs and lane not in self._unproven), None)

    def proven(self, lane: Lane) -> bool:
        """Whether a lane has run something since it took a lost one's place."""
        return lane not in self._unproven

    @property
    def ahead(self) -> list[Lane]:
        """Lanes that are at work and have room for the job after."""
        return [lane for lane in self._lanes if lane.jobs and lane.room and lane not in self._unproven]

    @property
    def jobs(self) -> list[Job]:
        """What was given and not yet reported."""
        return [job for lane in self._lanes for job in lane.jobs]

    def release(self, report: Report) -> bool:
        """A lane has reported: it is idle again. False when it was given up before: its report is void."""
        if report.lane not in self._lanes:
            return False
        report.lane.release(report)
        if report.lane in self._unproven and report.error is None:
            self._unproven.discard(report.lane)
            self._tell()
        return True

    def stalled(self, now: float, timeout: float) -> list[Lane]:
        """Lanes whose job has run for longer than `timeout` seconds."""
        return [lane for lane in self._lanes if lane.stalled(now, timeout)]

    def replace(self, lane: Lane, probe: Job | None = None) -> None:
        """Give a lane up, and put a new one in its place while there are spare ones.

        probe: what the new lane has to run before it counts as sound.
        """
        lane.abandon()
        self._lost += 1
        self._unproven.discard(lane)
        place = self._lanes.index(lane)
        if self._lost > self._spare:
            del self._lanes[place]
            log.error("lane_not_replaced", lane=lane.index, lost=self._lost)
        else:
            self._lanes[place] = fresh = self._new()
            if probe is not None:
                self._unproven.add(fresh)
                fresh.give(probe)
        self._tell()

    def close(self) -> list[Lane]:
        """Let every thread end after its job; returns the lanes, to wait for."""
        for lane in self._lanes:
            lane.close()
        return list(self._lanes)

    def _new(self) -> Lane:
        return Lane(next(self._ids), self._report, threads=self._threads, depth=self._depth)

    def _tell(self) -> None:
        healthy = any(lane not in self._unproven for lane in self._lanes)
        if healthy != self.healthy:
            self.healthy = healthy
            self._on_health()
