"""Callers that write down which version answered them, and the judge of whether it was one that might.

Calls are sent, and changes made, in different processes on one machine; both read its monotonic clock. A call
may be answered by every version that its words led to at some moment between sending and answer.
"""

import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from bench.inputs import request_maker
from bench.load import PATIENCE, Load, channel, in_loop, open_loop
from opsin.bench.load import Sample
from opsin.v1 import InferenceServiceStub

__all__ = ["LABEL", "Change", "Seen", "astray", "call_all", "unsteady"]

LABEL = "stable"
KEYS = 16
"""Routing keys in use; a third of the calls bring one, a third ask by label, a third by name alone."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One call. sent, done: clock seconds. asked: "" by name, a label, or a routing key (`key` is set).

    version: who answered, 0 when it failed with `error`.
    """

    sent: float
    done: float
    asked: str
    key: bool
    version: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """From `begun` on it may be, and from `done` on it is certain, that these are the versions.

    begun, done: clock seconds around the request that changed it. weights: by version. label: where it leads.
    """

    begun: float
    done: float
    weights: Mapping[int, int]
    label: int


def astray(calls: Sequence[Seen], changes: Sequence[Change]) -> int:
    """Answered calls whose version none of what was in force between sending and answer leads to."""
    return sum(call.version not in _allowed(call, changes) for call in calls if not call.error)


def _allowed(call: Seen, changes: Sequence[Change]) -> set[int]:
    allowed: set[int] = set()
    for change, until in zip(changes, [*(c.done for c in changes[1:]), float("inf")], strict=True):
        if change.begun <= call.done and call.sent <= until:
            allowed |= {change.label} if call.asked == LABEL else {v for v, w in change.weights.items() if w}
    return allowed


def unsteady(calls: Sequence[Seen], changes: Sequence[Change]) -> int:
    """Keys that were answered by more than one version while no weight changed."""
    found: dict[tuple[int, str], set[int]] = defaultdict(set)
    for call in calls:
        if call.key and not call.error:
            for number, change in enumerate(changes):
                until = changes[number + 1].begun if number + 1 < len(changes) else float("inf")
                if change.done <= call.sent and call.done <= until:
                    found[number, call.asked].add(call.version)
    return sum(len(versions) > 1 for versions in found.values())


def call_all(load: Load) -> list[Seen]:
    """Run the load in open loop, in this process; every call of it."""
    assert load.rate is not None
    seen: list[Seen] = []
    in_loop(_call_all(load, seen))
    return seen


async def _call_all(load: Load, seen: list[Seen]) -> None:
    make = request_maker(load.kind, load.model, load.seed)
    chance = random.Random(load.seed)
    async with channel(load.target) as opened:
        stub: Any = InferenceServiceStub(opened)

        async def call(number: int) -> Sample:
            request, way = make(number), number % 3
            asked = ("", LABEL, f"key-{chance.randrange(KEYS)}")[way]
            if way == 1:
                request.model = f"{load.model}@{LABEL}"
            elif way == 2:
                request.routing_key = asked
            sent, version, error = time.monotonic(), 0, ""
            try:
                version = (await stub.Detect(request, timeout=load.deadline or PATIENCE)).model.version
            except grpc.aio.AioRpcError as failed:
                error = f"{failed.code().name}: {failed.details()}"
            done = time.monotonic()
            seen.append(Seen(sent, done, asked, way == 2, version, error))
            return Sample(done - sent, error)

        assert load.rate is not None
        await open_loop(call, load.rate, load.seconds, load.seed)
