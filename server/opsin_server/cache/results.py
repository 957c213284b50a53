"""Answers that need not be computed: the order in which they are looked for. All the pipeline knows of it.

    in flight already?  ->  kept in memory?  ->  (one run for all who ask from here on)
    ->  kept in Redis?  ->  computed, and kept

An answer found or joined takes no place in the queues and is not refused for want of one: it costs the device
nothing. All of it runs on the event loop; large inputs are hashed and compared on the CPU pool, each in its
caller's turn. Where the pool takes no more, such an input is neither joined nor kept: it goes on to
admission, which tells the caller whether there is room.

Left alone: what a call says to skip, and pictures whose bytes are not at hand. Streams are left out by the
pipeline.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TypeVar, TypeVarTuple, cast

from opsin_server.cache import codec
from opsin_server.cache import key as keys
from opsin_server.cache.joining import Flight, Joining, Run
from opsin_server.cache.key import Known, Question
from opsin_server.cache.memory import MemoryCache, weigh
from opsin_server.cache.redis import RedisCache
from opsin_server.calls import (
    Answer,
    CacheState,
    Caller,
    DetectAnswer,
    EmbedAnswer,
    EncodedImage,
    ModelRef,
    RawImage,
    Source,
    Text,
    Timings,
)
from opsin_server.errors import Failure, Reason
from opsin_server.media.pool import CpuPool
from opsin_server.scheduling.ticket import Priority
from opsin_server.stopwatch import Stopwatch
from opsin_server.telemetry.caching import CacheMetrics

__all__ = ["Asked", "Results"]

A = TypeVar("A", DetectAnswer, EmbedAnswer)
Found = TypeVar("Found")
Args = TypeVarTuple("Args")
Compute = Run[Answer]

MOST_ALIKE = 4
"""Flights with the same mark that a newcomer is compared with: marks that differ in nothing but the parts
that nobody sampled are somebody's game."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a source. model: how the answer will name the one that gave it."""

    question: Question
    source: Source
    model: ModelRef
    skip: bool = False


class Results:
    """One per server, on the event loop.

    join: whether identical inputs in flight run once. memory, redis: None keeps nothing there.
    """

    def __init__(
        self,
        pool: CpuPool,
        metrics: CacheMetrics | None = None,
        *,
        join: bool = True,
        memory: MemoryCache | None = None,
        redis: RedisCache | None = None,
    ) -> None:
        self._pool = pool
        self._metrics = metrics or CacheMetrics()
        self._join = join
        self._memory = memory
        self._redis = redis
        self._joining: Joining[Answer] = Joining()
        self._identities: dict[str, bytes] = {}

    @property
    def keeps(self) -> bool:
        """Whether answers are kept at all."""
        return self._memory is not None or self._redis is not None

    # -- models ------------------------------------------------------------------------------------------

    def served(self, model: str, identity: bytes) -> None:
        """From now on answers of `model`, `name@version`, are kept; see `identity.py`."""
        if self._identities.get(model) != identity:
            self.forget(model)
            self._identities[model] = identity

    def forget(self, model: str) -> None:
        """The model is served no more: its answers are gone, and what it still computes is not kept."""
        self._identities.pop(model, None)
        if self._memory is not None:
            self._memory.forget(model)
            self._show(self._memory)

    # -- answers -----------------------------------------------------------------------------------------

    async def answer(self, asked: Asked, caller: Caller, watch: Stopwatch, compute: Run[A]) -> A:
        """The answer, from wherever it can be had soonest. Raises Failure.

        compute: the long way, for a caller whose terms may change while it runs.
        """
        source = asked.source
        if asked.skip or not isinstance(source, EncodedImage | RawImage | Text):
            return await compute(caller, watch)
        return cast("A", await self._answer(asked, source, caller, watch, compute))

    async def _answer(
        self, asked: Asked, source: Known, caller: Caller, watch: Stopwatch, compute: Compute
    ) -> Answer:
        mark = keys.mark(asked.question, source) if self._join else None
        if mark is not None and (flight := await self._flight(mark, source, caller)) is not None:
            return await self._joined(flight, caller, watch, asked)
        key = await self._key(asked.question, source, caller)
        if key is not None and (found := self._remembered(key)) is not None:
            return replace(found, timings=_found(watch), cache=CacheState.HIT)
        if mark is None:
            return await self._look_further(asked, key, caller, watch, compute)
        if keys.is_large(source) and (flight := await self._flight(mark, source, caller)) is not None:
            return await self._joined(flight, caller, watch, asked)  # it began while this one was hashed

        async def run(party: Caller, beginner: Stopwatch) -> Answer:
            return await self._look_further(asked, key, party, beginner, compute)

        return await self._joined(self._joining.lead(mark, source, run), caller, watch, asked)

    async def _flight(self, mark: Hashable, source: Known, caller: Caller) -> Flight[Answer] | None:
        """The flight that this very input can join."""
        for flight in self._joining.alike(mark)[:MOST_ALIKE]:
            other = cast("Known", flight.source)
            if keys.is_large(source) and source is not other:
                alike = await self._off_loop(caller, keys.same, source, other) or False
            else:
                alike = keys.same(source, other)
            if alike and flight.open:
                return flight
        return None

    async def _joined(self, flight: Flight[Answer], caller: Caller, watch: Stopwatch, asked: Asked) -> Answer:
        waiter = flight.join(caller, watch)
        answer = await flight.wait(waiter)
        if waiter.computed:
            return answer
        self._metrics.joined(asked.question.models[0])
        return replace(answer, timings=_waited(watch, waiter.joined), cache=CacheState.JOINED)

    async def _off_loop(self, caller: Caller, work: Callable[[*Args], Found], *args: *Args) -> Found | None:
        """What `work` gives, on the CPU pool in the caller's turn; None when no more may wait there."""
        patient = caller.priority is not Priority.INTERACTIVE
        try:
            return await self._pool.run(work, *args, flow=caller.flow, patient=patient)
        except Failure as failure:
            if failure.reason is not Reason.QUEUE_FULL:
                raise
            return None

    async def _key(self, question: Question, source: Known, caller: Caller) -> bytes | None:
        """The name that the answer is kept under; None when it is not to be kept."""
        if self._memory is None and self._redis is None:
            return None
        identities = tuple(self._identities.get(model, b"") for model in question.models)
        if not all(identities):
            return None
        if keys.is_large(source):
            return await self._off_loop(caller, keys.digest, question, identities, source)
        return keys.digest(question, identities, source)

    def _remembered(self, key: bytes) -> Answer | None:
        if self._memory is None:
            return None
        found = self._memory.get(key)
        self._metrics.looked("memory", "miss" if found is None else "hit")
        return found

    async def _look_further(
        self, asked: Asked, key: bytes | None, caller: Caller, watch: Stopwatch, compute: Compute
    ) -> Answer:
        """From Redis, else computed; kept for the next one either way."""
        if key is None:
            return await compute(caller, watch)
        found = await self._shared(asked, key, caller)
        if found is not None:
            self._remember(key, asked, found)
            return replace(found, timings=_found(watch), cache=CacheState.HIT)
        try:
            answer = await compute(caller, watch)
        except BaseException:
            if self._redis is not None:
                self._redis.put(key, None)  # others need not wait for it
            raise
        self._remember(key, asked, answer)
        if self._redis is not None:
            self._redis.put(key, lambda: codec.encode(answer), weigh(answer))
        return answer

    async def _shared(self, asked: Asked, key: bytes, caller: Caller) -> Answer | None:
        if self._redis is None:
            return None
        # Half of what is left: after a vain wait there must be time to compute it.
        patience = max(0.0, (caller.deadline - time.monotonic()) / 2)
        data = await self._redis.get(key, patience)
        if data is None:
            return None
        answer = codec.decode(data, asked.question.kind, asked.model)
        if answer is None:
            self._metrics.error("corrupt")
        return answer

    def _remember(self, key: bytes, asked: Asked, answer: Answer) -> None:
        models = asked.question.models
        if self._memory is None or not all(model in self._identities for model in models):
            return
        self._memory.put(key, models, answer)
        self._show(self._memory)

    def _show(self, memory: MemoryCache) -> None:
        self._metrics.bytes.set(memory.bytes)
        self._metrics.entries.set(len(memory))


def _found(watch: Stopwatch) -> Timings:
    """Of an answer that was there: all of it is looking."""
    total = watch.stop().total
    return Timings(total=total, admission=total)


def _waited(watch: Stopwatch, joined: float) -> Timings:
    """Of an answer that others' work gave: all of it, since `joined` (clock seconds), is waiting."""
    total = watch.stop().total
    queue = min(total, time.monotonic() - joined)
    return Timings(total=total, admission=total - queue, queue=queue)
