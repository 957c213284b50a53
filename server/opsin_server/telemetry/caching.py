"""What is counted about answers that were not computed: joined, kept in memory, kept in Redis.

Owns the names and labels; the counts are pushed by `cache/`, the gauges asked for at a scrape.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge

from opsin_server.telemetry.tallies import Tallies

__all__ = ["CacheMetrics"]


class CacheMetrics:
    """The metrics of one server's cache, in `registry`."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._joined = Tallies(
            "opsin_joined", "Inputs answered by an identical one in flight.", ["model"], registry
        )
        self._lookups = Counter(
            "opsin_cache_lookups",
            "Answers looked for, by where (memory, redis) and outcome (hit, miss, and for redis error, "
            "skipped: the breaker was open or too many were looking).",
            ["where", "outcome"],
            registry=registry,
        )
        self._evictions = Counter(
            "opsin_cache_evictions",
            "Answers that left the memory, by why: size, age, model (it is served no more).",
            ["why"],
            registry=registry,
        )
        self._errors = Counter(
            "opsin_cache_redis_errors",
            "What went wrong with Redis: timeout, connection, corrupt (a value that is no answer), dropped "
            "(a write that found no room), other.",
            ["kind"],
            registry=registry,
        )
        self._writes = Counter("opsin_cache_redis_writes", "Answers written to Redis.", registry=registry)
        self.bytes = Gauge("opsin_cache_bytes", "Memory that kept answers take.", registry=registry)
        self.entries = Gauge("opsin_cache_entries", "Answers kept in memory.", registry=registry)
        self.breaker = Gauge(
            "opsin_cache_redis_open", "1 while Redis is left alone because it failed.", registry=registry
        )

    def joined(self, model: str) -> None:
        """An input was answered by another's run."""
        self._joined.add(model)

    def forget(self, model: str) -> None:
        """A version, `name@version`, is gone, and so is its series."""
        self._joined.forget(model=model)

    def looked(self, where: str, outcome: str) -> None:
        """An answer was looked for."""
        self._lookups.labels(where, outcome).inc()

    def evicted(self, why: str, count: int) -> None:
        """Answers left the memory."""
        self._evictions.labels(why).inc(count)

    def error(self, kind: str) -> None:
        """Something went wrong with Redis."""
        self._errors.labels(kind).inc()

    def wrote(self, count: int) -> None:
        """Answers were written to Redis."""
        self._writes.inc(count)
