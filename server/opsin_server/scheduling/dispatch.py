"""Keeps the lanes at work: gives each idle one the batch that the policy picks, and takes in its reports.

Its beat: something changes (a ticket arrives, a lane reports, a timer fires) -> `_step` asks the policy for a
plan for each idle lane -> the dead are answered, batches are given to lanes. Steps are coalesced: many
arrivals in one turn of the loop are one step, so that callers who arrive together share a batch.

Which tickets there are, and what their callers are told, is the business of `pending.py` and `settling.py`;
what is done about lanes that hang or die, that of `recovery.py`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from opsin_server.scheduling.batch import Batch, Entry, WarmUp
from opsin_server.scheduling.bypass import Bypass
from opsin_server.scheduling.finishing import Answers, Finisher, finish
from opsin_server.scheduling.fleet import Fleet
from opsin_server.scheduling.lanes import Lane, Report
from opsin_server.scheduling.pending import Pending
from opsin_server.scheduling.policy import LaneView, Run, Sleep, Wait, at_once, plan
from opsin_server.scheduling.recovery import Recovery
from opsin_server.scheduling.roster import Roster
from opsin_server.scheduling.settling import Settler
from opsin_server.scheduling.ticket import Ticket
from opsin_server.scheduling.width import threads_for

__all__ = ["Dispatcher", "LaneOptions"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LaneOptions:
    """The lanes of a device.

    lanes: how many threads run batches, on each device. threads_per_lane: torch threads of each, on a CPU.
    wide_threads: torch threads of a batch that runs alone; 0: as always.
    depth: batches a lane has room for: 2 where the device computes by itself, so that the next one is
        copied in and launched meanwhile.
    stall_timeout: seconds a batch may run before its lane counts as stalled.
    spare_lanes: how many lost lanes are replaced before the server gives up on the device.
    finish_threads: threads for `finish`; 0 runs it on the lane, which is best where lanes are CPU threads.
    devices: names of several devices, each with so many lanes that take from the same queues; empty: there is
        one.
    """

    lanes: int = 1
    threads_per_lane: int = 1
    wide_threads: int = 0
    depth: int = 1
    stall_timeout: float = 30.0
    spare_lanes: int = 8
    finish_threads: int = 0
    devices: tuple[str, ...] = ()

    @property
    def places(self) -> int:
        """How many devices there are."""
        return max(1, len(self.devices))


class Dispatcher:
    """The lanes of one scheduler, on its event loop's thread. fleet: the lanes, to read.

    on_health: told when the fleet's health changes. on_error: told of what must not happen and ends it all.
    """

    def __init__(
        self,
        options: LaneOptions,
        roster: Roster,
        pending: Pending,
        bypass: Bypass,
        settler: Settler,
        *,
        clock: Callable[[], float],
        on_health: Callable[[], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._options = options
        self._roster = roster
        self._pending = pending
        self._bypass = bypass
        self._settler = settler
        self._clock = clock
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self.fleet = Fleet(
            options.lanes,
            self._reported,
            threads=options.threads_per_lane,
            depth=options.depth,
            spare=options.spare_lanes,
            on_health=on_health,
            devices=options.devices or ("",),
        )
        settler.devices = self.fleet
        self._finisher = Finisher(
            options.finish_threads, options.lanes * options.places, self._finished_apart
        )
        self._recovery = Recovery(
            self.fleet, self._finisher, roster, bypass, settler, timeout=options.stall_timeout
        )
        self.wide: set[str] = set()
        """Models that are quicker with all cores when they run alone."""
        self._over = False
        self._step_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._watch = self._loop.call_later(self._watch_every, self._watch_lanes)

    @property
    def can_widen(self) -> bool:
        """Whether all cores are more than a lane's."""
        return self._options.wide_threads > self._options.threads_per_lane

    def kick(self) -> None:
        """Something changed: look, within this turn of the loop, what idle lanes can do."""
        if not self._step_due:
            self._step_due = True
            self._loop.call_soon(self._step)

    @property
    def has_room(self) -> bool:
        """Whether a lane is free, and nothing that passes the queues waits for it."""
        return self.fleet.free is not None and not self._bypass and not self._finisher.crowded

    def runs_at_once(self, ticket: Ticket) -> bool:
        """Whether an input that comes now would run at once, alone."""
        return self.has_room and at_once(
            self._pending.queues,
            self._clock(),
            self._roster.profiles,
            model=ticket.model,
            deadline=ticket.deadline,
            shape=ticket.shape,
        )

    def run_now(self, entry: Entry) -> None:
        """Run a light input on the spot: waiting for a plan, and waking its caller, would take longer.

        Only when `runs_at_once`. Where nobody waits fairness has nothing to say, so nobody is charged.
        """
        lane, model = self.fleet.free, entry.ticket.model
        assert lane is not None
        self._run_here(lane, Batch(model, self._roster[model].runner, (entry,), charged=False))

    def stop(self) -> None:
        """Give lanes nothing more; what they still report is void."""
        self._over = True
        self._finisher.clear()
        for timer in (self._watch, self._timer):
            if timer is not None:
                timer.cancel()

    async def close(self, within: float) -> None:
        """End the threads. Waits `within` seconds for running batches at most."""
        ends = self._clock() + within
        for lane in self.fleet.close():
            await self._loop.run_in_executor(None, lane.join, max(0.0, ends - self._clock()))
        self._finisher.close()

    # -- the beat ----------------------------------------------------------------------------------------

    def _step(self) -> None:
        self._step_due = False
        self._guard(self._fill_lanes)

    def _guard(self, call: Callable[..., None], *args: object) -> None:
        """Everything done because of a timer or a lane: an error in it is the end of all."""
        if self._over:
            return
        try:
            call(*args)
        except Exception as error:
            self._on_error(error)

    def _fill_lanes(self) -> None:
        if self._finisher.crowded:
            return
        idle = self.fleet.idle
        while idle:
            lane = idle[-1]
            batch = self._ahead_of_all(lane) or self._planned(lane, len(idle)) or self._for_idle(len(idle))
            if batch is None:
                if not self._bypass:
                    return
                idle.pop()  # what waits there is for another device
                continue
            if batch.runner.light:
                self._run_here(lane, batch)
                idle = [one for one in idle if self.fleet.uses(one)]  # it may have told of a broken device
            else:
                idle.pop()
                lane.give(batch, threads=self._threads(batch, len(idle)))
        if self._options.depth > 1:
            self._look_ahead()

    def _ahead_of_all(self, lane: Lane) -> Batch | None:
        return self._bypass.next(lane.device, self.fleet.devices) if self._bypass else None

    def _threads(self, batch: Batch, idle: int) -> int:
        """How wide a batch runs that leaves so many lanes idle. A warm-up says so itself."""
        if isinstance(batch, WarmUp):
            return self._options.wide_threads if batch.wide else 0
        if batch.model not in self.wide:
            return 0
        return threads_for(
            wide=self._options.wide_threads,
            others=len(self.fleet) - 1 - idle,
            waiting=len(self._pending.queues),
        )

    def _look_ahead(self) -> None:
        """Give busy lanes the batch after, when it would be no smaller for waiting."""
        queues = self._pending.queues
        for lane in self.fleet.ahead:
            full = any(queues.waiting(key) >= terms.buckets[-1] for key, terms in queues.terms.items())
            if not self._bypass and not full:
                return
            batch = self._ahead_of_all(lane) or (self._planned(lane, 1) if full else None)
            if batch is not None:
                lane.give(batch)

    def _planned(self, lane: Lane, idle: int) -> Batch | None:
        """What the policy picks for a lane. None: it waits, or sleeps."""
        queues = self._pending.queues
        if not len(queues):
            return None
        view = LaneView(index=lane.index, lanes=len(self.fleet), idle=idle)
        while True:
            now = self._clock()
            chosen = plan(queues, now, self._roster.profiles, view)
            for dead in chosen.dead:
                self._pending.bury(dead)
            match chosen.action:
                case Run(model, tickets):
                    entries = self._pending.take(tickets)
                    if entries:
                        queues.started(model, tuple(e.ticket for e in entries), now)
                        return Batch(model, self._roster[model].runner, entries)
                case Wait(until):
                    self._arm(until)
                    return None
                case Sleep():
                    return None

    def _for_idle(self, idle: int) -> Batch | None:
        """One input that nobody waits for, when nothing else is here and a lane stays free where it can."""
        entry = self._pending.next_for_idle() if idle >= min(2, len(self.fleet)) else None
        if entry is None:
            return None
        model = entry.ticket.model
        return Batch(model, self._roster[model].runner, [entry], charged=False)

    def _arm(self, until: float) -> None:
        """Step again at `until`, or earlier when something changes."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, until - self._clock()), self.kick)

    def _run_here(self, lane: Lane, batch: Batch) -> None:
        """A batch that takes less than a hop to its lane runs on this thread, in the lane's place."""
        started, outputs, error = lane.run_here(batch)
        outcome = finish(batch, outputs) if error is None else (None, error)
        self._settler.charge(batch, (batch.inferred or self._clock()) - started)
        self._settle(batch, started, outcome)

    def _settle(self, batch: Batch, started: float, outcome: Answers) -> None:
        parts = self._settler.settle(batch, started, *outcome)
        if parts:
            self._bypass.put_first(parts)
            self.kick()

    # -- what comes back from lanes ----------------------------------------------------------------------

    def _reported(self, report: Report) -> None:
        """On the lane's thread: finish here or on the finisher, then go to the owner."""
        batch = report.job
        assert isinstance(batch, Batch)
        if report.error is not None:
            self._to_owner(self._ran, report, (None, report.error))
        elif not self._finisher:
            self._to_owner(self._ran, report, finish(batch, report.outputs))
        else:
            self._to_owner(self._ran, report, None)
            self._finisher.finish(batch, report.outputs, report.started)

    def _finished_apart(self, batch: Batch, started: float, outcome: Answers) -> None:
        """On the finisher's thread."""
        self._to_owner(self._finished, batch, started, outcome)

    def _to_owner(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(self._guard, call, *args)
        except RuntimeError:  # the loop is closed: nobody waits for an answer any more
            return

    def _ran(self, report: Report, outcome: Answers | None) -> None:
        """outcome: None when it is still to be finished."""
        batch = report.job
        assert isinstance(batch, Batch)
        unproven = not self.fleet.proven(report.lane)
        if not self.fleet.release(report):
            return  # given up as stalled; its entries have been answered
        self._settler.charge(batch, _seconds(batch, report))
        if report.died or (unproven and report.error is not None):
            self._recovery.died(report.lane, batch, report.error)
            self.kick()
            return
        if outcome is None:
            self._finisher.holds(batch, self._clock())
        self._fill_lanes()  # the device first; answers can wait a moment
        if outcome is not None:
            self._settle(batch, report.started, outcome)

    def _finished(self, batch: Batch, started: float, outcome: Answers) -> None:
        if self._finisher.release(batch):
            self._settle(batch, started, outcome)
            self._fill_lanes()

    # -- lanes that make no progress ---------------------------------------------------------------------

    @property
    def _watch_every(self) -> float:
        return max(0.02, self._options.stall_timeout / 8)

    def _watch_lanes(self) -> None:
        self._watch = self._loop.call_later(self._watch_every, self._watch_lanes)
        self._guard(self._look_for_stalls)

    def _look_for_stalls(self) -> None:
        if self._recovery.look(self._clock()):
            self.kick()


def _seconds(batch: Batch, report: Report) -> float:
    """How long a batch held its lane; one that was never collected has no other end than its report."""
    return (batch.inferred or report.ended) - report.started
