"""How often a Redis in trouble is waited for, with a stand-in for its client."""

import asyncio
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from opsin_server.cache.redis import RedisCache, RedisTerms
from opsin_server.telemetry.caching import CacheMetrics

KEY = b"k" * 32
HOUR = 3600.0


class Silent:
    """A Redis that is there and says nothing; asked: the commands it was sent."""

    def __init__(self, stored: dict[str, bytes] | None = None) -> None:
        self.stored = stored
        self.asked: list[str] = []

    async def getrange(self, name: str, start: int, end: int) -> bytes:
        del start, end
        self.asked.append("get")
        if self.stored is None:
            await asyncio.Event().wait()
        assert self.stored is not None
        return self.stored.get(name, b"")

    async def set(self, name: str, value: bytes, **how: Any) -> bool:
        del name, value, how
        self.asked.append("claim")
        if self.stored is None:
            await asyncio.Event().wait()
        return True


class Slow(Silent):
    """Finds nothing, and takes all the time of a look-up for it; then it says nothing. jumped: seconds."""

    jumped = 0.0

    async def getrange(self, name: str, start: int, end: int) -> bytes:
        self.asked.append("get")
        self.jumped += HOUR
        return b""


class Claimed(Silent):
    """Somebody else computes what it has not; after that it says nothing."""

    async def getrange(self, name: str, start: int, end: int) -> bytes:
        if self.asked:
            return await super().getrange(name, start, end)
        self.asked.append("get")
        return b""

    async def set(self, name: str, value: bytes, **how: Any) -> bool:
        self.asked.append("claim")
        return False


def over(
    client: Silent, registry: CollectorRegistry | None = None, timeout: float = 0.05, wait: float = 0.1
) -> RedisCache:
    terms = RedisTerms("redis://127.0.0.1:1/0", timeout=timeout, wait=wait)
    cache = RedisCache(terms, CacheMetrics(registry or CollectorRegistry()))
    cache._redis = client
    return cache


async def cache_closed(cache: RedisCache) -> None:
    for task in tuple(cache._tasks):
        task.cancel()
    await asyncio.gather(*cache._tasks, return_exceptions=True)


async def test_after_a_look_up_in_vain_the_key_is_not_claimed_too() -> None:
    client = Silent()
    cache = over(client)
    for _ in range(10):
        assert await cache.get(KEY, patience=1.0) is None
    assert client.asked == ["get"] * 3, "the breaker is open after three"
    await cache_closed(cache)


async def test_what_is_not_there_is_claimed_and_what_is_there_is_given() -> None:
    client = Silent({})
    cache = over(client)
    assert await cache.get(KEY) is None
    assert client.asked == ["get", "claim"]
    client.stored = {f"opsin:answer:{KEY.hex()}": b"answer"}
    assert await cache.get(KEY) == b"answer"
    assert client.asked == ["get", "claim", "get"]
    await cache_closed(cache)


async def test_a_look_up_and_its_claim_have_one_time_to_wait_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Slow()
    cache = over(client, timeout=HOUR)
    monkeypatch.setattr(
        asyncio.get_running_loop(), "time", lambda: time.monotonic() + client.jumped, raising=True
    )
    assert await cache.get(KEY) is None
    assert client.asked == ["get", "claim"]


async def test_who_waits_for_anothers_answer_waits_no_longer_than_was_said() -> None:
    client = Claimed()
    cache = over(client, timeout=HOUR, wait=0.02)
    assert await cache.get(KEY, patience=HOUR) is None
    assert client.asked == ["get", "claim", "get"]


@pytest.mark.parametrize("held", [64])
async def test_more_look_ups_than_its_bound_are_not_begun(held: int) -> None:
    client = Silent()
    cache = over(client)
    cache._looking = held
    assert await cache.get(KEY) is None
    assert client.asked == []


async def test_every_look_up_is_counted_by_how_it_ended() -> None:
    registry, client = CollectorRegistry(), Silent({})
    cache = over(client, registry)
    await cache.get(KEY)
    client.stored = {f"opsin:answer:{KEY.hex()}": b"answer"}
    await cache.get(KEY)
    await cache.get(KEY)
    client.stored = None
    for _ in range(7):
        await cache.get(KEY)
    counted = {
        outcome: registry.get_sample_value(
            "opsin_cache_lookups_total", {"where": "redis", "outcome": outcome}
        )
        for outcome in ("hit", "miss", "error", "skipped")
    }
    assert counted == {"hit": 2, "miss": 1, "error": 3, "skipped": 4}
    await cache_closed(cache)
