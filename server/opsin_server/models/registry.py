"""The models the server knows: by name, by version, by label; which one answers a call; and their lives.

    LOADING -> WARMING -> SERVING -> DRAINING -> gone          FAILED(reason) from LOADING or WARMING

Loading runs on a thread of its own, warming on a lane; the event loop never waits for either. Everything here
happens on the event loop's thread.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import structlog

from opsin_detectors.api import LoadContext, LoadError, Task
from opsin_detectors.finder import Found
from opsin_detectors.finder import load as load_detector
from opsin_detectors.sources import ModelSpec as SourceSpec
from opsin_detectors.sources import resolve
from opsin_server.admission.options import nearest
from opsin_server.config import ModelSettings
from opsin_server.errors import Failure, Reason, quote
from opsin_server.models.background import in_background
from opsin_server.models.loaded import LoadedModel
from opsin_server.models.status import ModelState
from opsin_server.models.warmup import example, warm_up
from opsin_server.scheduling.batch import out_of_memory
from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.scheduler import Scheduler

__all__ = ["Registry", "Version"]

log = structlog.get_logger(__name__)

Kind = Literal["detect", "embed"]
"""What a call without a model's name is about."""

DEFAULT_DETECTOR = "nanodet"
_EMBEDS = frozenset({Task.EMBED_IMAGE, Task.EMBED_TEXT})
_DETECTS = frozenset(Task) - _EMBEDS


@dataclass(slots=True, eq=False)
class Version:
    """One version of a model, from the moment somebody asked for it."""

    settings: ModelSettings
    detector: str = ""
    source: str = ""
    state: ModelState = ModelState.LOADING
    failure: Failure | None = None
    loaded: LoadedModel | None = None
    load_seconds: float = 0.0
    serving_since: float = 0.0
    """Unix seconds; 0 = not yet."""
    weight: int = 0
    """Traffic weight among the versions of its name."""
    labels: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def number(self) -> int:
        return self.settings.version

    @property
    def key(self) -> str:
        return f"{self.name}@{self.number}"


class Registry:
    """All models of a server."""

    def __init__(
        self,
        found: Mapping[str, Found],
        scheduler: Scheduler,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        on_state: Callable[[Version], None] = lambda version: None,
    ) -> None:
        self._found = found
        self._scheduler = scheduler
        self._device = device
        self._dtype = dtype
        self._on_state = on_state
        self._names: dict[str, dict[int, Version]] = {}

    # -- finding -----------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Version]:
        return (version for versions in self._names.values() for version in versions.values())

    def versions(self, name: str) -> list[Version]:
        """Every version of a name. Raises Failure MODEL_NOT_FOUND."""
        versions = self._names.get(name)
        if not versions:
            near = nearest(name, self._names)
            raise Failure(
                Reason.MODEL_NOT_FOUND,
                f"there is no model {quote(name)}" + (f"; the nearest is {quote(near)}" if near else ""),
                field="model",
                metadata={"model": name[:200], **({"nearest": near} if near else {})},
            )
        return list(versions.values())

    def default(self, kind: Kind) -> str:
        """The name that "" stands for. Raises Failure MODEL_NOT_FOUND when no model can do it."""
        if kind == "detect" and DEFAULT_DETECTOR in self._names:
            return DEFAULT_DETECTOR
        tasks = _DETECTS if kind == "detect" else _EMBEDS
        for version in self:
            if version.loaded is not None and version.loaded.info.tasks & tasks:
                return version.name
        for version in self:
            if version.state is ModelState.LOADING:
                return version.name  # it may turn out to do it: MODEL_NOT_READY is the truth, not NOT_FOUND
        if kind == "detect" and self._names:
            return next(iter(self._names))
        raise Failure(
            Reason.MODEL_NOT_FOUND,
            f"no model on this server can {kind}",
            field="model",
            metadata={"model": ""},
        )

    def route(self, name: str, kind: Kind, routing_key: str = "") -> LoadedModel:
        """The model that answers a call for `name`, `name@3`, `name@label` or "". Raises Failure."""
        base, at, tag = name.partition("@")
        base = base or self.default(kind)
        versions = self.versions(base)
        version = self._tagged(base, tag, versions) if at else self._weighted(versions, routing_key)
        if version.loaded is None or version.state is not ModelState.SERVING:
            raise self._not_ready(version)
        return version.loaded

    def _tagged(self, name: str, tag: str, versions: list[Version]) -> Version:
        for version in versions:
            if tag == str(version.number) or tag in version.labels:
                return version
        known = [str(v.number) for v in versions] + [label for v in versions for label in v.labels]
        near = nearest(tag, known) or known[0]
        raise Failure(
            Reason.VERSION_NOT_FOUND,
            f"model {quote(name)} has no version or label {quote(tag)}; it has: {', '.join(known)}",
            field="model",
            metadata={"model": name, "version": tag[:200], "nearest": near},
        )

    def _weighted(self, versions: list[Version], routing_key: str) -> Version:
        del routing_key  # traffic is split once there are several versions with weights
        return max(versions, key=lambda v: (v.state is ModelState.SERVING, v.weight, v.number))

    def _not_ready(self, version: Version) -> Failure:
        if version.state is ModelState.FAILED and version.failure is not None:
            why = f"failed to load: {version.failure.message}"
        else:
            why = f"is {version.state.name.lower()}"
        return Failure(
            Reason.MODEL_NOT_READY,
            f"model {quote(version.key)} {why}",
            field="model",
            metadata={"model": version.name, "state": version.state.name},
            retry_after=1.0,
        )

    # -- lives -------------------------------------------------------------------------------------------

    def declare(self, settings: ModelSettings) -> Version:
        """Take a model into the list, LOADING; `load` does the work."""
        version = Version(settings, labels=tuple(settings.labels))
        siblings = self._names.setdefault(settings.name, {})
        version.weight = 0 if siblings else 1
        siblings[settings.version] = version
        return version

    async def load(self, version: Version) -> None:
        """Bring a declared version to SERVING, or to FAILED with the reason; never raises for a bad model."""
        begun = time.monotonic()
        self._enter(version, ModelState.LOADING)
        try:
            version.loaded = await in_background(self._load, version)
            self._enter(version, ModelState.WARMING)
            for one in reversed(version.loaded.whole):
                await self._warm(version, one)
        except Exception as error:
            self._failed(version, error)
            return
        version.load_seconds = time.monotonic() - begun
        version.serving_since = time.time()
        self._enter(version, ModelState.SERVING)

    def _failed(self, version: Version, error: Exception) -> None:
        """The version will not serve: say why, and let its weights go."""
        message = str(error) if isinstance(error, LoadError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, LoadError):
            log.error("model_load_failed", model=version.key, exc_info=error)
        reason = Reason.DEVICE_MEMORY if _for_want_of_memory(error) else Reason.MODEL_LOAD_FAILED
        version.failure = Failure(reason, message, metadata={"model": version.name})
        loaded, version.loaded = version.loaded, None
        if loaded is not None:
            for one in loaded.whole:
                self._scheduler.remove_model(one.key)
            loaded.close()
        self._enter(version, ModelState.FAILED)

    def _load(self, version: Version) -> LoadedModel:
        """On the loader's thread."""
        settings = version.settings
        explicit = {"detector": settings.detector} if settings.detector else {}
        resolved = resolve(
            SourceSpec(settings.name, settings.source, {**settings.settings, **explicit}), self._found
        )
        version.detector, version.source = resolved.found.name, resolved.source
        context = LoadContext(
            name=settings.name,
            source=resolved.source,
            settings=resolved.settings,
            device=settings.device or self._device,
            dtype=settings.dtype or self._dtype,
        )
        return LoadedModel(settings.name, settings.version, load_detector(resolved.found, context))

    async def _warm(self, version: Version, model: LoadedModel) -> None:
        """Warm up a version's model, or one of its second stage, and take it into the scheduler."""
        largest = min(version.settings.max_batch or model.info.max_batch, model.info.max_batch)
        measured: dict[int, list[float]] = {}
        pair = None
        for task in sorted(model.info.tasks):
            pair = await in_background(example, model, task)
            warmth = await warm_up(
                model, pair, lambda pairs: self._scheduler.run_alone(model.key, model, pairs), largest=largest
            )
            largest = warmth.fits
            measured = measured or warmth.seconds
        measured = {size: runs for size, runs in measured.items() if size <= largest}
        self._scheduler.add_model(
            model.key, model, ModelTerms(tuple(measured), version.settings.share), probe=pair
        )
        for size, runs in measured.items():
            for seconds in runs:
                self._scheduler.profile(model.key).observe(size, seconds)

    def _enter(self, version: Version, state: ModelState) -> None:
        version.state = state
        log.info("model_state", model=version.key, state=state.name)
        self._on_state(version)

    async def close(self) -> None:
        """Let every detector go."""
        for version in self:
            if version.loaded is not None:
                version.loaded.close()


def _for_want_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that led to it, is about memory."""
    seen: BaseException | None = error
    while seen is not None and not out_of_memory(seen):
        seen = seen.__cause__ or seen.__context__
    return seen is not None
