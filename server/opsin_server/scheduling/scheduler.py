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
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import structlog

from opsin_detectors.api import Item, Output, Prepared
from opsin_server.errors import Failure
from opsin_server.scheduling import admit, failures
from opsin_server.scheduling.batch import Batch, Done, Entry, Runner, WarmUp, out_of_memory
from opsin_server.scheduling.fleet import Fleet
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

    def ticket_arrived(self, ticket: Ticket) -> None:
        """An input was queued."""
        ...

    def batch_ran(self, model: str, size: int, seconds: float, *, again: bool) -> None:
        """A batch left its lane after `seconds`. again: it was a half of one that failed."""
        ...

    def ticket_ended(self, model: str, end: EndOfTicket) -> None:
        """A ticket was answered, or given up."""
        ...


class _Nobody:
    def ticket_arrived(self, ticket: Ticket) -> None: ...
    def batch_ran(self, model: str, size: int, seconds: float, *, again: bool) -> None: ...
    def ticket_ended(self, model: str, end: EndOfTicket) -> None: ...


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """How a scheduler is set up.

    device: its name, for whoever asks. lanes: how many threads run batches.
    threads_per_lane: torch threads of each, on a CPU.
    depth: batches a lane has room for: 2 where the device computes by itself, so that the next one is
        copied in and launched meanwhile.
    stall_timeout: seconds a batch may run before its lane counts as stalled.
    spare_lanes: how many lost lanes are replaced before the server gives up on the device.
    finish_threads: threads for `finish`; 0 runs it on the lane, which is best where lanes are CPU threads.
    """

    device: str = "cpu"
    lanes: int = 1
    threads_per_lane: int = 1
    depth: int = 1
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
        """What waits in the queues."""
        self._for_idle: dict[int, Entry] = {}
        """What runs only when nothing waits in the queues, in order of arrival."""
        self._open: dict[asyncio.Future[Done], Entry] = {}
        """What is not answered yet, wherever it is."""
        self._alone_now: set[WarmUp] = set()
        self._finishing: dict[Batch, float] = {}
        """What left its lane and is being finished elsewhere, and since when."""
        self._urgent: deque[Batch] = deque()
        self._ids = itertools.count(1)
        self._finisher = (
            ThreadPoolExecutor(options.finish_threads, thread_name_prefix="finish")
            if options.finish_threads
            else None
        )
        self._fleet = Fleet(
            options.lanes,
            self._reported,
            threads=options.threads_per_lane,
            depth=options.depth,
            spare=options.spare_lanes,
            on_health=self._tell_health,
        )
        self._dead: BaseException | None = None
        self._stuck = 0
        """Threads that finish batches and did not come back from one."""
        self._closed = False
        self._step_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expiry_at = math.inf
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
        for entry in [e for e in self._for_idle.values() if e.ticket.model == key]:
            self._end(self._for_idle.pop(entry.ticket.id), "failed", failures.not_loaded(key))
        gone = [t for t in self._queues if t.model == key]
        for ticket in gone:
            self._queues.remove(ticket)
            entry = self._entries.pop(ticket.id)
            self._end(entry, "failed", failures.not_loaded(key))
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
        on_start: Callable[[], None] | None = None,
        when_idle: bool = False,
    ) -> asyncio.Future[Done]:
        """Queue one input. The future gives `Done`, or raises Failure; cancelling it takes the ticket out.

        on_start: called when its batch is about to run; may still cancel the future.
        when_idle: nobody waits for it. It is not queued, counts nowhere as work that waits, and runs alone,
            when nothing else would and, where there are several lanes, another one stays free.
        """
        future: asyncio.Future[Done] = self._loop.create_future()
        if self._dead is not None or self._closed:
            future.set_exception(failures.owner_lost(self._dead))
            return future
        if model not in self._models:
            future.set_exception(failures.not_loaded(model))
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
        entry = Entry(ticket, prepared, item, future, on_start)
        self._open[future] = entry
        future.add_done_callback(self._left)
        if when_idle:
            self._for_idle[ticket.id] = entry
        else:
            self._entries[ticket.id] = entry
            self._queues.add(ticket)
            self._observer.ticket_arrived(ticket)
        self._kick()
        if deadline < math.inf:
            self._arm_expiry(deadline)
        return future

    def amend(self, future: asyncio.Future[Done], *, flow: str, priority: Priority, deadline: float) -> bool:
        """Let a ticket, known by what `submit` gave, wait on other terms; False when it waits no more."""
        entry = self._open.get(future)
        if entry is None or entry.ticket.id not in self._entries:
            return False
        ticket = replace(entry.ticket, flow=flow, priority=priority, deadline=deadline)
        self._queues.move(entry.ticket, ticket)
        self._entries[ticket.id] = self._open[future] = replace(entry, ticket=ticket)
        self._kick()
        if deadline < math.inf:
            self._arm_expiry(deadline)
        return True

    async def run_alone(self, model: str, runner: Runner, pairs: Iterable[tuple[Prepared, Item]]) -> float:
        """Run a batch past all queues (warm-up) and return its seconds on the lane; raises what it raises."""
        if self._dead is not None or self._closed:
            raise failures.owner_lost(self._dead)
        batch = self._alone(model, runner, pairs)
        self._urgent.append(batch)
        self._kick()
        return await batch.done

    def _alone(self, model: str, runner: Runner, pairs: Iterable[tuple[Prepared, Item]]) -> "WarmUp":
        entries = []
        for prepared, item in pairs:
            ticket = Ticket(next(self._ids), model, "warm-up", self._clock(), shape=prepared.shape)
            entries.append(Entry(ticket, prepared, item, self._loop.create_future()))
        batch = WarmUp(model, runner, entries, self._loop.create_future())
        self._alone_now.add(batch)
        batch.done.add_done_callback(lambda _: self._alone_now.discard(batch))
        return batch

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
        return self._dead is None and self._fleet.healthy

    @property
    def lanes(self) -> int:
        """How many lanes there are."""
        return len(self._fleet)

    @property
    def device(self) -> str:
        """The device's name."""
        return self._options.device

    def backlog_seconds(self) -> float:
        """How long the work that waits will keep all lanes busy."""
        return admit.backlog_seconds(self._queues, self._profiles, len(self._fleet))

    def seconds_to_room(self, model: str, tickets: int) -> float:
        """About how long until so many places in the queues are free."""
        if model not in self._models:
            return 1.0
        return admit.drain_seconds(
            self._queues, self._profiles, len(self._fleet), model=model, tickets=tickets
        )

    def estimate(self, model: str, flow: str, priority: Priority, deadline: float) -> admit.Estimate | None:
        """What an input that came now would have to expect; None for a model that is not here."""
        if model not in self._models or not len(self._fleet):
            return None
        view = LaneView(lanes=len(self._fleet), idle=len(self._fleet.idle))
        return admit.estimate(
            self._queues,
            self._clock(),
            self._profiles,
            view,
            model=model,
            flow=flow,
            priority=priority,
            deadline=deadline,
        )

    # -- the beat ----------------------------------------------------------------------------------------

    def _kick(self) -> None:
        if not self._step_due:
            self._step_due = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._step_due = False
        self._guard(self._fill_lanes)

    def _guard(self, call: Callable[..., None], *args: object) -> None:
        """Everything the owner does because of a timer or a lane: an error in it is the owner's end."""
        if self._dead is not None:
            return
        try:
            call(*args)
        except Exception as error:
            self._die(error)

    def _fill_lanes(self) -> None:
        if len(self._finishing) > self._options.lanes + 2 * self._options.finish_threads:
            return  # `finish` does not keep up: what piles up there is bounded too
        idle = self._fleet.idle
        while idle:
            lane = idle[-1]
            batch = (
                self._urgent_batch() or self._planned_batch(lane, len(idle)) or self._idle_batch(len(idle))
            )
            if batch is None:
                return
            if batch.runner.light:
                self._run_here(lane, batch)
            else:
                idle.pop()
                lane.give(batch)
        if self._options.depth > 1:
            self._look_ahead()

    def _look_ahead(self) -> None:
        """Give busy lanes the batch after, when it would be no smaller for waiting."""
        for lane in self._fleet.ahead:
            full = any(self._queues.waiting(k) >= t.buckets[-1] for k, t in self._queues.terms.items())
            if not self._urgent and not full:
                return
            batch = self._urgent_batch() or self._planned_batch(lane, 1)
            if batch is None:
                return
            lane.give(batch)

    def _run_here(self, lane: Lane, batch: Batch) -> None:
        """A batch that takes less than a hop to its lane runs on this thread, in the lane's place."""
        report = lane.run_here(batch)
        answers, error = (None, report.error) if report.error else _finished(batch, report.outputs)
        self._account(batch, _seconds(batch, report))
        self._settle(batch, report.started, answers, error)

    def _urgent_batch(self) -> Batch | None:
        """A half of a failed batch or a warm-up, with those left out who no longer wait."""
        while self._urgent:
            batch = self._urgent.popleft()
            now = self._clock()
            for entry in batch.entries:
                if entry.ticket.deadline <= now:
                    self._end(entry, "expired", failures.passed())
            batch.entries = tuple(e for e in batch.entries if not e.future.done())
            if batch.entries:
                return batch
        return None

    def _planned_batch(self, lane: Lane, idle: int) -> Batch | None:
        view = LaneView(index=lane.index, lanes=len(self._fleet), idle=idle)
        while True:
            now = self._clock()
            chosen = plan(self._queues, now, self._profiles, view)
            for dead in chosen.dead:
                self._bury(dead)
            match chosen.action:
                case Run(model, tickets):
                    entries = self._leave(tickets)
                    if entries:
                        self._queues.started(model, tuple(e.ticket for e in entries), now)
                        return Batch(model, self._models[model].runner, entries)
                case Wait(until):
                    self._arm(until)
                    return None
                case Sleep():
                    return None

    def _idle_batch(self, idle: int) -> Batch | None:
        """One input that nobody waits for, when nothing else is here and a lane stays free where it can."""
        while self._for_idle and not len(self._queues) and idle >= min(2, len(self._fleet)):
            entry = self._for_idle.pop(next(iter(self._for_idle)))
            if entry.ticket.deadline <= self._clock():
                self._end(entry, "expired", failures.passed())
                continue
            if entry.on_start is not None:
                entry.on_start()
            if not entry.future.done():
                model = entry.ticket.model
                return Batch(model, self._models[model].runner, [entry], when_idle=True)
        return None

    def _leave(self, tickets: tuple[Ticket, ...]) -> list[Entry]:
        """Take tickets out of the queue to run; without those that are withdrawn when they hear of it."""
        entries = []
        for ticket in tickets:
            entry = self._entries.pop(ticket.id)
            self._queues.remove(ticket)
            if entry.on_start is not None:
                entry.on_start()
            if not entry.future.done():
                entries.append(entry)
        return entries

    def _arm(self, until: float) -> None:
        """Step again at `until`, or earlier when something changes."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, until - self._clock()), self._kick)

    # -- tickets that end without running ----------------------------------------------------------------

    def _left(self, future: asyncio.Future[Done]) -> None:
        """Somebody's future is done: when it was cancelled while waiting, its ticket goes."""
        entry = self._open.pop(future)
        if self._entries.pop(entry.ticket.id, None) is not None:
            self._queues.remove(entry.ticket)
        self._for_idle.pop(entry.ticket.id, None)
        if entry.future.cancelled():
            self._observer.ticket_ended(entry.ticket.model, "cancelled")

    def _bury(self, dead: Dead) -> None:
        self._queues.remove(dead.ticket)
        entry = self._entries.pop(dead.ticket.id)
        self._end(entry, dead.why, failures.of_dead(dead))

    def _arm_expiry(self, deadline: float) -> None:
        """Wake up when the earliest deadline passes, even if every lane is busy until long after."""
        if self._expiry is None or deadline < self._expiry_at:
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry_at = deadline
            # A moment later, so that deadlines that lie close together are one sweep.
            self._expiry = self._loop.call_later(max(0.0, deadline - self._clock()) + 0.002, self._expire)

    def _expire(self) -> None:
        now = self._clock()
        self._expiry = None
        for ticket in [t for t in self._queues if t.deadline <= now]:
            self._bury(Dead(ticket, "expired"))
        for entry in [e for e in self._for_idle.values() if e.ticket.deadline <= now]:
            self._end(self._for_idle.pop(entry.ticket.id), "expired", failures.passed())
        waiting = itertools.chain(self._queues, (e.ticket for e in self._for_idle.values()))
        earliest = min((t.deadline for t in waiting), default=math.inf)
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
            self._finisher.submit(self._finish_apart, batch, report.outputs, report.started)

    def _finish_apart(self, batch: Batch, outputs: object, started: float) -> None:
        answers, error = _finished(batch, outputs)
        self._to_owner(self._finished_apart, batch, started, answers, error)

    def _finished_apart(
        self, batch: Batch, started: float, answers: list[Output | Failure] | None, error: Exception | None
    ) -> None:
        if self._finishing.pop(batch, None) is not None:  # else it took too long, and everyone was told
            self._settle(batch, started, answers, error)
            self._fill_lanes()

    def _to_owner(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(self._guard, call, *args)
        except RuntimeError:  # the loop is closed: nobody waits for an answer any more
            return

    def _ran(self, report: Report, answers: list[Output | Failure] | None, error: Exception | None) -> None:
        lane, batch = report.lane, report.job
        assert isinstance(batch, Batch)
        was_unproven = lane in self._fleet and not self._fleet.proven(lane)
        if not self._fleet.release(report):
            return  # given up as stalled; its entries have been answered
        self._account(batch, _seconds(batch, report))
        if report.died or (was_unproven and report.error is not None):
            log.error("lane_died", lane=lane.index, error=repr(report.error))
            self._give_up(batch)
            self._lose(lane, batch)
            return
        failure = report.error or error
        if failure is None and answers is None:
            self._finishing[batch] = self._clock()
        self._fill_lanes()  # the device first; answers can wait a moment
        if failure is not None or answers is not None:
            self._settle(batch, report.started, answers, failure)

    def _account(self, batch: Batch, seconds: float) -> None:
        """Charge a batch that held its lane for `seconds` to those in it."""
        tickets = tuple(e.ticket for e in batch.entries)
        self._observer.batch_ran(batch.model, len(tickets), seconds, again=batch.again)
        if not isinstance(batch, WarmUp) and not batch.when_idle:
            self._queues.finished(batch.model, tickets, self._clock(), seconds)

    def _settle(
        self,
        batch: Batch,
        started: float,
        answers: list[Output | Failure] | None,
        error: BaseException | None,
    ) -> None:
        """Answer everyone in a batch, or split it."""
        if isinstance(batch, WarmUp):
            batch.conclude(error, batch.inferred - started)
            return
        if error is not None or answers is None:
            self._split(batch, error or RuntimeError("no answers"))
            return
        model = self._models.get(batch.model)
        if model is not None and not batch.again:
            model.profile.observe(len(batch.entries), batch.inferred - started)
            model.profile.answered(max(0.0, self._clock() - batch.inferred))
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
        self._end(entry, "failed", failures.of_one(batch.model, error))

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

    def _watch_lanes(self) -> None:
        self._watch = self._loop.call_later(self._watch_every, self._watch_lanes)
        self._guard(self._look_for_stalls)

    def _look_for_stalls(self) -> None:
        now = self._clock()
        for lane in self._fleet.stalled(now, self._options.stall_timeout):
            log.error("lane_stalled", lane=lane.index, seconds=round(now - lane.since, 3))
            batch = _batches(lane)[0]
            self._account(batch, now - lane.since)
            self._lose(lane, batch)
        late = [b for b, since in self._finishing.items() if now - since > self._options.stall_timeout]
        for batch in late:
            log.error("finish_stalled", model=batch.model, size=len(batch.entries))
            del self._finishing[batch]
            self._give_up(batch)
            self._stuck += 1
        if late and self._stuck >= self._options.finish_threads:
            self._die(RuntimeError("every thread that finishes batches hangs"))

    def _lose(self, lane: Lane, accounted: Batch) -> None:
        """Fail what a lost lane held, and put a new one in its place, tried out with a probe.

        accounted: the batch that it was lost with; any other on it had not begun.
        """
        for batch in _batches(lane):
            if batch is not accounted and not isinstance(batch, WarmUp) and not batch.when_idle:
                tickets = tuple(e.ticket for e in batch.entries)
                self._queues.finished(batch.model, tickets, self._clock(), 0.0)
            self._give_up(batch)
        self._fleet.replace(lane, self._probe(accounted.model))
        if not len(self._fleet):
            self._die(RuntimeError("every lane of the device was lost"))
        self._kick()

    def _give_up(self, batch: Batch) -> None:
        """Fail everyone in a batch whose lane is lost: the input may be the cause, so it is not run again."""
        failure = failures.lane_lost(batch.model)
        if isinstance(batch, WarmUp):
            batch.conclude(failure, 0.0)
            return
        for entry in batch.entries:
            self._end(entry, "lost", failure)

    def _probe(self, key: str) -> Batch | None:
        """A batch of one known input, to try a new lane with."""
        model = self._models.get(key)
        if model is None or model.probe is None:
            return None
        return self._alone(key, model.runner, [model.probe])

    def _tell_health(self) -> None:
        self._on_health(self.healthy)

    # -- the end -----------------------------------------------------------------------------------------

    def _die(self, error: BaseException) -> None:
        """The owner cannot go on: everyone who waits is told, and health is down for good."""
        log.critical("scheduler_died", error=repr(error), exc_info=error)
        was_healthy, self._dead = self.healthy, error
        self._fail_all()
        if was_healthy:
            self._on_health(False)

    def _fail_all(self) -> None:
        failure = failures.owner_lost(self._dead)
        for entry in self._entries.values():
            self._queues.remove(entry.ticket)
        self._entries.clear()
        self._for_idle.clear()
        self._urgent.clear()
        self._finishing.clear()
        for batch in list(self._alone_now):
            batch.conclude(failure, 0.0)
        for entry in list(self._open.values()):
            self._end(entry, "lost", failure)

    async def close(self, within: float = 5.0) -> None:
        """Fail what waits, let running batches end, and end the threads. Waits `within` seconds at most."""
        self._closed = True
        for timer in (self._watch, self._timer, self._expiry):
            if timer is not None:
                timer.cancel()
        self._fail_all()
        ends = self._clock() + within
        for lane in self._fleet.close():
            await self._loop.run_in_executor(None, lane.join, max(0.0, ends - self._clock()))
        if self._finisher is not None:
            self._finisher.shutdown(wait=False, cancel_futures=True)


def _seconds(batch: Batch, report: Report) -> float:
    """How long a batch held its lane; one that was never collected has no other end than its report."""
    return (batch.inferred or report.ended) - report.started


def _batches(lane: Lane) -> list[Batch]:
    return [job for job in lane.jobs if isinstance(job, Batch)]


def _finished(batch: Batch, outputs: object) -> tuple[list[Output | Failure] | None, Exception | None]:
    """`finish`, with its exception as a value: what it raises is an answer too."""
    try:
        return batch.finish(outputs), None
    except Exception as error:
        return None, error
