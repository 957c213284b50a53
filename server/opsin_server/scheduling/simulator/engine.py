"""The virtual clock: feeds a trace to a batcher in front of simulated lanes.

Owns time and the devices' true run times. A batcher sees only what a server would: tickets, and how long its
batches took.
"""

import heapq
import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from opsin_server.scheduling.policy import LaneView, Run, Wait
from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.simulator.batchers import Batcher
from opsin_server.scheduling.simulator.result import Recorder, Result
from opsin_server.scheduling.simulator.traces import Request, Trace
from opsin_server.scheduling.ticket import Ticket

__all__ = ["Cost", "learnt", "simulate"]


@dataclass(frozen=True, slots=True)
class Cost:
    """The true run time of a model: (fixed + each * batch) seconds, times a lognormal of this sigma."""

    fixed: float
    each: float
    noise: float = 0.05

    def seconds(self, batch: int) -> float:
        """The median."""
        return self.fixed + self.each * batch

    def draw(self, batch: int, rng: random.Random) -> float:
        """One run."""
        return self.seconds(batch) * (math.exp(rng.gauss(0.0, self.noise)) if self.noise else 1.0)


def learnt(cost: Cost, buckets: tuple[int, ...], *, seed: int = 0, runs: int = 5) -> Profile:
    """A profile after warm-up."""
    rng, profile = random.Random(seed), Profile()  # noqa: S311  nothing here is secret
    for bucket in buckets:
        for _ in range(runs):
            profile.observe(bucket, cost.draw(bucket, rng))
    return profile


def simulate(
    trace: Trace,
    batcher: Batcher,
    costs: Mapping[str, Cost],
    *,
    lanes: int = 1,
    requests: int = 10_000,
    buckets: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 1,
) -> Result:
    """Run until `requests` have been asked and all are settled.

    buckets: for models whose batches are padded to the next bucket, and cost what it costs.
    """
    return _Run(trace, batcher, costs, lanes=lanes, buckets=buckets or {}, seed=seed).run(requests)


class _Run:
    """One simulation. The heap holds what is to come: (time, order, what)."""

    def __init__(
        self,
        trace: Trace,
        batcher: Batcher,
        costs: Mapping[str, Cost],
        *,
        lanes: int,
        buckets: Mapping[str, tuple[int, ...]],
        seed: int,
    ) -> None:
        self.trace = trace
        self.batcher = batcher
        self.costs = costs
        self.buckets = buckets
        self.rng = random.Random(seed)  # noqa: S311
        self.lanes = lanes
        self.idle = list(range(lanes))
        self.wake = math.inf
        self.order = itertools.count()
        self.heap: list[tuple[float, int, Request | Run | None, float, int]] = []
        self.record = Recorder(lanes)
        self.left = 0

    def run(self, requests: int) -> Result:
        """The loop: the next moment at which something happens, everything that happens then, then plans."""
        self.left = requests
        arrivals = self.trace.arrivals()
        coming = next(arrivals, None)
        heap, now = self.heap, 0.0
        while self.left > 0 or heap:
            at = coming.at if coming is not None and self.left > 0 else math.inf
            if heap and heap[0][0] < at:
                at = heap[0][0]
            if at == math.inf:
                break
            now = at
            while coming is not None and coming.at <= now and self.left > 0:
                self.ask(coming)
                coming = next(arrivals, None)
            while heap and heap[0][0] <= now:
                _, _, what, seconds, lane = heapq.heappop(heap)
                match what:
                    case None:
                        self.wake = math.inf
                    case Run():
                        self.end(what, now, seconds, lane)
                    case _:
                        self.ask(what)
            if self.idle:
                self.dispatch(now)
        return self.record.result(self.batcher.name, now)

    def ask(self, request: Request) -> None:
        if self.left <= 0:
            return
        self.left -= 1
        ticket = Ticket(
            next(self.order),
            request.model,
            request.flow,
            request.at,
            request.priority,
            request.at + request.within,
        )
        if not self.batcher.add(ticket):
            self.record.refused(ticket)
            self.again(ticket, request.at)

    def again(self, ticket: Ticket, now: float) -> None:
        following = self.trace.answered(ticket, now)
        if following is not None:
            heapq.heappush(self.heap, (following.at, next(self.order), following, 0.0, 0))

    def dispatch(self, now: float) -> None:
        while self.idle:
            view = LaneView(self.idle[-1], self.lanes, len(self.idle))
            made = self.batcher.plan(now, view)
            for dead in made.dead:
                self.record.dropped(dead.ticket)
                self.again(dead.ticket, now)
            match made.action:
                case Run(model, tickets):
                    size = len(tickets)
                    if model in self.buckets:
                        size = next(b for b in self.buckets[model] if b >= size)
                    seconds = self.costs[model].draw(size, self.rng)
                    item = (now + seconds, next(self.order), made.action, seconds, self.idle.pop())
                    heapq.heappush(self.heap, item)
                case Wait(until):
                    if until < self.wake:
                        self.wake = until
                        heapq.heappush(self.heap, (max(until, now), next(self.order), None, 0.0, 0))
                    return
                case _:
                    return

    def end(self, batch: Run, now: float, seconds: float, lane: int) -> None:
        self.idle.append(lane)
        self.batcher.finished(batch.model, batch.tickets, now, seconds)
        self.record.ran(batch.tickets, now, seconds)
        for ticket in batch.tickets:
            self.again(ticket, now)
