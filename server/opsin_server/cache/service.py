"""The cache as a part of the server: built from the settings, told of models, started and closed.

Owns which models' answers may be kept: those that serve, each under an identity. Without a shared store the
identity is drawn at random when the model begins to serve, so nothing outlives the model; for a shared one it
is read from the model's files (`identity.py`), and answers are kept as soon as that is done.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import structlog

from opsin_server.cache.identity import Origin, identity
from opsin_server.cache.memory import MemoryCache
from opsin_server.cache.redis import MissingExtraError, RedisCache, RedisTerms
from opsin_server.cache.results import Results
from opsin_server.config import CacheSettings, ConfigError
from opsin_server.media.pool import CpuPool
from opsin_server.models.directory import Version
from opsin_server.models.status import ModelState
from opsin_server.telemetry.caching import CacheMetrics

__all__ = ["CacheService"]

log = structlog.get_logger(__name__)


class CacheService:
    """results: what the pipeline asks. folders: of each detector, by name."""

    def __init__(
        self,
        settings: CacheSettings,
        pool: CpuPool,
        metrics: CacheMetrics,
        *,
        release: str,
        folders: Mapping[str, Path | None],
    ) -> None:
        """Raises ConfigError for a Redis that cannot be: no package, no URL."""
        memory = None
        if settings.memory_bytes:
            memory = MemoryCache(int(settings.memory_bytes), settings.ttl, on_evict=metrics.evicted)
        self._redis = _redis(settings, metrics)
        self.results = Results(pool, metrics, join=settings.join, memory=memory, redis=self._redis)
        self._release = release
        self._folders = folders
        self._reading: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Connect to what is shared; it may be down."""
        if self._redis is not None:
            await self._redis.start()

    async def close(self) -> None:
        """Write what waits, for a moment, and hang up."""
        for task in self._reading.values():
            task.cancel()
        if self._redis is not None:
            await self._redis.close()

    def model_state(self, version: Version) -> None:
        """A version of a model begins to serve, or does so no more."""
        reading = self._reading.pop(version.key, None)
        if reading is not None:
            reading.cancel()
        if version.state is not ModelState.SERVING or version.loaded is None:
            self.results.forget(version.key)
        elif self._redis is None:
            self.results.served(version.key, os.urandom(16))
        else:
            origin = Origin(
                detector=version.detector,
                source=version.source,
                settings=version.settings.settings,
                info=version.loaded.info,
                release=self._release,
                folder=self._folders.get(version.detector),
                decoder=version.loaded.decoder.name if version.loaded.decoder else "",
            )
            self._reading[version.key] = asyncio.create_task(self._read(version.key, origin))

    async def _read(self, key: str, origin: Origin) -> None:
        try:
            what = await asyncio.to_thread(identity, origin)
        except OSError as error:
            log.warning("model_not_cached", model=key, error=str(error))
            return
        self.results.served(key, what)


def _redis(settings: CacheSettings, metrics: CacheMetrics) -> RedisCache | None:
    url = settings.redis.get_secret_value()
    if not url:
        return None
    terms = RedisTerms(
        url,
        prefix=settings.redis_prefix,
        timeout=settings.redis_timeout,
        ttl=settings.ttl,
        wait=settings.redis_wait,
    )
    try:
        return RedisCache(terms, metrics)
    except MissingExtraError as error:
        raise ConfigError([f"cache.redis: {error}"]) from error
    except ValueError as error:
        raise ConfigError([f"cache.redis is not the address of a Redis: {error}"]) from error
