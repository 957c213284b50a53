"""How a model comes up: its source is found, its memory is there, it is loaded on its devices, and warmed.

Loading runs on a thread of its own, warming on a lane; the event loop never waits for either. What state a
version is in meanwhile, and what becomes of one that fails, is `registry.py`'s.
"""

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import structlog

from opsin_detectors.api import Item, LoadContext, LoadError, Prepared
from opsin_detectors.finder import Found
from opsin_detectors.sources import ModelSpec as SourceSpec
from opsin_detectors.sources import Resolved, resolve
from opsin_server.config import ModelSettings
from opsin_server.models import memory
from opsin_server.models.background import in_background
from opsin_server.models.decoding import Wish, takes_tensors
from opsin_server.models.decoding import choose as choose_decoder
from opsin_server.models.devices import place_of
from opsin_server.models.directory import Version
from opsin_server.models.following import following
from opsin_server.models.loaded import LoadedModel
from opsin_server.models.replicas import load_on_each, warm_as
from opsin_server.models.runtimes import log_decoder
from opsin_server.models.warmup import RUNS, RunAlone, examples, touch, warm_up
from opsin_server.scheduling.queues import ModelTerms
from opsin_server.scheduling.scheduler import Scheduler
from opsin_server.scheduling.width import pays

__all__ = ["LoadTerms", "Loader"]

log = structlog.get_logger(__name__)

WAY_HOME = 0.01
"""Seconds kept free before a deadline for the reply to reach its caller, whose clock began before ours did:
gRPC sends time limits of one to ten seconds in hundredths, rounded up, so ours may be so much too late."""


@dataclass(frozen=True, slots=True)
class LoadTerms:
    """What holds for every model that does not say otherwise.

    dtype, runtime, lane_kind: as the settings `detectors.dtype` and so on.
    threads: of the CPU that a lane computes with. lanes: of all devices. cpu_threads: that decode.
    cache, cache_bytes: the folder for choices and graphs, and how large it may get; 0 = without bound.
    decode: whether a GPU decodes.
    """

    dtype: str = "auto"
    runtime: str = "channels_last"
    lane_kind: str = "threads"
    threads: int = 1
    lanes: int = 1
    cache: Path | None = None
    cache_bytes: int = 0
    decode: Wish = "auto"
    cpu_threads: int = 1


class Loader:
    """Loads and warms what the settings mean."""

    def __init__(
        self, found: Mapping[str, Found], scheduler: Scheduler, terms: LoadTerms | None = None
    ) -> None:
        self._found = found
        self._scheduler = scheduler
        self._terms = terms or LoadTerms()
        self._promised: dict[str, int] = {}
        """Bytes that models which are being loaded will take, by key."""

    @property
    def detectors(self) -> Collection[str]:
        """Names of the detectors there are."""
        return self._found.keys()

    def prove(self, settings: ModelSettings) -> tuple[Resolved, int]:
        """The detector and the source that a model means, and about how many bytes it takes.

        Reads files: not for the event loop. Raises LoadError, and Failure DEVICE_MEMORY.
        """
        explicit = {"detector": settings.detector} if settings.detector else {}
        spec = SourceSpec(settings.name, settings.source, {**settings.settings, **explicit})
        resolved = resolve(spec, self._found)
        devices, dtype = self._where(settings)
        size = memory.needed(resolved.source, dtype)
        own = f"{settings.name}@{settings.version}"
        promised = sum(bytes_ for key, bytes_ in list(self._promised.items()) if key != own)
        for device in devices if size else ():
            memory.refuse_if_short(settings.name, device, size + promised, memory.memory_of(place_of(device)))
        return resolved, size

    def _where(self, settings: ModelSettings) -> tuple[tuple[str, ...], str]:
        """Every device that it is to be loaded on, and the type of its weights."""
        told = settings.device.removeprefix("auto")
        devices = (told,) if told else self._scheduler.devices_in_use
        return devices, settings.dtype or self._terms.dtype

    def load(self, version: Version) -> LoadedModel:
        """Load it on each of its devices, on a thread that nobody waits for; `version` is told what it found.

        Raises LoadError and Failure; or what the detector's own code raises.
        """
        settings, terms = version.settings, self._terms
        resolved, size = self.prove(settings)
        self._promised[version.key] = size
        version.detector, version.source = resolved.found.name, resolved.source
        devices, dtype = self._where(settings)
        lane_kind = settings.lane_kind or terms.lane_kind
        context = LoadContext(
            name=settings.name,
            source=resolved.source,
            settings=resolved.settings,
            device=devices[0],
            dtype=dtype,
            runtime=settings.runtime or terms.runtime,
            threads=terms.threads,
            lanes=terms.lanes,
            lane_kind=lane_kind,
            cache=terms.cache,
            cache_bytes=terms.cache_bytes,
        )
        on = load_on_each(resolved.found, context, devices)
        loaded = LoadedModel(
            settings.name,
            settings.version,
            on[devices[0]],
            following(settings),
            replicas=on if len(on) > 1 else None,
        )
        with ExitStack() as undo:
            undo.callback(loaded.close)
            for one in loaded.whole:
                _check_lanes(one, lane_kind)
                self._choose_decoder(one)
            undo.pop_all()
        return loaded

    def _choose_decoder(self, model: LoadedModel) -> None:
        """On the loader's thread. Raises LoadError where the device was told to decode and cannot."""
        if takes_tensors(model.info):
            choice = choose_decoder(model.detector, self._terms.decode, threads=self._terms.cpu_threads)
            model.decoder, model.decoded_by = choice.decoder, choice.name
            log_decoder(model.key, choice)

    def done(self, version: Version) -> None:
        """It is up, or it failed: no memory is held free for it any longer."""
        self._promised.pop(version.key, None)

    async def warm(self, version: Version, model: LoadedModel) -> None:
        """Warm up a version's model, or one of its second stage, and take it into the scheduler."""
        largest = min(version.settings.max_batch or model.info.max_batch, model.info.max_batch)
        measured: dict[int, list[float]] = {}
        probe = None

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
            if probe is None:
                probe, measured = pair, warmth.seconds
        measured = {size: runs for size, runs in measured.items() if size <= largest}
        self._scheduler.add_model(
            model.key,
            model,
            ModelTerms(tuple(measured), version.settings.share, after=WAY_HOME),
            probe=probe,
        )
        shape = () if probe is None else probe[0].shape
        for size, runs in measured.items():
            for seconds in runs:
                self._scheduler.profile(model.key).observe(size, seconds, shape)
        if probe is not None and self._scheduler.can_widen and not model.light:
            await self._widen(model, probe, min(measured[1]))

    async def _widen(self, model: LoadedModel, pair: tuple[Prepared, Item], narrow: float) -> None:
        """Have a model run on all cores when it is alone, if that is quicker."""
        runs = [await self._scheduler.run_alone(model.key, model, [pair], wide=True) for _ in range(RUNS)]
        if pays(narrow, min(runs[1:])):
            self._scheduler.widen(model.key)
        log.info("model_width", model=model.key, narrow_ms=_ms(narrow), wide_ms=_ms(min(runs[1:])))


def _check_lanes(model: LoadedModel, wanted: str) -> None:
    """A detector that knows of no processes does not see that they are told. Raises LoadError."""
    if wanted == "processes" and model.info.lane_kind != wanted:
        raise LoadError(
            f"lane_kind processes of model “{model.name}” cannot be: its detector has threads only"
        )


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 1)
