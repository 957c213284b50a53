"""Thirty-two cameras of four rates and four sizes on two cores, and a caller beside them, on a virtual clock.

The rules are the server's own: sessions, turns, queues and policy; time, workers and lanes are the test's.
Workers and lanes share the cores: what one takes the other lacks.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable

import pytest

from opsin_server.scheduling.policy import LaneView, Run, Wait, plan
from opsin_server.scheduling.queues import ModelTerms, Queues
from opsin_server.scheduling.ticket import Priority, Ticket
from opsin_server.streams import events as ev
from opsin_server.streams.session import SessionLimits, StreamSession
from opsin_server.streams.turns import Turns
from unit.scheduling.worlds import linear
from unit.streams.stream_world import ANSWER, LATEST

CORES, WORKERS, LANES = 1.5, 2, 2
STEP, SECONDS = 0.001, 8.0
RUN = 0.015
RATES = (3.0, 4.0, 8.0, 18.0)
DECODING = (0.001, 0.002, 0.003, 0.0045)
"""By size."""


class Machine:
    """Time, two workers that prepare, and two lanes."""

    def __init__(self, room: float) -> None:
        self.now = 0.0
        self.turns: Turns[Camera] = Turns()
        self.turns.resize(room)
        self.jobs: dict[Priority, deque[Job]] = {Priority.INTERACTIVE: deque(), Priority.STREAM: deque()}
        self.queues = Queues()
        self.queues.terms["m"] = ModelTerms((1, 2), max_hold=0.0)
        self.profiles = {"m": linear(0.0, RUN, (1, 2))}
        self.starting: dict[int, Job] = {}
        self.working: list[Job] = []
        self.running: list[tuple[Job, list[Ticket], list[Job], float]] = []
        self._ids = itertools.count(1)
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._ids), call))

    def queue(self, job: "Job") -> None:
        job.ticket = Ticket(next(self._ids), "m", job.flow, self.now, job.priority)
        self.queues.add(job.ticket)
        self.starting[job.ticket.id] = job

    def run(self) -> None:
        while self.now < SECONDS:
            self.now += STEP
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            self._work()
            self._fill()

    def _work(self) -> None:
        active = [*self.working, *(batch for batch, *_ in self.running)]
        for job in active:
            job.left -= STEP * min(1.0, CORES / len(active))
        for job in [job for job in self.working if job.left <= 0]:
            self.working.remove(job)
            job.prepared()
        for done in [one for one in self.running if one[0].left <= 0]:
            self.running.remove(done)
            _, tickets, jobs, since = done
            self.queues.finished("m", tuple(tickets), self.now, self.now - since)
            for job in jobs:
                job.answered()

    def _fill(self) -> None:
        while len(self.working) < WORKERS and (line := next((q for q in self.jobs.values() if q), None)):
            self.working.append(line.popleft())
        while len(self.running) < LANES:
            view = LaneView(0, LANES, LANES - len(self.running))
            match plan(self.queues, self.now, self.profiles, view).action:
                case Run(_, tickets):
                    self._run(tickets)
                case Wait(until):
                    self.after(until - self.now, lambda: None)
                    return
                case _:
                    return

    def _run(self, tickets: tuple[Ticket, ...]) -> None:
        jobs = []
        for ticket in tickets:
            self.queues.remove(ticket)
            job = self.starting.pop(ticket.id)
            job.started()
            jobs.append(job)
        self.queues.started("m", tickets, self.now)
        self.running.append((Job("", Priority.STREAM, RUN * len(jobs)), list(tickets), jobs, self.now))


class Job:
    """An input on its way. left: seconds of a core that its next stage takes."""

    def __init__(self, flow: str, priority: Priority, left: float) -> None:
        self.flow, self.priority, self.left = flow, priority, left
        self.ticket: Ticket | None = None

    def prepared(self) -> None: ...
    def started(self) -> None: ...
    def answered(self) -> None: ...


class Look(Job):
    """A frame of a camera."""

    def __init__(self, camera: "Camera", sequence: int) -> None:
        super().__init__(camera.name, Priority.STREAM, camera.decoding)
        self.camera, self.sequence, self.turn = camera, sequence, True

    def end_turn(self) -> None:
        if self.turn:
            self.turn = False
            self.camera.end_turn()

    def prepared(self) -> None:
        self.camera.decoded += 1
        self.camera.tell(ev.FrameReady(self.sequence))
        self.camera.machine.queue(self)

    def started(self) -> None:
        self.end_turn()
        self.camera.tell(ev.FrameStarted(self.sequence))

    def answered(self) -> None:
        self.camera.results += 1
        self.camera.tell(ev.FrameAnswered(self.sequence, ANSWER))


class Camera:
    """Pushes frames at its rate, come what may; LATEST."""

    def __init__(self, machine: Machine, name: str, rate: float, decoding: float) -> None:
        self.machine, self.name, self.rate, self.decoding = machine, name, rate, decoding
        self.session = StreamSession(SessionLimits(turns=True))
        self.sequence = self.decoded = self.results = 0
        self.looks: dict[int, Look] = {}
        self._told: deque[ev.Event] = deque()
        self._telling = False
        self.tell(ev.ConfigReceived(LATEST))

    def push(self) -> None:
        self.sequence += 1
        self.tell(ev.FrameArrived(self.sequence))
        self.machine.after(1 / self.rate, self.push)

    def tell(self, event: ev.Event) -> None:
        self._told.append(event)
        if self._telling:
            return
        self._telling = True
        while self._told:
            for action in self.session.receive(self._told.popleft(), self.machine.now):
                self._act(action)
        self._telling = False

    def _act(self, action: ev.Action) -> None:
        match action:
            case ev.Submit(sequence):
                self.looks[sequence] = Look(self, sequence)
                self.machine.jobs[Priority.STREAM].append(self.looks[sequence])
            case ev.AskTurn():
                if self.machine.turns.ask(self):
                    self.tell(ev.TurnGiven())
            case ev.ReturnTurn():
                self.end_turn()
            case ev.Cancel(sequence):
                self._withdraw(self.looks.get(sequence))
            case ev.Send():
                self.tell(ev.ReplySent())

    def _withdraw(self, look: Look | None) -> None:
        if look is not None and look.ticket is not None and look.ticket.id in self.machine.starting:
            del self.machine.starting[look.ticket.id]
            self.machine.queues.remove(look.ticket)
            look.end_turn()

    def end_turn(self) -> None:
        for camera in self.machine.turns.done(self):
            self.machine.after(0.0, lambda camera=camera: camera.tell(ev.TurnGiven()))


class Caller(Job):
    """One interactive call in flight."""

    def __init__(self, machine: Machine) -> None:
        super().__init__("caller", Priority.INTERACTIVE, 0.0)
        self.machine, self.answers = machine, 0

    def ask(self) -> None:
        self.left = DECODING[1]
        self.machine.jobs[Priority.INTERACTIVE].append(self)

    def prepared(self) -> None:
        self.machine.queue(self)

    def answered(self) -> None:
        self.answers += 1
        self.machine.after(0.002, self.ask)


def film(room: float, *, caller: bool) -> list[Camera]:
    machine = Machine(room)
    cameras = [
        Camera(machine, f"{rate:g}/{decoding:g}/{number}", rate, decoding)
        for rate in RATES
        for decoding in DECODING
        for number in range(2)
    ]
    for number, camera in enumerate(cameras):
        machine.after(number * 0.37 % 1 / camera.rate, camera.push)
    if caller:
        machine.after(0.0, Caller(machine).ask)
    machine.run()
    return cameras


@pytest.mark.parametrize("room", [10.0, 1000.0])
@pytest.mark.parametrize("caller", [False, True])
def test_shares_are_equal_whatever_cameras_push_and_whoever_calls_beside_them(
    room: float, caller: bool
) -> None:
    shares = [camera.results for camera in film(room, caller=caller)]
    mean = sum(shares) / len(shares)
    assert mean > 5
    assert max(abs(share - mean) for share in shares) <= max(1.5, 0.1 * mean), shares


def test_with_turns_hardly_a_frame_is_decoded_in_vain_and_more_are_looked_at() -> None:
    crowded, orderly = film(1000.0, caller=False), film(10.0, caller=False)
    decoded, results = sum(c.decoded for c in orderly), sum(c.results for c in orderly)
    assert decoded <= 1.1 * results
    assert results >= 1.3 * sum(c.results for c in crowded)
