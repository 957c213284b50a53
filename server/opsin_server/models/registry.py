"""The models the server knows: by name, by version, by label; which one answers a call; and how they come up.

    LOADING -> WARMING -> SERVING -> DRAINING -> gone          FAILED(reason) from LOADING or WARMING

Loading runs on a thread of its own, warming on a lane; the event loop never waits for either. One model is
loaded after the other: they would only disturb each other's measurements. Everything here happens on the
event loop's thread. Who gets which share is decided in `traffic.py`, how versions go in `lifecycle.py`.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import structlog

from opsin_detectors.api import Item, LoadContext, LoadError, ModelInfo, Prepared, Task
from opsin_detectors.finder import Found
from opsin_detectors.settings import SettingError
from opsin_detectors.sources import ModelSpec as SourceSpec
from opsin_detectors.sources import Resolved, resolve
from opsin_server.admission.options import nearest
from opsin_server.config import ModelSettings
from opsin_server.errors import Failure, Reason, quote
from opsin_server.models import memory, traffic
from opsin_server.models.background import in_background
from opsin_server.models.decoding import Wish, takes_tensors
from opsin_server.models.decoding import choose as choose_decoder
from opsin_server.models.devices import place_of
from opsin_server.models.following import check as check_followers
from opsin_server.models.following import following
from opsin_server.models.loaded import LoadedModel
from opsin_server.models.replicas import bytes_taken, load_on_each, warm_as
from opsin_server.models.runtimes import log_decoder, log_runtime
from opsin_server.models.status import ModelState
from opsin_server.models.warmup import RUNS, RunAlone, examples, touch, warm_up
from opsin_server.scheduling.batch import out_of_memory
from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.scheduler import Scheduler
from opsin_server.scheduling.width import pays

__all__ = ["Registry", "Version"]

log = structlog.get_logger(__name__)

Kind = Literal["detect", "embed"]
"""What a call without a model's name is about."""

DEFAULT_DETECTOR = "nanodet"
WAY_HOME = 0.01
"""Seconds kept free before a deadline for the reply to reach its caller, whose clock began before ours did:
gRPC sends time limits of one to ten seconds in hundredths, rounded up, so ours may be so much too late."""
_COMING = (ModelState.LOADING, ModelState.WARMING)
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
    shadow: bool = False
    """Whether it gets a copy of every call for its name."""
    work_bytes: int = 0
    """Memory that warming up took beside the weights."""
    users: int = 0
    """Calls that are being answered by it, decoding included."""
    key: str = field(init=False)
    """`name@number`. Kept, as every call asks for it."""

    def __post_init__(self) -> None:
        self.key = f"{self.name}@{self.number}"

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def number(self) -> int:
        return self.settings.version

    @property
    def serves(self) -> bool:
        """Whether new calls may come to it."""
        return self.state is ModelState.SERVING and self.loaded is not None

    @property
    def choice(self) -> traffic.Choice:
        """What traffic is split by."""
        return traffic.Choice(self.number, self.weight, self.serves, self.labels)


class _UnwantedError(Exception):
    """It was unloaded while it was being loaded."""


class Registry:
    """All models of a server."""

    def __init__(
        self,
        found: Mapping[str, Found],
        scheduler: Scheduler,
        *,
        dtype: str = "auto",
        runtime: str = "channels_last",
        threads: int = 1,
        cache: Path | None = None,
        cache_bytes: int = 0,
        decode: Wish = "auto",
        cpu_threads: int = 1,
        on_state: Callable[[Version], None] = lambda version: None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._found = found
        self._scheduler = scheduler
        self._dtype = dtype
        self._runtime = runtime
        self._threads = threads
        self._cache = cache
        self._cache_bytes = cache_bytes
        self._decode = decode
        self._cpu_threads = cpu_threads
        self._on_state = on_state
        self._chance = chance
        self._names: dict[str, dict[int, Version]] = {}
        self._promised: dict[str, int] = {}
        """Bytes that models which are being loaded will take, by key."""
        self._turn = asyncio.Lock()

    @property
    def detectors(self) -> Collection[str]:
        """Names of the detectors there are."""
        return self._found.keys()

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
            if version.loaded is not None and version.serves and version.loaded.info.tasks & tasks:
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

    def pick(self, name: str, kind: Kind, routing_key: str = "") -> Version:
        """The version that answers a call for `name`, `name@3`, `name@label` or "". Raises Failure."""
        version = self.find(name, kind, routing_key)
        if not version.serves:
            raise self._not_ready(version)
        return version

    def route(self, name: str, kind: Kind, routing_key: str = "") -> LoadedModel:
        """As `pick`, for a call that was let in: its version may be draining by now. Raises Failure."""
        version = self.find(name, kind, routing_key)
        if version.loaded is None or version.state not in (ModelState.SERVING, ModelState.DRAINING):
            raise self._not_ready(version)
        return version.loaded

    def info_of(self, name: str) -> ModelInfo:
        """What the version that a call for `name` would get can do. Raises Failure as `route` does."""
        return self.route(name, "detect").info

    def shadow(self, name: str) -> Version | None:
        """The version that gets a copy of every call for a name, if there is one and it serves."""
        for version in self._names.get(name, {}).values():
            if version.shadow and version.serves:
                return version
        return None

    def find(self, name: str, kind: Kind, routing_key: str = "") -> Version:
        """The version that a call is about, whatever its state. Raises Failure."""
        asked = traffic.wanted(name)
        base = asked.name or self.default(kind)
        versions = self.versions(base)
        if asked.kind == "tag":
            return self._tagged(base, asked.tag, versions)
        if len(versions) == 1:
            return versions[0]
        return self._weighted(base, versions, routing_key)

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

    def _weighted(self, name: str, versions: list[Version], routing_key: str) -> Version:
        weights = traffic.lead(tuple(v.choice for v in versions))
        if not weights:  # none serves: one that is coming up is the better answer than one that failed
            return max(versions, key=lambda v: (v.state in _COMING, v.weight, v.number))
        if len(weights) == 1:
            (number,) = weights
        elif routing_key:
            number = traffic.stick(weights, name, routing_key)
        else:
            number = traffic.draw(weights, self._chance())
        return self._names[name][number]

    def _not_ready(self, version: Version) -> Failure:
        metadata = {"model": version.name, "version": str(version.number), "state": version.state.name}
        if version.state is ModelState.FAILED and version.failure is not None:
            return Failure(
                Reason.MODEL_LOAD_FAILED,
                f"model {quote(version.key)} failed to load: {version.failure.message}",
                field="model",
                metadata=metadata,
            )
        return Failure(
            Reason.MODEL_NOT_READY,
            f"model {quote(version.key)} is {version.state.name.lower()}",
            field="model",
            metadata=metadata,
            retry_after=1.0,
        )

    # -- lives -------------------------------------------------------------------------------------------

    def declare(self, settings: ModelSettings) -> Version:
        """Take a model into the list, LOADING; `load` does the work.

        The first version of a name gets all its traffic, a later one none, unless the settings say otherwise.
        Its labels lead to it at once where they lead nowhere, else when it serves.
        """
        siblings = self._names.setdefault(settings.name, {})
        version = Version(settings, shadow=settings.shadow)
        version.weight = 0 if any(v.weight for v in siblings.values()) else 1
        if settings.weight is not None:
            version.weight = settings.weight
        taken = {label for v in siblings.values() for label in v.labels}
        version.labels = tuple(label for label in settings.labels if label not in taken)
        siblings[settings.version] = version
        return version

    def prove(self, settings: ModelSettings) -> tuple[Resolved, int]:
        """The detector and the source that a model means, and about how many bytes it takes.

        Reads files: not for the event loop. Raises LoadError, and Failure DEVICE_MEMORY.
        """
        explicit = {"detector": settings.detector} if settings.detector else {}
        spec = SourceSpec(settings.name, settings.source, {**settings.settings, **explicit})
        resolved = resolve(spec, self._found)
        devices, dtype = self._terms(settings)
        size = memory.needed(resolved.source, dtype)
        own = f"{settings.name}@{settings.version}"
        promised = sum(bytes_ for key, bytes_ in list(self._promised.items()) if key != own)
        for device in devices if size else ():
            memory.refuse_if_short(settings.name, device, size + promised, memory.memory_of(place_of(device)))
        return resolved, size

    def _terms(self, settings: ModelSettings) -> tuple[tuple[str, ...], str]:
        """Every device that it is to be loaded on, and the type of its weights."""
        told = settings.device.removeprefix("auto")
        devices = (told,) if told else self._scheduler.devices_in_use
        return devices, settings.dtype or self._dtype

    async def load(self, version: Version) -> None:
        """Bring a declared version to SERVING, or to FAILED with the reason; never raises for a bad model."""
        async with self._turn:
            begun = time.monotonic()
            try:
                await self._bring_up(version)
            except Exception as error:
                self._failed(version, error)
                return
            finally:
                self._promised.pop(version.key, None)
            version.load_seconds = time.monotonic() - begun
            version.serving_since = time.time()
            self._take_labels(version)
            self._enter(version, ModelState.SERVING)

    async def _bring_up(self, version: Version) -> None:
        self._check_wanted(version)
        self._enter(version, ModelState.LOADING)
        version.loaded = await in_background(self._load, version)
        for one in version.loaded.whole:
            log_runtime(one.key, one.info)
        self._check_wanted(version)
        check_followers(version.settings, version.loaded.info, self)
        self._enter(version, ModelState.WARMING)
        before = bytes_taken(version.loaded)
        for one in reversed(version.loaded.whole):
            await self._warm(version, one)
        version.work_bytes = max(0, bytes_taken(version.loaded) - before)
        self._check_wanted(version)

    def _check_wanted(self, version: Version) -> None:
        if version.state is ModelState.DRAINING:
            raise _UnwantedError

    def _take_labels(self, version: Version) -> None:
        """The labels that were meant for it lead to it from now on, and nowhere else."""
        late = [label for label in version.settings.labels if label not in version.labels]
        for label in late:
            self.set_label(version.name, label, version)

    def set_label(self, name: str, label: str, to: Version | None) -> None:
        """Lead a label of a name to one version, or to none."""
        for version in self.versions(name):
            version.labels = tuple(one for one in version.labels if one != label)
        if to is not None:
            to.labels = (*to.labels, label)

    def retire(self, version: Version) -> None:
        """No new calls for a version: DRAINING. What is left of its name serves on."""
        version.weight = 0
        self._inherit(version.name)
        version.shadow = False
        self._enter(version, ModelState.DRAINING)

    def drop(self, version: Version) -> LoadedModel | None:
        """Forget a version; what was loaded of it is the caller's to close."""
        siblings = self._names.get(version.name, {})
        siblings.pop(version.number, None)
        if not siblings:
            self._names.pop(version.name, None)
        loaded, version.loaded = version.loaded, None
        for one in loaded.whole if loaded is not None else ():
            self._scheduler.remove_model(one.key)
        log.info("model_gone", model=version.key)
        return loaded

    def _inherit(self, name: str) -> None:
        """Where no version has a weight any more, the newest that serves gets all the traffic."""
        left = [v for v in self.versions(name) if v.state not in (ModelState.DRAINING, ModelState.FAILED)]
        if left and not any(v.weight for v in left):
            max(left, key=lambda v: (v.serves, v.number)).weight = 1

    def _failed(self, version: Version, error: Exception) -> None:
        """The version will not serve: say why, and let its weights go."""
        wanted = version.state is not ModelState.DRAINING
        if wanted:
            version.failure = _why_failed(version, error)
        loaded, version.loaded = version.loaded, None
        if loaded is not None:
            for one in loaded.whole:
                self._scheduler.remove_model(one.key)
            loaded.close()
        if wanted:
            version.weight, version.labels, version.shadow = 0, (), False
            version.state = ModelState.FAILED
            self._inherit(version.name)
            self._enter(version, ModelState.FAILED)

    def _load(self, version: Version) -> LoadedModel:
        """On the loader's thread."""
        settings = version.settings
        resolved, size = self.prove(settings)
        self._promised[version.key] = size
        version.detector, version.source = resolved.found.name, resolved.source
        devices, dtype = self._terms(settings)
        context = LoadContext(
            name=settings.name,
            source=resolved.source,
            settings=resolved.settings,
            device=devices[0],
            dtype=dtype,
            runtime=settings.runtime or self._runtime,
            threads=self._threads,
            cache=self._cache,
            cache_bytes=self._cache_bytes,
        )
        on = load_on_each(resolved.found, context, devices)
        loaded = LoadedModel(
            settings.name,
            settings.version,
            on[devices[0]],
            following(settings),
            replicas=on if len(on) > 1 else None,
        )
        for one in loaded.whole:
            self._choose_decoder(one)
        return loaded

    def _choose_decoder(self, model: LoadedModel) -> None:
        """On the loader's thread. Raises LoadError where the device was told to decode and cannot."""
        if takes_tensors(model.info):
            choice = choose_decoder(model.detector, self._decode, threads=self._cpu_threads)
            model.decoder, model.decoded_by = choice.decoder, choice.name
            log_decoder(model.key, choice)

    async def _warm(self, version: Version, model: LoadedModel) -> None:
        """Warm up a version's model, or one of its second stage, and take it into the scheduler."""
        largest = min(version.settings.max_batch or model.info.max_batch, model.info.max_batch)
        measured: dict[int, list[float]] = {}
        pair = None

        def run_on(device: str) -> RunAlone:
            return lambda pairs: self._scheduler.run_alone(model.key, model, pairs, device=device)

        first, *others_on = model.replicas or ("",)
        run = run_on(first)

        for task in sorted(model.info.tasks):
            pair, *others = await in_background(examples, model, task)
            warmth = await warm_up(model, pair, run, largest=largest)
            largest = warmth.fits
            for other in others:
                largest = min(largest, await touch(model, other, run, list(warmth.seconds)))
            for device in others_on:
                largest = min(largest, await warm_as(warmth.seconds, model, pair, run_on(device), device))
            measured = measured or warmth.seconds
        measured = {size: runs for size, runs in measured.items() if size <= largest}
        self._scheduler.add_model(
            model.key,
            model,
            ModelTerms(tuple(measured), version.settings.share, after=WAY_HOME),
            probe=pair,
        )
        for size, runs in measured.items():
            for seconds in runs:
                self._scheduler.profile(model.key).observe(size, seconds)
        if pair is not None and self._scheduler.can_widen and not model.light:
            await self._widen(model, pair, min(measured[1]))

    async def _widen(self, model: LoadedModel, pair: tuple[Prepared, Item], narrow: float) -> None:
        """Have a model run on all cores when it is alone, if that is quicker."""
        runs = [await self._scheduler.run_alone(model.key, model, [pair], wide=True) for _ in range(RUNS)]
        if pays(narrow, min(runs[1:])):
            self._scheduler.widen(model.key)
        log.info("model_width", model=model.key, narrow_ms=_ms(narrow), wide_ms=_ms(min(runs[1:])))

    def _enter(self, version: Version, state: ModelState) -> None:
        version.state = state
        log.info("model_state", model=version.key, state=state.name)
        self._on_state(version)

    async def close(self) -> None:
        """Let every detector go."""
        for version in self:
            if version.loaded is not None:
                version.loaded.close()


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 1)


def _why_failed(version: Version, error: Exception) -> Failure:
    match error:
        case Failure():
            return error
        case SettingError():
            return Failure(Reason.OPTION_INVALID, str(error), "settings", {"model": version.name})
        case LoadError():
            message = str(error)
        case _:
            log.error("model_load_failed", model=version.key, exc_info=error)
            message = f"{type(error).__name__}: {error}"
    reason = Reason.DEVICE_MEMORY if _for_want_of_memory(error) else Reason.MODEL_LOAD_FAILED
    return Failure(reason, message, metadata={"model": version.name})


def _for_want_of_memory(error: BaseException) -> bool:
    """Whether an exception, or one that led to it, is about memory."""
    seen: BaseException | None = error
    while seen is not None and not out_of_memory(seen):
        seen = seen.__cause__ or seen.__context__
    return seen is not None
