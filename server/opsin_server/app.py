"""The server as a whole: every room built once, joined, started, and taken down in order.

Start: the configuration is proved (every model's detector is found) before anything is bound; the port
answers health with NOT_SERVING while models load and warm up; SERVING when all are warm.
Stop: NOT_SERVING, still accepting for `drain.delay`; then new calls are refused and accepted ones finished
within `drain.grace`.

It owns the order of things and no rule of its own. The process around it is `serving.py`'s.
"""

import asyncio
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import structlog

from opsin_detectors.api import LoadError
from opsin_detectors.finder import Found, find
from opsin_detectors.sources import ModelSpec, resolve
from opsin_server.admission.gate import Gate, GateLimits
from opsin_server.cache.service import CacheService
from opsin_server.config import ConfigError, ModelSettings, SchedulerSettings, Settings
from opsin_server.config.folders import cache_folder
from opsin_server.media.budget import PixelBudget
from opsin_server.media.decode import configure_pillow
from opsin_server.media.header import MediaLimits
from opsin_server.media.pool import CpuPool, usable_cores
from opsin_server.models.devices import devices_of, pick_device
from opsin_server.models.directory import Version
from opsin_server.models.following import with_followers
from opsin_server.models.lifecycle import Lifecycle
from opsin_server.models.loading import Loader, LoadTerms
from opsin_server.models.operator import Operator
from opsin_server.models.registry import Registry
from opsin_server.models.status import ModelState
from opsin_server.models.view import Catalog
from opsin_server.pipeline import Pipeline
from opsin_server.rpc.health import HealthBoard
from opsin_server.rpc.server import RpcServer
from opsin_server.scheduling.scheduler import Scheduler, SchedulerOptions
from opsin_server.scheduling.ticket import Ticket
from opsin_server.shadow import Shadow
from opsin_server.switchboard import Switchboard
from opsin_server.telemetry.caching import CacheMetrics
from opsin_server.telemetry.exposition import MetricsEndpoint, OnLoop
from opsin_server.telemetry.metrics import Metrics, ModelGauges, Snapshot
from opsin_server.telemetry.share import BusyShare
from opsin_server.telemetry.trace import TraceWriter

__all__ = ["BUILT_IN_MODELS", "App"]

log = structlog.get_logger(__name__)

BUILT_IN_MODELS = ("nanodet", "nsfw", "face-emotion")
"""Served when nobody says what to serve."""
SPARE_BACKLOG = 0.02
"""Seconds of work that may wait while a shadow still gets copies: more, and somebody would wait for them."""
MOST_CPU_LANES = 4
"""Lanes share one interpreter lock; beyond a few they wait for each other more than for the cores."""


class _Observer:
    """Tells telemetry what the scheduler does."""

    def __init__(self, metrics: Metrics, shares: BusyShare, trace: TraceWriter | None) -> None:
        self._metrics = metrics
        self._shares = shares
        self._trace = trace

    def ticket_arrived(self, ticket: Ticket) -> None:
        if self._trace is not None:
            self._trace.arrived(ticket)

    def batch_ran(self, model: str, size: int, seconds: float, *, again: bool, device: str) -> None:
        self._metrics.batch(model, size, seconds)
        self._shares.add(model, seconds, time.monotonic(), device)

    def ticket_ended(self, model: str, end: str) -> None:
        self._metrics.ticket(model, end)


class App:
    """A server in this process, on the running event loop. Use as: start, wait until ready, stop."""

    def __init__(self, settings: Settings) -> None:
        """Build every room; nothing is bound yet. Raises ConfigError for models that cannot be found."""
        self.settings = settings
        self.models = _models(settings)
        found = _found(settings, self.models)
        device = pick_device(settings.detectors.device)
        options = lane_options(settings.scheduler, device)
        limits = settings.limits
        media = MediaLimits(max_pixels=limits.max_pixels, max_side=limits.max_side)
        configure_pillow(media)
        self.board = HealthBoard()
        self.metrics = Metrics(OnLoop(self._snapshot, Snapshot()))
        self._shares = BusyShare(options.lanes, time.monotonic(), options.places)
        self._trace = _trace(settings.scheduler.trace)
        observer = _Observer(self.metrics, self._shares, self._trace)
        self.scheduler = Scheduler(options, observer=observer, on_health=self._device_health)
        terms = LoadTerms(
            dtype=settings.detectors.dtype,
            runtime=settings.detectors.runtime,
            lane_kind=settings.detectors.lane_kind,
            threads=options.threads_per_lane,
            lanes=options.lanes,
            cache=cache_folder(settings.server.cache_dir),
            cache_bytes=settings.server.cache_dir_bytes,
            decode=settings.detectors.decode,
            cpu_threads=settings.scheduler.cpu_threads or usable_cores(),
        )
        loader = Loader(found, self.scheduler, terms)
        self.registry = Registry(loader, self.scheduler, on_state=self._model_state)
        self._pool = CpuPool(settings.scheduler.cpu_threads, max_queued=limits.max_queued_tickets)
        self._budget = PixelBudget(limits.max_decoded_bytes)
        self._joins = CacheMetrics(self.metrics.registry)
        self._cache = CacheService(
            settings.cache,
            self._pool,
            self._joins,
            release=_version(),
            folders={name: one.folder for name, one in found.items()},
        )
        self.pipeline = Pipeline(
            registry=self.registry,
            scheduler=self.scheduler,
            gate=Gate(GateLimits(limits.max_queued_tickets, settings.scheduler.max_backlog), self.scheduler),
            pool=self._pool,
            budget=self._budget,
            limits=media,
            results=self._cache.results,
        )
        self.catalog = Catalog(self.registry, self.scheduler, self._shares)
        lanes = options.lanes * options.places
        self._shadow = Shadow(self.pipeline, self._has_time, self.metrics.shadow, most=max(1, lanes - 1))
        self.lifecycle = Lifecycle(
            self.registry,
            self.scheduler,
            allowed=settings.loading,
            on_gone=self._model_gone,
            patience=settings.drain.grace,
        )
        self.rpc = RpcServer(
            settings,
            pipeline=Switchboard(self.registry, self.pipeline, self._shadow, self.metrics),
            catalog=self.catalog,
            board=self.board,
            metrics=self.metrics,
            pool=self._pool,
            budget=self._budget,
            operator=Operator(self.lifecycle, self.catalog),
            version=_version(),
        )
        self.lifecycle.followers = self.rpc.streams
        self._endpoint: MetricsEndpoint | None = None
        self._begun: set[str] = set()
        """Names that have served with all their versions."""

    async def start(self) -> int:
        """Bind and answer health; returns the port. Models are not loaded yet.

        Raises ConfigError for an address that cannot be had.
        """
        self.board.expect(model.name for model in self.models)
        try:
            port = self.rpc.bind()
            self._endpoint = self._metrics_endpoint()
        except OSError as error:
            raise ConfigError([str(error)]) from error
        await self.rpc.start()
        await self._cache.start()
        return port

    def _metrics_endpoint(self) -> MetricsEndpoint | None:
        wanted = self.settings.metrics
        if wanted.port is None:
            return None
        host = wanted.host or self.settings.server.host
        endpoint = MetricsEndpoint(self.metrics.registry, host, wanted.port)
        log.info("metrics_ready", url=f"http://{host}:{endpoint.port}/metrics")
        return endpoint

    async def load(self) -> list[Version]:
        """Load and warm every model, one after the other; returns those that failed."""
        versions = [self.registry.declare(model) for model in self.models]
        for version in versions:
            await self.registry.load(version)
        return [v for v in versions if v.state is ModelState.FAILED]

    async def stop(self, *, delay: float | None = None) -> None:
        """Drain and close. Every accepted call is answered first, within the grace."""
        self.board.drain()
        await asyncio.sleep(self.settings.drain.delay if delay is None else delay)
        self.board.close()
        await self.rpc.stop(self.settings.drain.grace)
        await self.lifecycle.close()
        await self._shadow.close()
        await self._cache.close()
        await self.scheduler.close()
        if self._trace is not None:
            await asyncio.to_thread(self._trace.close)
        if self._endpoint is not None:
            await asyncio.to_thread(self._endpoint.close)
        await asyncio.to_thread(self._pool.close)
        await self.registry.close()

    def _model_state(self, version: Version) -> None:
        self._cache.model_state(version)
        self._tell_health(version.name, self.scheduler.healthy)

    def _model_gone(self, version: Version) -> None:
        self.metrics.forget(version.name, version.number)
        self._joins.forget(version.key)
        if any(other.name == version.name for other in self.registry):
            self._tell_health(version.name, self.scheduler.healthy)
            return
        self._begun.discard(version.name)
        self.board.remove_model(version.name)

    def _has_time(self) -> bool:
        """Whether the device has caught up with its callers, and there is room for pixels."""
        crowded = self._budget.used > self.settings.limits.max_decoded_bytes / 2
        return not crowded and self.scheduler.backlog_seconds() < SPARE_BACKLOG

    def _device_health(self, healthy: bool) -> None:
        for name in {version.name for version in self.registry}:
            self._tell_health(name, healthy)

    def _tell_health(self, name: str, device_healthy: bool) -> None:
        """A name begins to serve once none of its versions is coming up any more.

        From then on it serves while any of them does.
        """
        states = {v.state for v in self.registry.versions(name)}
        if ModelState.SERVING in states and not states & {ModelState.LOADING, ModelState.WARMING}:
            self._begun.add(name)
        serving = ModelState.SERVING in states and name in self._begun
        self.board.set_model(name, device_healthy and serving)

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            models=tuple(
                ModelGauges(
                    m.name,
                    m.version,
                    m.queued,
                    m.oldest_wait,
                    m.busy_share,
                    m.traffic_weight,
                    m.state is ModelState.SERVING,
                    tuple((one.batch_size, one.median, one.spread) for one in m.profile),
                )
                for m in self.catalog.list()
            ),
            devices=tuple((d.name, d.busy_share) for d in self.catalog.server().devices),
            decoded_bytes=self._budget.used,
            streams=self.rpc.streams.live,
        )


def lane_options(settings: SchedulerSettings, device: str) -> SchedulerOptions:
    """How many lanes, how wide. A GPU has one; a CPU one per core up to a few, the cores shared out."""
    on_cpu = device == "cpu"
    devices = devices_of(device)
    lanes = settings.lanes or (min(usable_cores(), MOST_CPU_LANES) if on_cpu else 1)
    return SchedulerOptions(
        device="+".join(devices),
        lanes=lanes,
        threads_per_lane=settings.lane_threads or max(1, usable_cores() // lanes),
        wide_threads=usable_cores() if on_cpu and not settings.lane_threads else 0,
        depth=1 if on_cpu else 2,
        stall_timeout=settings.stall_timeout,
        finish_threads=0 if on_cpu else 2,
        devices=devices if len(devices) > 1 else (),
    )


def _trace(path: Path | None) -> TraceWriter | None:
    if path is None:
        return None
    try:
        return TraceWriter(path)
    except OSError as error:
        raise ConfigError([f"scheduler.trace: cannot write {path}: {error.strerror}"]) from error


def _version() -> str:
    try:
        return metadata.version("opsin")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"


def _models(settings: Settings) -> tuple[ModelSettings, ...]:
    return with_followers(settings.model or [ModelSettings(name=name) for name in BUILT_IN_MODELS])


def _found(settings: Settings, models: tuple[ModelSettings, ...]) -> Mapping[str, Found]:
    """All detectors, with the proof that every model has one. Raises ConfigError."""
    try:
        found = find(settings.detectors.dirs)
    except LoadError as error:
        raise ConfigError([str(error)]) from error
    faults = []
    for model in models:
        explicit = {"detector": model.detector} if model.detector else {}
        try:
            resolve(ModelSpec(model.name, model.source, {**model.settings, **explicit}), found)
        except LoadError as error:
            faults.append(f"model {model.name}: {error}")
    if faults:
        raise ConfigError(faults)
    return found
