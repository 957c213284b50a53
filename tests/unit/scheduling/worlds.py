"""Random queues for the property tests, and a toy world that carries plans out. No clock, no threads."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import strategies as st

from opsin_server.scheduling.policy import LaneView, Plan, Run, Wait, plan
from opsin_server.scheduling.profile import Profile
from opsin_server.scheduling.queues import ModelTerms, Queues
from opsin_server.scheduling.ticket import Priority, Ticket

BUCKETS = [(1,), (1, 2, 4), (1, 2, 4, 8, 16, 32), (4, 8), (3, 7)]


def linear(fixed: float, each: float, sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)) -> Profile:
    """A profile of fixed + each * n seconds, with little spread."""
    profile = Profile()
    for size in sizes:
        for _ in range(30):
            profile.observe(size, fixed + each * size)
    return profile


@dataclass
class World:
    """Queues, profiles and a time."""

    queues: Queues = field(default_factory=Queues)
    profiles: dict[str, Profile] = field(default_factory=dict)
    now: float = 100.0
    lane: LaneView = field(default_factory=LaneView)
    next_id: int = 0

    def model(self, name: str, terms: ModelTerms, profile: Profile) -> None:
        self.queues.terms[name] = terms
        self.profiles[name] = profile

    def add(
        self,
        model: str = "m",
        *,
        flow: str = "f",
        waited: float = 0.0,
        left: float = math.inf,
        priority: Priority = Priority.INTERACTIVE,
        shape: int = 0,
        size: int = 1,
    ) -> Ticket:
        self.next_id += 1
        ticket = Ticket(
            self.next_id, model, flow, self.now - waited, priority, self.now + left, size=size, shape=shape
        )
        self.queues.add(ticket)
        return ticket

    def plan(self) -> Plan:
        return plan(self.queues, self.now, self.profiles, self.lane)

    def carry_out(self, made: Plan, *, seconds: float | None = None) -> float:
        """Take the dead and the batch out; the batch runs and ends at once. Returns its seconds."""
        for dead in made.dead:
            self.queues.remove(dead.ticket)
        match made.action:
            case Run(model, tickets):
                for ticket in tickets:
                    self.queues.remove(ticket)
                self.queues.started(model, tickets, self.now)
                took = self.profiles[model].seconds(len(tickets)) if seconds is None else seconds
                self.now += took
                self.queues.finished(model, tickets, self.now, took)
                return took
            case Wait(until):
                self.now = max(until, math.nextafter(self.now, math.inf))
        return 0.0

    def beats(self, most: int = 10_000) -> Iterator[Plan]:
        """Plans, carried out one after another, until nothing waits."""
        for _ in range(most):
            if not self.queues:
                return
            made = self.plan()
            yield made
            self.carry_out(made)
        raise AssertionError("the queues never emptied")


def _terms(draw: st.DrawFn) -> ModelTerms:
    return ModelTerms(
        buckets=draw(st.sampled_from(BUCKETS)),
        weight=draw(st.sampled_from([0.5, 1.0, 2.0])),
        pads=draw(st.booleans()),
        flow_cap=draw(st.sampled_from([0, 0, 1, 3])),
        max_hold=draw(st.sampled_from([0.0, 0.005, 0.05])),
        patience=draw(st.sampled_from([0.1, 0.5, 5.0])),
        after=draw(st.sampled_from([0.0, 0.001])),
    )


@st.composite
def worlds(draw: st.DrawFn, *, most: int = 40, lanes: bool = True) -> World:
    """Anything: models, shapes, flows, classes, deadlines that passed or never come, idle lanes, history."""
    world = World()
    names = ["a", "b", "c"][: draw(st.integers(1, 3))]
    for name in names:
        fixed, each = draw(st.floats(0.0, 0.05)), draw(st.floats(1e-4, 0.02))
        world.model(name, _terms(draw), linear(fixed, each) if draw(st.booleans()) else Profile())
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from(names),
                st.sampled_from(["f", "g", "h", "i"]),
                st.floats(0.0, 2.0),
                st.one_of(st.just(math.inf), st.floats(-0.1, 1.0)),
                st.sampled_from(Priority),
                st.integers(0, 1),
            ),
            max_size=most,
        )
    )
    for model, flow, waited, left, priority, shape in rows:
        world.add(model, flow=flow, waited=waited, left=left, priority=priority, shape=shape)
    if lanes:
        count = draw(st.integers(1, 4))
        world.lane = LaneView(0, count, draw(st.integers(1, count)))
    for _ in range(draw(st.integers(0, 3))):
        world.carry_out(world.plan(), seconds=draw(st.floats(0.0, 0.1)))
    return world
