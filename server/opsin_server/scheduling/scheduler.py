"""The owner of every queue and every lane.

All of it lives on one event loop's thread: whoever else wants something holds a handle (a future, or this
object on the same loop) and no lock exists. The lanes' threads only ever call `loop.call_soon_threadsafe`.

Its beat: something changes (a ticket arrives, a lane reports, a timer fires) -> `_step` asks the policy for a
plan for each idle lane -> the dead are answered, batches are given to lanes. Steps are coalesced: many
arrivals in one turn of the loop are one step, so that callers who arrive together share a batch.

What it guards:
- every future is answered exactly once, and a future that was cancelled never breaks a loop (`Entry.answer`);
- a batch that fails is bisected (`Batch.halves`), ahead of anything that waits;
- a lane that makes no progress for `stall_timeout` fails what it holds, and is replaced; the new lane counts
  as making progress only when it has run a probe. A few lanes may be lost this way; then no more threads are
  spent, and the health stays down so that whoever watches restarts the process;
- an error in the owner itself fails everything that waits, and turns the health down for good.

It knows no gRPC, no pixels and no model: those are behind `Runner`.
"""

import asyncio
import itertools
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import structlog

from opsin_detectors.api import Item, Output, Prepared
from opsin_server.errors import Failure, Reason
from opsin_server.scheduling.batch import Batch, Done, Entry, Runner, WrongLength, out_of_memory
from opsin_server.scheduling.lanes import Lane, Report
from opsin_server.scheduling.policy import Dead, LaneView, Run, Sleep, Wait, plan
from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.queues import ModelTerms, Queues
from opsin_server.scheduling.ticket import Priority, Ticket

__all__ = ["Observer", "Scheduler", "SchedulerOptions"]

log = structlog.get_logger(__name__)

EndOfTicket = Literal["answered", "failed", "cancelled", "expired", "unmeetable", "lost"]


class Observer(Protocol):
    """Told what happens, on the owner's thread; must be quick and must not raise."""

    def batch_ran(self, model: str, size: int, seconds: float, *, again: bool) -> None:
        """A batch left its lane after `seconds`. again: it was a half of one that failed."""
        ...

    def ticket_ended(self, model: str, end: EndOfTicket) -> None:
        """A ticket was answered, or given up."""
        ...


class _Nobody:
    def batch_ran(self, model: str, size: int, seconds: float, *, again: bool) -> None: ...
    def ticket_ended(self, model: str, end: EndOfTicket) -> None: ...


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """How a scheduler is set up.

    lanes: how many threads run batches. threads_per_lane: torch threads of each, on a CPU.
    stall_timeout: seconds a batch may run before its lane counts as stalled.
    spare_lanes: how many lost lanes are replaced before the server gives up on the device.
    finish_threads: threads for `finish`; 0 runs it on the lane, which is best where lanes are CPU threads.
    """

    lanes: int = 1
    threads_per_lane: int = 1
    stall_timeout: float = 30.0
    spare_lanes: int = 8
    finish_threads: int = 0


@dataclass(slots=True)
class _Model:
    """A model the scheduler can run. probe: an input that is known to work, to try a new lane with."""

    runner: Runner
    profile: Profile = field(default_factory=Profile)
    probe: tuple[Prepared, Item] | None = None


class Scheduler:
    """Queues in front of lanes. Make it, and use it, on one running event loop."""

    def __init__(
        self,
        options: SchedulerOptions,
        *,
        observer: Observer | None = None,
        on_health: Callable[[bool], None] = lambda healthy: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._observer: Observer = observer or _Nobody()
        self._on_health = on_health
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queues = Queues()
        self._models: dict[str, _Model] = {}
        self._profiles: dict[str, Profile] = {}
        self._entries: dict[int, Entry] = {}
        self._urgent: deque[Batch] = deque()
        self._ids = itertools.count(1)
        self._finisher = (
            ThreadPoolExecutor(options.finish_threads, thread_name_prefix="finish")
            if options.finish_threads
            else None
        )
        self._lane_ids = itertools.count()
        self._lanes: list[Lane] = [self._new_lane() for _ in range(options.lanes)]
        self._unproven: set[Lane] = set()
        self._lost = 0
        self._lost_busy_seconds = 0.0
        self._dead: BaseException | None = None
        self._closed = False
        self._step_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = math.inf
        self._healthy = True
        self._started = clock()
        self._watch = self._loop.call_later(self._watch_every, self._watch_lanes)

    # -- models ------------------------------------------------------------------------------------------

    def add_model(
        self, key: str, runner: Runner, terms: ModelTerms, probe: tuple[Prepared, Item] | None = None
    ) -> None:
        """From now on tickets for `key` are accepted."""
        model = self._models.get(key)
        if model is None:
            model = self._models[key] = _Model(runner)
        model.runner, model.probe = runner, probe
        self._profiles[key] = model.profile
        self._queues.terms[key] = terms

    def set_terms(self, key: str, terms: ModelTerms) -> None:
        """Change how a known model may be run."""
        self._queues.terms[key] = terms

    def remove_model(self, key: str) -> None:
        """Accept no more tickets for `key`; those that wait are answered MODEL_NOT_READY."""
        gone = [t for t in self._queues if t.model == key]
        for ticket in gone:
            self._queues.remove(ticket)
            entry = self._entries.pop(ticket.id)
            self._end(entry, "failed", Failure(Reason.MODEL_NOT_READY, f"model “{key}” was unloaded"))
        self._models.pop(key, None)
        self._profiles.pop(key, None)
        self._queues.terms.pop(key, None)

    def terms(self, key: str) -> ModelTerms:
        """How a model may be run now."""
        return self._queues.terms[key]

    def profile(self, key: str) -> Profile:
        """What is known of a model's run time."""
        return self._models[key].profile

    # -- work --------------------------------------------------------------------------------------------

    def submit(
        self,
        model: str,
        prepared: Prepared,
        item: Item,
        *,
        flow: str,
        priority: Priority = Priority.INTERACTIVE,
        deadline: float = math.inf,
        size: int = 0,
    ) -> asyncio.Future[Done]:
        """Queue one input. The future gives `Done`, or raises Failure; cancelling it takes the ticket out."""
        future: asyncio.Future[Done] = self._loop.create_future()
        if self._dead is not None or self._closed:
            future.set_exception(self._owner_lost())
            return future
        if model not in self._models:
            future.set_exception(Failure(Reason.MODEL_NOT_READY, f"model “{model}” is not loaded"))
            return future
        ticket = Ticket(
            id=next(self._ids),
            model=model,
            flow=flow,
            arrived=self._clock(),
            priority=priority,
            deadline=deadline,
            size=size,
            shape=prepared.shape,
        )
        entry = self._entries[ticket.id] = Entry(ticket, prepared, item, future)
        future.add_done_callback(lambda _: self._left(entry))
        self._queues.add(ticket)
        self._kick()
        if deadline < math.inf:
            self._arm_expiry(deadline)
        return future

    async def run_alone(self, model: str, runner: Runner, pairs: Iterable[tuple[Prepared, Item]]) -> float:
        """Run a batch past all queues (warm-up) and return its seconds on the lane; raises what it raises."""
        entries = []
        for prepared, item in pairs:
            ticket = Ticket(next(self._ids), model, "warm-up", self._clock(), shape=prepared.shape)
            entries.append(Entry(ticket, prepared, item, self._loop.create_future()))
        batch = _WarmUp(model, runner, entries, self._loop.create_future())
        self._urgent.append(batch)
        self._kick()
        return await batch.done

    # -- what can be seen --------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Tickets in the queues."""
        return len(self._queues)

    @property
    def queues(self) -> Queues:
        """The waiting tickets, to read."""
        return self._queues

    @property
    def profiles(self) -> dict[str, Profile]:
        """Profiles by model key, to read."""
        return self._profiles

    @property
    def healthy(self) -> bool:
        """Whether some lane makes progress."""
        return self._healthy

    @property
    def lanes(self) -> int:
        """How many lanes there are."""
        return len(self._lanes)

    def busy_seconds(self) -> float:
        """Lane-seconds spent running batches since the start, those running now included."""
        now = self._clock()
        running = sum(now - lane.since for lane in self._lanes if lane.job is not None)
        return running + self._lost_busy_seconds + sum(lane.busy_seconds for lane in self._lanes)

    def running(self, model: str) -> int:
        """Tickets of a model that are on a lane now."""
        jobs = [lane.job for lane in self._lanes]
        return sum(len(job.entries) for job in jobs if isinstance(job, Batch) and job.model == model)

    # -- the beat ----------------------------------------------------------------------------------------

    def _kick(self) -> None:
        if not self._step_due:
            self._step_due = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._step_due = False
        if self._dead is not None:
            return
        try:
            self._fill_lanes()
        except Exception as error:
            self._die(error)

    def _fill_lanes(self) -> None:
        idle = [lane for lane in self._lanes if lane.idle and lane not in self._unproven]
        while idle:
            lane = idle[-1]
            batch = self._urgent_batch() or self._planned_batch(lane, len(idle))
            if batch is None:
                return
            idle.pop()
            lane.give(batch)

    def _urgent_batch(self) -> Batch | None:
        """A half of a failed batch or a warm-up, with those left out who no longer wait."""
        while self._urgent:
            batch = self._urgent.popleft()
            now = self._clock()
            for entry in batch.entries:
                if entry.ticket.deadline <= now:
                    self._end(entry, "expired", _passed())
            batch.entries = tuple(e for e in batch.entries if not e.future.done())
            if batch.entries:
                return batch
        return None

    def _planned_batch(self, lane: Lane, idle: int) -> Batch | None:
        now = self._clock()
        view = LaneView(index=lane.index, lanes=len(self._lanes), idle=idle)
        chosen = plan(self._queues, now, self._profiles, view)
        for dead in chosen.dead:
            self._bury(dead)
        match chosen.action:
            case Run(model, tickets):
                for ticket in tickets:
                    self._queues.remove(ticket)
                self._queues.started(model, tickets, now)
                entries = [self._entries.pop(t.id) for t in tickets]
                return Batch(model, self._models[model].runner, entries)
            case Wait(until):
                self._arm(until)
            case Sleep():
                pass
        return None

    def _arm(self, until: float) -> None:
        """Step again at `until`, or earlier when something changes."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, until - self._clock()), self._kick)

    # -- tickets that end without running ----------------------------------------------------------------

    def _left(self, entry: Entry) -> None:
        """Somebody's future is done: when it was cancelled while waiting, its ticket goes."""
        if self._entries.pop(entry.ticket.id, None) is not None:
            self._queues.remove(entry.ticket)
        if entry.future.cancelled():
            self._observer.ticket_ended(entry.ticket.model, "cancelled")

    def _bury(self, dead: Dead) -> None:
        self._queues.remove(dead.ticket)
        entry = self._entries.pop(dead.ticket.id)
        self._end(entry, dead.why, _passed() if dead.why == "expired" else _unmeetable())

    def _arm_expiry(self, deadline: float) -> None:
        """Wake up when the earliest deadline passes, even if every lane is busy until long after."""
        if self._expiry is None or deadline < self._expiry_at:
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry_at = deadline
            self._expiry = self._loop.call_later(max(0.0, deadline - self._clock()), self._expire)

    def _expire(self) -> None:
        now = self._clock()
        self._expiry = None
        for ticket in [t for t in self._queues if t.deadline <= now]:
            self._bury(Dead(ticket, "expired"))
        earliest = min((t.deadline for t in self._queues), default=math.inf)
        if earliest < math.inf:
            self._arm_expiry(earliest)

    def _end(self, entry: Entry, end: EndOfTicket, result: Done | Failure) -> None:
        if not entry.future.done():
            self._observer.ticket_ended(entry.ticket.model, end)
            entry.answer(result)

    # -- what comes back from lanes ----------------------------------------------------------------------

    def _reported(self, report: Report) -> None:
        """On the lane's thread: finish here or on the finisher, then go to the owner."""
        batch = report.job
        assert isinstance(batch, Batch)
        if report.error is not None:
            self._to_owner(self._ran, report, None, None)
        elif self._finisher is None:
            self._to_owner(self._ran, report, *_finished(batch, report.outputs))
        else:
            self._to_owner(self._ran, report, None, None)
            self._finisher.submit(self._finish_apart, batch, report)

    def _finish_apart(self, batch: Batch, report: Report) -> None:
        answers, error = _finished(batch, report.outputs)
        self._to_owner(self._settle, batch, report.started, answers, error)

    def _to_owner(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: nobody waits for an answer any more
            return

    def _ran(self, report: Report, answers: list[Output | Failure] | None, error: Exception | None) -> None:
        lane, batch = report.lane, report.job
        assert isinstance(batch, Batch)
        if lane not in self._lanes:
            return  # given up as stalled; its entries have been answered
        lane.release(report)
        seconds = (batch.inferred or report.ended) - report.started
        self._account(batch, seconds)
        if lane in self._unproven:
            self._unproven.discard(lane)
            self._tell_health()
        try:
            if report.died:
                log.error("lane_died", lane=lane.index, error=repr(report.error))
                self._lose(batch)
                self._replace(lane)
                return
            self._fill_lanes()  # the device first; answers can wait a moment
            failure = report.error or error
            if failure is not None or answers is not None:
                self._settle(batch, report.started, answers, failure)
        except Exception as broken:
            self._die(broken)

    def _account(self, batch: Batch, seconds: float) -> None:
        tickets = tuple(e.ticket for e in batch.entries)
        self._observer.batch_ran(batch.model, len(tickets), seconds, again=batch.again)
        if isinstance(batch, _WarmUp):
            return
        if batch.model in self._models:
            self._queues.finished(batch.model, tickets, self._clock(), seconds)

    def _settle(
        self,
        batch: Batch,
        started: float,
        answers: list[Output | Failure] | None,
        error: BaseException | None,
    ) -> None:
        """Answer everyone in a batch, or split it."""
        if isinstance(batch, _WarmUp):
            batch.conclude(error, batch.inferred - started)
            return
        if error is not None or answers is None:
            self._split(batch, error or RuntimeError("no answers"))
            return
        model = self._models.get(batch.model)
        if model is not None and not batch.again:
            model.profile.observe(len(batch.entries), batch.inferred - started)
        for entry, answer in zip(batch.entries, answers, strict=True):
            if isinstance(answer, Failure):
                self._end(entry, "failed", answer)
            else:
                done = Done(answer, started, batch.inferred, batch.finished, len(batch.entries))
                self._end(entry, "answered", done)

    def _split(self, batch: Batch, error: BaseException) -> None:
        too_big = out_of_memory(error)
        if too_big:
            self._remember_bound(batch.model, len(batch.entries) // 2)
        if len(batch.entries) > 1:
            log.warning("batch_failed", model=batch.model, size=len(batch.entries), error=repr(error))
            self._urgent.extendleft(reversed(batch.halves()))
            self._kick()
            return
        entry = batch.entries[0]
        self._end(entry, "failed", _out_of_device_memory(batch.model) if too_big else _guilty(batch, error))

    def _remember_bound(self, model: str, largest: int) -> None:
        """The device had no memory for more than `largest` at once: drop the buckets above it."""
        terms = self._queues.terms.get(model)
        if terms is None or largest < 1:
            return
        buckets = tuple(b for b in terms.buckets if b <= largest) or (largest,)
        if buckets != terms.buckets:
            log.warning("batch_bound_lowered", model=model, largest=buckets[-1])
            self._queues.terms[model] = replace(terms, buckets=buckets)

    # -- lanes that are lost -----------------------------------------------------------------------------

    @property
    def _watch_every(self) -> float:
        return max(0.02, self._options.stall_timeout / 8)

    def _new_lane(self) -> Lane:
        return Lane(next(self._lane_ids), self._reported, threads=self._options.threads_per_lane)

    def _watch_lanes(self) -> None:
        self._watch = self._loop.call_later(self._watch_every, self._watch_lanes)
        now = self._clock()
        for lane in [lane for lane in self._lanes if lane.stalled(now, self._options.stall_timeout)]:
            log.error("lane_stalled", lane=lane.index, seconds=round(now - lane.since, 3))
            lane.abandon()
            batch = lane.job
            assert isinstance(batch, Batch)
            self._lose(batch)
            self._lost_busy_seconds += lane.busy_seconds + now - lane.since
            self._replace(lane, probe=batch.model)

    def _lose(self, batch: Batch) -> None:
        """Fail what a lost lane held: the input may be the cause, so it is not run again."""
        failure = Failure(
            Reason.LANE_LOST,
            f"the worker that ran this input on model “{batch.model}” was lost; the input may be the cause",
            metadata={"model": batch.model},
            never_retry=True,
        )
        if isinstance(batch, _WarmUp):
            batch.conclude(failure, 0.0)
        for entry in batch.entries:
            self._end(entry, "lost", failure)

    def _replace(self, lane: Lane, probe: str | None = None) -> None:
        """Put a new lane in the place of a lost one, and try it out before it counts as sound."""
        place = self._lanes.index(lane)
        self._lost += 1
        if self._lost > self._options.spare_lanes:
            del self._lanes[place]
            log.error("lane_not_replaced", lane=lane.index, lost=self._lost)
            self._tell_health()
            if not self._lanes:
                self._die(RuntimeError("every lane of the device was lost"))
            return
        fresh = self._lanes[place] = self._new_lane()
        model = self._models.get(probe or "")
        if model is not None and model.probe is not None:
            self._unproven.add(fresh)
            self._tell_health()
            prepared, item = model.probe
            ticket = Ticket(next(self._ids), probe or "", "probe", self._clock())
            entry = Entry(ticket, prepared, item, self._loop.create_future())
            fresh.give(_WarmUp(probe or "", model.runner, [entry], self._loop.create_future()))
        else:
            self._kick()

    def _tell_health(self) -> None:
        healthy = self._dead is None and any(lane not in self._unproven for lane in self._lanes)
        if healthy != self._healthy:
            self._healthy = healthy
            self._on_health(healthy)

    # -- the end -----------------------------------------------------------------------------------------

    def _owner_lost(self) -> Failure:
        why = "is closed" if self._dead is None else f"stopped: {self._dead}"
        return Failure(Reason.LANE_LOST, f"the scheduler {why}", never_retry=self._dead is not None)

    def _die(self, error: BaseException) -> None:
        """The owner cannot go on: everyone who waits is told, and health is down for good."""
        log.critical("scheduler_died", error=repr(error), exc_info=error)
        self._dead = error
        self._fail_all()
        self._tell_health()

    def _fail_all(self) -> None:
        failure = self._owner_lost()
        held = [job for lane in self._lanes if isinstance(job := lane.job, Batch)]
        waiting = list(self._entries.values())
        self._entries.clear()
        for entry in waiting:
            self._queues.remove(entry.ticket)
        for batch in [*held, *self._urgent]:
            if isinstance(batch, _WarmUp):
                batch.conclude(failure, 0.0)
            waiting.extend(batch.entries)
        self._urgent.clear()
        for entry in waiting:
            self._end(entry, "lost", failure)

    async def close(self, timeout: float = 5.0) -> None:
        """Fail what waits, let running batches end, and end the threads. Waits `timeout` seconds at most."""
        self._closed = True
        for timer in (self._watch, self._timer, self._expiry):
            if timer is not None:
                timer.cancel()
        self._fail_all()
        for lane in self._lanes:
            lane.close()
        ends = self._clock() + timeout
        for lane in self._lanes:
            await self._loop.run_in_executor(None, lane.join, max(0.0, ends - self._clock()))
        if self._finisher is not None:
            self._finisher.shutdown(wait=False, cancel_futures=True)


class _WarmUp(Batch):
    """A batch that somebody runs for its time, not for its answers."""

    __slots__ = ("done",)

    def __init__(
        self, model: str, runner: Runner, entries: Iterable[Entry], done: asyncio.Future[float]
    ) -> None:
        super().__init__(model, runner, list(entries))
        self.done = done
        done.add_done_callback(lambda f: f.cancelled() or f.exception())  # nobody needs to ask a probe

    def conclude(self, error: BaseException | None, seconds: float) -> None:
        """Answer whoever waits for the time."""
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(seconds)


def _finished(batch: Batch, outputs: object) -> tuple[list[Output | Failure] | None, Exception | None]:
    """`finish`, with its exception as a value: what it raises is an answer too."""
    try:
        return batch.finish(outputs), None
    except Exception as error:
        return None, error


def _passed() -> Failure:
    return Failure(Reason.DEADLINE_PASSED, "the deadline passed while the input waited", never_retry=True)


def _unmeetable() -> Failure:
    return Failure(Reason.DEADLINE_UNMEETABLE, "the deadline cannot be met any more", retry_after=0.0)


def _out_of_device_memory(model: str) -> Failure:
    message = f"the device has no memory to run model “{model}” on this input, even alone"
    return Failure(Reason.DEVICE_MEMORY, message, metadata={"model": model}, never_retry=True)


def _guilty(batch: Batch, error: BaseException) -> Failure:
    """The one input with which the detector fails; the traceback stays in the log, under an id."""
    error_id = uuid.uuid4().hex[:12]
    log.error("detector_failed", model=batch.model, error_id=error_id, exc_info=error)
    return Failure(
        Reason.DETECTOR_BROKEN if isinstance(error, WrongLength) else Reason.DETECTOR_FAILED,
        f"model “{batch.model}” failed on this input; the server's log has the details under {error_id}",
        metadata={"model": batch.model, "error_id": error_id},
    )
