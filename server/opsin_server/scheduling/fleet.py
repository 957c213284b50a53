"""All lanes: which are idle, which are lost, and whether the device or devices as a whole make progress.

A lane is lost when its batch runs longer than `stall_timeout`, or its thread dies. It is replaced, and the
new lane counts as making progress only after it has run a probe, where there is one. After `spare` losses no
more threads are spent: each lost one may hold a core and memory for good, and a process in that state is
better restarted, which the health it reports will bring about.

There may be several devices, each with as many lanes. What one of them loses is counted, and replaced, by
itself. One on which batches fail that another then runs, `STRIKES` times with nothing in between that it ran
well, gets no more; the last one always does.

Runs on the owner's thread; decides nothing about tickets.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from opsin_server.scheduling.lanes import Job, Lane, Report

__all__ = ["Fleet"]

log = structlog.get_logger(__name__)

STRIKES = 3
"""Batches in a row that failed on a device, and then not on another."""


class Fleet:
    """The lanes of one device, or of several.

    count: of each. devices: their names. report: what lanes call, on their own threads, when a job is done.
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
        devices: Sequence[str] = ("",),
    ) -> None:
        self._report = report
        self._threads = threads
        self._depth = depth
        self._spare = spare
        self._on_health = on_health
        self._ids = itertools.count()
        # Neighbours in the list are on different devices, so that few batches at once are spread over them.
        self._lanes = [self._new(device) for _ in range(count) for device in devices]
        self._unproven: set[Lane] = set()
        self._lost: Counter[str] = Counter()
        self._strikes: Counter[str] = Counter()
        self.given_up: set[str] = set()
        """Devices that get no more batches."""
        self.healthy = True
        """Whether some lane makes progress."""

    def __len__(self) -> int:
        return len(self._in_use) if self.given_up else len(self._lanes)

    @property
    def _in_use(self) -> list[Lane]:
        """Lanes of devices that are not given up."""
        if not self.given_up:
            return self._lanes
        return [lane for lane in self._lanes if self.uses(lane)]

    @property
    def devices(self) -> tuple[str, ...]:
        """Those in use that have lanes."""
        return tuple(dict.fromkeys(lane.device for lane in self._in_use))

    def count(self, device: str) -> int:
        """Lanes in use of a device."""
        return sum(lane.device == device for lane in self._in_use)

    def uses(self, lane: Lane) -> bool:
        """Whether a lane's device is not given up."""
        return lane.device not in self.given_up

    def fine(self, device: str) -> None:
        """A batch ran well on a device."""
        if self._strikes:
            self._strikes.pop(device, None)

    def strike(self, device: str) -> None:
        """A batch failed on a device, and then did not on another."""
        self._strikes[device] += 1
        if self._strikes[device] >= STRIKES and len(self.devices) > 1 and device in self.devices:
            self.given_up.add(device)
            log.error("device_given_up", device=device, failed=self._strikes[device], left=self.devices)
            self._tell()

    def __contains__(self, lane: Lane) -> bool:
        return lane in self._lanes

    @property
    def idle(self) -> list[Lane]:
        """Lanes that have nothing to do."""
        return [lane for lane in self._in_use if lane.idle and lane not in self._unproven]

    @property
    def free(self) -> Lane | None:
        """A lane that has nothing to do, if there is one."""
        return next((lane for lane in self._in_use if not lane.jobs and lane not in self._unproven), None)

    def proven(self, lane: Lane) -> bool:
        """Whether a lane has run something since it took a lost one's place."""
        return lane not in self._unproven

    @property
    def ahead(self) -> list[Lane]:
        """Lanes that are at work and have room for the job after."""
        return [lane for lane in self._in_use if lane.jobs and lane.room and lane not in self._unproven]

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
        self._lost[lane.device] += 1
        self._unproven.discard(lane)
        place = self._lanes.index(lane)
        if self._lost[lane.device] > self._spare or lane.device in self.given_up:
            del self._lanes[place]
            log.error("lane_not_replaced", lane=lane.index, device=lane.device, lost=self._lost[lane.device])
        else:
            self._lanes[place] = fresh = self._new(lane.device)
            if probe is not None:
                self._unproven.add(fresh)
                fresh.give(probe)
        self._tell()

    def close(self) -> list[Lane]:
        """Let every thread end after its job; returns the lanes, to wait for."""
        for lane in self._lanes:
            lane.close()
        return list(self._lanes)

    def _new(self, device: str) -> Lane:
        return Lane(next(self._ids), self._report, threads=self._threads, depth=self._depth, device=device)

    def _tell(self) -> None:
        healthy = any(lane not in self._unproven for lane in self._in_use)
        if healthy != self.healthy:
            self.healthy = healthy
            self._on_health()
