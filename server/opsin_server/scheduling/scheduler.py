"""The owner of every queue and every lane.

All of it lives on one event loop's thread: whoever else wants something holds a handle (a future, or this
object on the same loop) and no lock exists. The lanes' threads only ever call `loop.call_soon_threadsafe`.

    submit -> `pending` (queues, futures) -> `dispatch` (policy, lanes) -> `settling` -> the future

What it guards itself: whom it accepts tickets from, and the end. An error in the owner, or the loss of all
lanes, fails everything that waits, and turns the health down for good.

It knows no gRPC, no pixels and no model: those are behind `Runner`.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from opsin_detectors.api import Item, Prepared
from opsin_server.errors import Failure
from opsin_server.scheduling import admit, failures
from opsin_server.scheduling.batch import Done, Entry, Runner
from opsin_server.scheduling.bypass import Bypass
from opsin_server.scheduling.dispatch import Dispatcher, LaneOptions
from opsin_server.scheduling.observer import Nobody, Observer
from opsin_server.scheduling.pending import Pending
from opsin_server.scheduling.policy import LaneView, unopposed
from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.queues import ModelTerms, Queues
from opsin_server.scheduling.roster import Roster
from opsin_server.scheduling.settling import Settler
from opsin_server.scheduling.ticket import Priority, Ticket

__all__ = ["Observer", "Scheduler", "SchedulerOptions"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SchedulerOptions(LaneOptions):
    """How a scheduler is set up. device: the name of what its lanes run on, for whoever asks."""

    device: str = "cpu"


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
        self.device = options.device
        """The device's name; where there are several, as they were told."""
        self._devices = options.devices or (options.device,)
        self._observer: Observer = observer or Nobody()
        self._on_health = on_health
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._roster = Roster()
        self._pending = Pending(self._observer, clock)
        self._bypass = Bypass(self._pending, self._ids, clock)
        self._dispatcher = Dispatcher(
            options,
            self._roster,
            self._pending,
            self._bypass,
            Settler(self._pending, self._roster.profiles, self._observer, clock),
            clock=clock,
            on_health=self._tell_health,
            on_error=self._die,
        )
        self._dead: BaseException | None = None
        self._closed = False

    # -- models ------------------------------------------------------------------------------------------

    def add_model(
        self, key: str, runner: Runner, terms: ModelTerms, probe: tuple[Prepared, Item] | None = None
    ) -> None:
        """From now on tickets for `key` are accepted. probe: an input that works, to try new lanes with."""
        self._roster.add(key, runner, probe)
        self.queues.terms[key] = terms

    def remove_model(self, key: str) -> None:
        """Accept no more tickets for `key`; those that wait are answered MODEL_NOT_READY."""
        self._pending.drop_model(key)
        self._roster.remove(key)
        self._dispatcher.wide.discard(key)
        self.queues.terms.pop(key, None)

    def terms(self, key: str) -> ModelTerms:
        """How a model may be run now."""
        return self.queues.terms[key]

    def profile(self, key: str) -> Profile:
        """What is known of a model's run time."""
        return self._roster[key].profile

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

        A light model's input that finds the device idle and nobody waiting is answered before this returns,
        unless it has an `on_start`, which could not cancel the future yet.

        on_start: called when its batch is about to run; may still cancel the future.
        when_idle: nobody waits for it. It is not queued, counts nowhere as work that waits, and runs alone,
            when nothing else would and, where there are several lanes, another one stays free.
        """
        future: asyncio.Future[Done] = self._loop.create_future()
        refusal = self._refusal(model)
        if refusal is not None:
            future.set_exception(refusal)
            return future
        ticket = Ticket(next(self._ids), model, flow, self._clock(), priority, deadline, size, prepared.shape)
        entry = Entry(ticket, prepared, item, future, on_start)
        if when_idle:
            self._pending.add_for_idle(entry)
        else:
            self._observer.ticket_arrived(ticket)
            light = self._roster[model].runner.light and on_start is None
            if light and self._dispatcher.runs_at_once(ticket):
                self._dispatcher.run_now(entry)
                return future
            self._pending.add(entry)
        self._dispatcher.kick()
        return future

    def amend(self, future: asyncio.Future[Done], *, flow: str, priority: Priority, deadline: float) -> bool:
        """Let a ticket, known by what `submit` gave, wait on other terms; False when it waits no more."""
        amended = self._pending.amend(future, flow=flow, priority=priority, deadline=deadline)
        if amended:
            self._dispatcher.kick()
        return amended

    async def run_alone(
        self,
        model: str,
        runner: Runner,
        pairs: Iterable[tuple[Prepared, Item]],
        *,
        wide: bool = False,
        device: str = "",
    ) -> float:
        """Run a batch past all queues (warm-up) and return its seconds on the lane; raises what it raises.

        wide: with all cores, where the lanes are threads of a CPU that leave some to each other.
        device: on a lane of this one, where there are several.
        """
        if self._dead is not None or self._closed:
            raise failures.owner_lost(self._dead)
        batch = self._bypass.alone(model, runner, pairs)
        batch.wide, batch.device = wide, device
        self._bypass.append(batch)
        self._dispatcher.kick()
        return await batch.done

    @property
    def can_widen(self) -> bool:
        """Whether a batch that runs alone may have more threads than its lane."""
        return self._dispatcher.can_widen

    def widen(self, key: str) -> None:
        """From now on a model's batches have all cores when they run alone."""
        self._dispatcher.wide.add(key)

    def _refusal(self, model: str) -> Failure | None:
        if self._dead is not None or self._closed:
            return failures.owner_lost(self._dead)
        return None if model in self._roster else failures.not_loaded(model)

    # -- what can be seen --------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Tickets in the queues."""
        return len(self._pending.queues)

    @property
    def queues(self) -> Queues:
        """The waiting tickets, to read."""
        return self._pending.queues

    @property
    def profiles(self) -> dict[str, Profile]:
        """Profiles by model key, to read."""
        return self._roster.profiles

    @property
    def healthy(self) -> bool:
        """Whether some lane makes progress."""
        return self._dead is None and self._dispatcher.fleet.healthy

    @property
    def lanes(self) -> int:
        """How many lanes there are."""
        return len(self._dispatcher.fleet)

    @property
    def devices(self) -> tuple[str, ...]:
        """What the lanes run on, those included that were given up."""
        return self._devices

    def lanes_on(self, device: str) -> int:
        """How many lanes in use a device has."""
        return self._dispatcher.fleet.count(device if len(self._devices) > 1 else "")

    @property
    def devices_in_use(self) -> tuple[str, ...]:
        """Those of `devices` that still run batches."""
        in_use = self._dispatcher.fleet.devices
        return tuple(device for device in self._devices if device in in_use) or self._devices

    def backlog_seconds(self) -> float:
        """How long the work that waits will keep all lanes busy."""
        return admit.backlog_seconds(self.queues, self.profiles, self.lanes)

    def seconds_to_room(self, model: str, tickets: int) -> float:
        """About how long until so many places in the queues are free."""
        if model not in self._roster:
            return 1.0
        return admit.drain_seconds(self.queues, self.profiles, self.lanes, model=model, tickets=tickets)

    def unopposed(self, model: str, deadline: float) -> bool:
        """Whether an input that came now would find a free lane and nobody before it, and be in time.

        What `estimate` says of such a one, in a tenth of the time.
        """
        return (
            model in self._roster
            and self._dispatcher.has_room
            and unopposed(self.queues, self._clock(), self.profiles, model=model, deadline=deadline)
        )

    def estimate(self, model: str, flow: str, priority: Priority, deadline: float) -> admit.Estimate | None:
        """What an input that came now would have to expect; None for a model that is not here."""
        if model not in self._roster or not self.lanes:
            return None
        view = LaneView(lanes=self.lanes, idle=len(self._dispatcher.fleet.idle))
        return admit.estimate(
            self.queues,
            self._clock(),
            self.profiles,
            view,
            model=model,
            flow=flow,
            priority=priority,
            deadline=deadline,
        )

    # -- the end -----------------------------------------------------------------------------------------

    def _tell_health(self) -> None:
        self._on_health(self.healthy)

    def _die(self, error: BaseException) -> None:
        """The owner cannot go on: everyone who waits is told, and health is down for good."""
        log.critical("scheduler_died", error=repr(error), exc_info=error)
        was_healthy, self._dead = self.healthy, error
        self._fail_all()
        if was_healthy:
            self._on_health(False)

    def _fail_all(self) -> None:
        failure = failures.owner_lost(self._dead)
        self._dispatcher.stop()
        self._bypass.fail_all(failure)
        self._pending.fail_all(failure)

    async def close(self, within: float = 5.0) -> None:
        """Fail what waits, let running batches end, and end the threads. Waits `within` seconds at most."""
        self._closed = True
        self._pending.close()
        self._fail_all()
        await self._dispatcher.close(within)
