"""How models and devices stand right now, read off the registry and the scheduler."""

import time
from collections.abc import Callable, Sequence

from opsin_server.errors import Failure
from opsin_server.models.devices import place_of
from opsin_server.models.directory import Kind, Version
from opsin_server.models.loaded import LoadedModel
from opsin_server.models.memory import memory_of
from opsin_server.models.registry import Registry
from opsin_server.models.status import BatchTime, DeviceStatus, ModelStatus, ServerStatus
from opsin_server.scheduling.scheduler import Scheduler
from opsin_server.telemetry.share import BusyShare

__all__ = ["Catalog"]

TO_P90 = 1.6
"""From a mean absolute deviation to what the 90th percentile lies above the middle, if times are normal."""


class Catalog:
    """Answers what is asked about models; changes nothing."""

    def __init__(
        self,
        registry: Registry,
        scheduler: Scheduler,
        shares: BusyShare,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._shares = shares
        self._clock = clock

    def list(self) -> Sequence[ModelStatus]:
        """Every version of every model."""
        return [self.describe(version) for version in self._registry]

    def get(self, name: str) -> Sequence[ModelStatus]:
        """The versions of one model; "" is the default of Detect. Raises Failure MODEL_NOT_FOUND."""
        return [self.describe(v) for v in self._registry.versions(name or self._registry.default("detect"))]

    def server(self) -> ServerStatus:
        """The devices, and the models that no name stands for."""
        devices = tuple(self._device(name) for name in self._scheduler.devices)
        return ServerStatus(devices, self._default("detect"), self._default("embed"))

    def _device(self, name: str) -> DeviceStatus:
        memory = memory_of(place_of(name))
        only = len(self._scheduler.devices) == 1
        return DeviceStatus(
            name=name,
            lanes=self._scheduler.lanes_on(name),
            memory_bytes=memory.total,
            free_memory_bytes=memory.free,
            busy_share=self._shares.device(self._clock(), "" if only else name),
        )

    def _default(self, kind: Kind) -> str:
        try:
            return self._registry.default(kind)
        except Failure:
            return ""

    def describe(self, version: Version) -> ModelStatus:
        """How one version stands now."""
        now = self._clock()
        key = version.key
        known = key in self._scheduler.profiles
        oldest = self._scheduler.queues.oldest(key)
        return ModelStatus(
            name=version.name,
            version=version.number,
            state=version.state,
            failure=version.failure,
            detector=version.detector,
            source=version.source,
            info=version.loaded.info if version.loaded else None,
            device=version.loaded.device if version.loaded else "",
            decoder=version.loaded.decoded_by if version.loaded else "",
            buckets=self._scheduler.terms(key).buckets if known else (),
            profile=self._profile(key) if known else (),
            traffic_weight=version.weight,
            shadow=version.shadow,
            labels=version.labels,
            load_time=version.load_seconds or None,
            serving_since=version.serving_since or None,
            queued=self._scheduler.queues.waiting(key),
            oldest_wait=0.0 if oldest is None else max(0.0, now - oldest),
            busy_share=self._shares.model(key, now),
            memory_bytes=_bytes(version.loaded) + version.work_bytes if version.loaded else 0,
        )

    def _profile(self, key: str) -> tuple[BatchTime, ...]:
        profile = self._scheduler.profile(key)
        return tuple(
            BatchTime(size, seconds, TO_P90 * profile.spread(size))
            for size, seconds in sorted(profile.table().items())
        )


def _bytes(model: LoadedModel) -> int:
    """Of its weights, on all devices."""
    return model.info.memory_bytes * max(1, len(model.replicas))
