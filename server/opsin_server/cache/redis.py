"""Answers that servers share, in Redis: looked for within milliseconds, written when nobody waits for it.

What Redis may cost: a look-up ends after `timeout`, whatever Redis does, its claim included. When it keeps
failing, the breaker opens and nobody asks; one task of ours tries it again from time to time and opens the
connections anew, so that no call pays for finding out. Writes are queued, bounded in number and bytes, and
sent several at a time.

Stampedes: who finds nothing claims the key for `wait` seconds. Others that miss it meanwhile, on any server,
look again for as long, and no longer, before they compute it themselves. A claim is a hint, not a lock: it
ends by itself.

Values are bytes to this module. Nothing here raises to its callers.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from opsin_server.cache.breaker import Breaker
from opsin_server.telemetry.caching import CacheMetrics

__all__ = ["MissingExtraError", "RedisCache", "RedisTerms"]

log = structlog.get_logger(__name__)

CONNECTIONS = 8
MOST_AT_ONCE = 64
"""Look-ups under way. More are not begun: where 64 wait for Redis, computing is not slower."""
MOST_WRITES = 512
MOST_WRITE_BYTES = 16 << 20
WRITES_AT_ONCE = 32
SLOW_TIMEOUT = 1.0
"""Seconds for what no caller waits for: writes, and attempts to find it well again."""
LARGEST = 1 << 20
"""Bytes of an answer; whatever is longer is not ours, and is not fetched in full."""
FIRST_PAUSE, LONGEST_PAUSE = 0.004, 0.032


class MissingExtraError(Exception):
    """The package `redis` is not installed."""


@dataclass(frozen=True, slots=True)
class RedisTerms:
    """url: redis://, rediss:// or unix://. prefix: of every key. timeout: seconds for a look-up.

    ttl: seconds that an answer is kept, 0 = until Redis itself makes room. wait: seconds that a claim lasts.
    """

    url: str
    prefix: str = "opsin"
    timeout: float = 0.01
    ttl: float = 0.0
    wait: float = 0.1


@dataclass(frozen=True, slots=True)
class _Write:
    key: bytes
    encode: Callable[[], bytes] | None
    size: int


class RedisCache:
    """One server's way to a Redis. Use on one event loop: `start`, `close`."""

    def __init__(self, terms: RedisTerms, metrics: CacheMetrics) -> None:
        """Connects nowhere yet. Raises MissingExtraError, and ValueError for a URL that is none."""
        try:
            from redis import exceptions
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise MissingExtraError("the shared cache needs redis: pip install 'opsin[redis]'") from error
        pool = BlockingConnectionPool.from_url(
            terms.url,
            max_connections=CONNECTIONS,
            timeout=terms.timeout,
            socket_connect_timeout=SLOW_TIMEOUT,
            socket_timeout=SLOW_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis: Any = Redis(connection_pool=pool)
        self._connection_errors: tuple[type[Exception], ...] = (exceptions.ConnectionError, OSError)
        self._timeouts: tuple[type[Exception], ...] = (exceptions.TimeoutError, TimeoutError)
        self._terms = terms
        self._metrics = metrics
        self._breaker = Breaker()
        self._looking = 0
        self._writes: deque[_Write] = deque()
        self._write_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writer: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Open the connections; a Redis that is not there is no error, and is tried again later."""
        if not await self._try():
            self._open()

    async def close(self) -> None:
        """Write what waits, for a second at most, and hang up."""
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SLOW_TIMEOUT):
                while self._writes and not self._breaker.open:
                    await self._write_some()
        tasks = [*self._tasks, *([self._writer] if self._writer else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self._redis.aclose(close_connection_pool=True)

    # -- looking -----------------------------------------------------------------------------------------

    async def get(self, key: bytes, patience: float = 0.0) -> bytes | None:
        """What lies under a key; None when there is nothing, or no telling.

        patience: seconds that may be waited for another server that is computing it right now.
        """
        if self._breaker.open or self._looking >= MOST_AT_ONCE:
            self._metrics.looked("redis", "skipped")
            return None
        self._looking += 1
        by = asyncio.get_running_loop().time() + self._terms.timeout
        try:
            data = await self._get(key, by)
            failed = data is None
            # Not after a look-up that failed: one wait for a Redis in trouble is enough.
            if data == b"" and self._terms.wait and not self._breaker.open and not await self._claim(key, by):
                data = await self._await_other(key, min(patience, self._terms.wait))
        finally:
            self._looking -= 1
        self._metrics.looked("redis", "hit" if data else "error" if failed else "miss")
        return data or None

    async def _get(self, key: bytes, by: float) -> bytes | None:
        """What lies there, empty when nothing does; None when there is no telling by then."""
        # GETRANGE, so that a value that is not ours cannot be too large.
        found: bytes | None = await self._ask(self._redis.getrange(self._name(key), 0, LARGEST), None, by)
        return found

    async def _claim(self, key: bytes, by: float) -> bool:
        """Whether it is for us to compute; also when there is no telling by then."""
        lasts = max(1, _milliseconds(self._terms.wait))
        claimed = self._redis.set(self._name(key, "claim"), b"1", nx=True, px=lasts)
        return bool(await self._ask(claimed, True, by))

    async def _await_other(self, key: bytes, patience: float) -> bytes | None:
        loop = asyncio.get_running_loop()
        ends, pause = loop.time() + patience, FIRST_PAUSE
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(ends):
                while loop.time() + pause < ends and not self._breaker.open:
                    await asyncio.sleep(pause)
                    data = await self._get(key, loop.time() + self._terms.timeout)
                    if data != b"":
                        return data
                    pause = min(2 * pause, LONGEST_PAUSE)
        return None

    def _name(self, key: bytes, what: str = "answer") -> str:
        return f"{self._terms.prefix}:{what}:{key.hex()}"

    # -- writing -----------------------------------------------------------------------------------------

    def put(self, key: bytes, encode: Callable[[], bytes] | None, size: int = 0) -> None:
        """Keep what `encode` gives, some time soon, and give up our claim; None only gives up the claim.

        size: about how many bytes are held until then.
        """
        if self._breaker.open or self._closed:
            return
        if len(self._writes) >= MOST_WRITES or self._write_bytes + size > MOST_WRITE_BYTES:
            self._metrics.error("dropped")
            return
        self._writes.append(_Write(key, encode, size))
        self._write_bytes += size
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        while self._writes and not self._breaker.open and not self._closed:
            await self._write_some()

    async def _write_some(self) -> None:
        batch = [self._writes.popleft() for _ in range(min(WRITES_AT_ONCE, len(self._writes)))]
        self._write_bytes -= sum(write.size for write in batch)
        pipe = self._redis.pipeline(transaction=False)
        written = 0
        for write in batch:
            if write.encode is not None and len(data := write.encode()) <= LARGEST:
                pipe.set(self._name(write.key), data, px=_milliseconds(self._terms.ttl) or None)
                written += 1
            pipe.delete(self._name(write.key, "claim"))
        by = asyncio.get_running_loop().time() + SLOW_TIMEOUT
        if await self._ask(pipe.execute(), None, by) is not None:
            self._metrics.wrote(written)

    # -- trouble -----------------------------------------------------------------------------------------

    async def _ask(self, command: Awaitable[Any], otherwise: Any, by: float) -> Any:
        """What Redis says by that time of the loop's; errors end here, and count."""
        try:
            async with asyncio.timeout_at(by):
                answer = await command
        except Exception as error:
            self._metrics.error(self._kind(error))
            if self._breaker.failed():
                log.warning("redis_left_alone", error=repr(error))
                self._open()
            return otherwise
        self._breaker.succeeded()
        return answer

    def _kind(self, error: Exception) -> str:
        if isinstance(error, self._timeouts):
            return "timeout"
        return "connection" if isinstance(error, self._connection_errors) else "other"

    def _open(self) -> None:
        """Leave it alone, and look after it."""
        self._breaker.open = True
        self._metrics.breaker.set(1)
        self._writes.clear()
        self._write_bytes = 0
        if not self._closed:
            task = asyncio.get_running_loop().create_task(self._look_after())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _look_after(self) -> None:
        while self._breaker.open:
            await asyncio.sleep(self._breaker.rest())
            if await self._try():
                self._breaker.well()
                self._metrics.breaker.set(0)
                log.info("redis_well")

    async def _try(self) -> bool:
        """Whether it answers on every connection, in a time that a look-up would accept."""
        try:
            async with asyncio.timeout(SLOW_TIMEOUT):
                await asyncio.gather(*(self._redis.ping() for _ in range(CONNECTIONS)))
            async with asyncio.timeout(self._terms.timeout):
                await self._redis.ping()
        except Exception as error:
            self._metrics.error(self._kind(error))
            return False
        return True


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
