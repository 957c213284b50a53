"""Versions loaded, canaried, promoted, rolled back and unloaded while calls come in at half the capacity.

One turn: load the next version, give it a tenth, a half, everything; roll back; promote again, its label with
it, the old one as its shadow; unload the old one, and wait until it is gone. Again until the time is up.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import opsin
from bench.figures import Figure, at_least, at_most
from bench.inputs import Kind, pictures
from bench.load import Load, beside
from bench.overload import peak
from bench.scale import Scale
from bench.server import Server
from bench.traffic import LABEL, Change, Seen, astray, call_all, unsteady
from bench.watch import wait_for
from opsin.bench.figures import percentile

__all__ = ["measure"]

SPEC = "net=nanodet,labels=stable"
NAME = "net"
DETECTOR = "nanodet"
DEADLINE = 10.0
BEFORE, MINUTES = 30.0, 5.0
HOLD = 1.5
"""Seconds that each division of the traffic lasts."""


@dataclass(slots=True)
class Operator:
    """Somebody who changes versions all the time, and writes down what was in force when."""

    client: opsin.Client
    version: int = 1
    loads: int = 0
    changes: list[Change] = field(default_factory=list)

    def begin(self) -> None:
        """As the server starts."""
        self.changes.append(Change(0.0, 0.0, {self.version: 1}, self.version))

    def turn(self, hold: float) -> None:
        """From one version to the next."""
        old, new = self.version, self.version + 1
        self.client.load_model(NAME, source=DETECTOR, version=new, wait=True)
        self.loads += 1
        self.set({old: 9, new: 1}, old, hold)
        self.set({old: 1, new: 1}, old, hold)
        self.set({new: 1}, old, hold)
        self.set({old: 1}, old, hold)
        self.set({new: 1}, new, hold, shadow=old)
        self.set({new: 1}, new, hold)
        self.client.unload_model(NAME, version=old)
        wait_for(lambda: all(model.version != old for model in self.client.models()), "the old version to go")
        self.version = new

    def set(self, weights: dict[int, int], label: int, hold: float, shadow: int = 0) -> None:
        """Divide the traffic so, and let it be so for a while."""
        begun = time.monotonic()
        self.client.set_traffic(NAME, weights, labels={LABEL: label}, shadow_version=shadow)
        self.changes.append(Change(begun, time.monotonic(), weights, label))
        time.sleep(hold)


def measure(scale: Scale) -> list[Figure]:
    """About six minutes, five of them changes."""
    before_s, during_s = (3.0, 15.0) if scale.quick else (BEFORE, 60 * MINUTES)
    hold = 0.3 if scale.quick else HOLD
    with pictures() as paths, Server(SPEC) as server, opsin.Client(server.target, timeout=60) as client:
        kind = Kind(paths)
        rate = peak(server, NAME, kind, scale.seconds(8)) / 2
        scale.say(f"{rate:.1f} calls a second for {before_s:.0f} s, and then {during_s:.0f} s of changes")
        quiet = _calls(server, kind, rate, before_s, 1)
        operator = Operator(client)
        operator.begin()
        load = Load(server.target, NAME, kind, during_s, rate=rate, deadline=DEADLINE, seed=2)
        with beside(call_all, load) as running:
            while not running.done():
                operator.turn(hold)
            busy = running.result()
    return _figures(quiet, busy, operator, rate)


def _calls(server: Server, kind: Kind, rate: float, seconds: float, seed: int) -> list[Seen]:
    load = Load(server.target, NAME, kind, seconds, rate=rate, deadline=DEADLINE, seed=seed)
    with beside(call_all, load) as running:
        return running.result()


def _figures(quiet: Sequence[Seen], busy: Sequence[Seen], operator: Operator, rate: float) -> list[Figure]:
    ends = Counter(call.error for call in busy if call.error)
    before, during = _p(quiet, 0.99), _p(busy, 0.99)
    told = {
        "calls": len(busy),
        "calls_a_second": rate,
        "versions_loaded": operator.loads,
        "changes_of_traffic": len(operator.changes) - 1,
        "errors": dict(ends),
        "answered_by_version": dict(sorted(Counter(call.version for call in busy).items())),
    }
    latency = {
        "before_p50_p99_max_ms": [_p(quiet, 0.5), before, _p(quiet, 1.0)],
        "during_p50_p99_max_ms": [_p(busy, 0.5), during, _p(busy, 1.0)],
    }
    minutes = (max(call.done for call in busy) - min(call.sent for call in busy)) / 60
    what = f"{NAME}, half the capacity, {minutes:.1f} min of changes"
    return [
        Figure(f"{what}: failed calls", [float(sum(ends.values()))], "", at_most(0), told),
        Figure(f"{what}: misrouted calls", [float(astray(busy, operator.changes))], "", at_most(0)),
        Figure(f"{what}: keys that did not stick", [float(unsteady(busy, operator.changes))], "", at_most(0)),
        Figure(f"{what}: versions loaded and unloaded", [float(operator.loads)], "", at_least(1)),
        Figure(
            f"{what}: splits off their weights", [off_weights(busy, operator.changes)], "sigma", at_most(4)
        ),
        Figure(f"{what}: p99 during over before", [during / before], "", None, latency),
    ]


def off_weights(calls: Sequence[Seen], changes: Sequence[Change]) -> float:
    """How far the newer versions' share of calls by name is off their weights, in binomial deviations.

    Over all divisions between two versions together: each lasts for a few calls only.
    """
    off, variance = 0.0, 0.0
    for change, until in zip(changes, [*(c.begun for c in changes[1:]), math.inf], strict=True):
        share = change.weights[max(change.weights)] / sum(change.weights.values())
        inside = [c for c in calls if not (c.asked or c.error) and change.done <= c.sent and c.done <= until]
        off += sum(c.version == max(change.weights) for c in inside) - share * len(inside)
        variance += share * (1 - share) * len(inside)
    return abs(off) / math.sqrt(variance) if variance else 0.0


def _p(calls: Sequence[Seen], share: float) -> float:
    """Milliseconds."""
    return percentile(sorted((call.done - call.sent) * 1000 for call in calls if not call.error), share)
