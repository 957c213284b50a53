"""Changing what is served while it is served: versions are loaded, taken away, and given shares of the calls.

What a change promises:

- A version that cannot be loaded changes nothing for those that serve.
- A version that goes is DRAINING first: nothing new comes to it, what it accepted is answered, its streams
  are sent away and go on with another version. Then everything that held its weights lets go.
- Shares and labels change between two calls, all at once.

Owns the order of these steps. Which version answers a call is `registry.py`'s; protobuf is `rpc/`'s.
"""

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from pydantic import ValidationError

from opsin_detectors.api import LoadError
from opsin_server.admission.options import nearest
from opsin_server.config import LoadingSettings, ModelSettings
from opsin_server.config.sections import label_fault
from opsin_server.config.spec import model_table
from opsin_server.errors import Failure, Reason, quote
from opsin_server.models import permit
from opsin_server.models.background import in_background
from opsin_server.models.directory import Version
from opsin_server.models.loaded import LoadedModel
from opsin_server.models.registry import Registry
from opsin_server.models.release import give_back
from opsin_server.models.status import ModelState
from opsin_server.scheduling.scheduler import Scheduler

__all__ = ["Followers", "Lifecycle", "LoadAsk", "TrafficAsk"]

log = structlog.get_logger(__name__)

OURS = frozenset(
    {"device", "dtype", "runtime", "lane_kind", "max_batch", "share", "then", "then_margin", "then_classes"}
)
"""Settings of the server that a load may bring among those of the detector, as `--model` may."""
LOOK_EVERY = 0.02
"""Seconds between two looks at whether a version that drains is done."""


@dataclass(frozen=True, slots=True)
class LoadAsk:
    """A version to be loaded. version 0: one more than there is. source: as for `--model`, or `builtin`."""

    name: str
    source: str = ""
    version: int = 0
    detector: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    labels: Sequence[str] = ()
    wait: bool = False


@dataclass(frozen=True, slots=True)
class TrafficAsk:
    """Who shall get which calls. targets: (version, weight), empty leaves the weights as they are.

    labels: label to version, 0 takes it away. shadow: 0 for none.
    """

    name: str
    targets: Sequence[tuple[int, int]] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    shadow: int = 0


class Followers(Protocol):
    """Whoever stays on a version for longer than a call."""

    def follow_models(self) -> None:
        """Let those go whose version is no longer theirs."""
        ...

    def using(self, model_key: str) -> int:
        """How many are on a version, `name@3`."""
        ...


class _Nobody:
    def follow_models(self) -> None:
        return

    def using(self, model_key: str) -> int:
        del model_key
        return 0


class Lifecycle:
    """Carries out LoadModel, UnloadModel and SetTraffic. On the event loop.

    allowed: what may be loaded on request.
    on_gone: called when a version is gone.
    patience: seconds that the streams of a version may take to leave it.
    """

    def __init__(
        self,
        registry: Registry,
        scheduler: Scheduler,
        *,
        allowed: LoadingSettings | None = None,
        on_gone: Callable[[Version], None] = lambda version: None,
        patience: float = 20.0,
    ) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self.followers: Followers = _Nobody()
        """Live streams, which are told when what a name or a label leads to may have changed."""
        self._allowed = allowed or LoadingSettings()
        self._on_gone = on_gone
        self._patience = patience
        self._proving = 0
        self._loading: dict[Version, asyncio.Task[None]] = {}
        self._draining: dict[Version, asyncio.Task[None]] = {}

    # -- loading -----------------------------------------------------------------------------------------

    async def load(self, ask: LoadAsk) -> Version:
        """Begin to load a version; with `wait`, see it SERVING.

        Raises Failure: OPTION_INVALID, MODEL_EXISTS, MODEL_LOAD_FAILED, DEVICE_MEMORY, QUEUE_FULL.
        """
        self._check_new(ask)
        settings = _settings(ask, ask.version or self._next(ask.name))
        permit.check_settings(ask.settings, self._allowed)
        permit.check_source(ask.source, ask.detector, self._allowed, self._registry.detectors)
        permit.check_labels({*self._labels(ask.name), *ask.labels})
        permit.check_room(len(self._loading) + self._proving, len(list(self._registry)))
        await self._prove(settings)
        self._check_new(ask)  # somebody may have been quicker meanwhile
        if not ask.version:
            settings = settings.model_copy(update={"version": self._next(ask.name)})
        version = self._registry.declare(settings)
        task = self._loading[version] = asyncio.create_task(self._load(version))
        if ask.wait:
            await asyncio.shield(task)  # a caller that leaves does not end it
            if version.failure is not None:
                raise version.failure
            if not version.serves:
                message = f"model {quote(version.key)} was unloaded before it served"
                raise Failure(Reason.MODEL_LOAD_FAILED, message, metadata={"model": ask.name})
        return version

    async def _load(self, version: Version) -> None:
        try:
            await self._registry.load(version)
        finally:
            del self._loading[version]
        self.followers.follow_models()

    async def _prove(self, settings: ModelSettings) -> None:
        self._proving += 1
        try:
            await in_background(self._registry.prove, settings)
        except LoadError as error:
            message = f"model {quote(settings.name)} cannot be loaded: {error}"
            raise Failure(Reason.MODEL_LOAD_FAILED, message, "source", {"model": settings.name}) from error
        finally:
            self._proving -= 1

    def _check_new(self, ask: LoadAsk) -> None:
        if ask.version in self._numbers(ask.name):
            state = next(v.state for v in self._registry.versions(ask.name) if v.number == ask.version)
            raise Failure(
                Reason.MODEL_EXISTS,
                f"model {quote(ask.name)} has a version {ask.version} already, which is {state.name}; unload "
                "it first, or load another version",
                field="version",
                metadata={"model": ask.name, "version": str(ask.version), "state": state.name},
            )

    def _numbers(self, name: str) -> set[int]:
        return {v.number for v in self._registry if v.name == name}

    def _labels(self, name: str) -> set[str]:
        return {label for v in self._registry if v.name == name for label in v.labels}

    def _next(self, name: str) -> int:
        return max(self._numbers(name), default=0) + 1

    # -- unloading ---------------------------------------------------------------------------------------

    async def unload(self, name: str, number: int = 0) -> Version:
        """Begin to take a version away. number 0: the only one. Asking again changes nothing.

        Raises Failure: MODEL_NOT_FOUND, VERSION_NOT_FOUND, OPTION_INVALID.
        """
        version = self._version_to_unload(name, number)
        if version not in self._draining:
            self._registry.retire(version)
            self._draining[version] = asyncio.create_task(self._drain(version))
            self.followers.follow_models()
        return version

    def _version_to_unload(self, name: str, number: int) -> Version:
        versions = _versions(self._registry, name)
        if number:
            return _version(versions, number, "version")
        if len(versions) > 1:
            known = ", ".join(str(v.number) for v in versions)
            raise Failure(
                Reason.OPTION_INVALID,
                f"model {quote(name)} has the versions {known}; say which to unload",
                field="version",
                metadata={"model": name, "versions": known},
            )
        return versions[0]

    async def _drain(self, version: Version) -> None:
        """Everything accepted is answered; then nothing holds it any more."""
        loading = self._loading.get(version)
        if loading is not None:
            await asyncio.wait((loading,))
        ends = asyncio.get_running_loop().time() + self._patience
        while self._busy(version):
            streams = self.followers.using(version.key)
            if streams and asyncio.get_running_loop().time() >= ends:
                log.warning("streams_left_behind", model=version.key, streams=streams)
                break
            await asyncio.sleep(LOOK_EVERY)
        loaded = self._registry.drop(version)
        del self._draining[version]
        self._on_gone(version)
        self.followers.follow_models()
        if loaded is not None:
            gone: weakref.ref[object] = weakref.ref(loaded.detector)
            await in_background(_close, loaded)
            del loaded
            await asyncio.sleep(LOOK_EVERY)  # the thread that closed it lets go
            await in_background(give_back, gone)

    def _busy(self, version: Version) -> bool:
        """Whether a call, a stream or a batch still needs it."""
        keys = [model.key for model in version.loaded.whole] if version.loaded is not None else []
        queues = (self._scheduler.queues.models.get(key) for key in keys)
        running = any(queue is not None and not queue.share.idle for queue in queues)
        return bool(version.users) or running or bool(self.followers.using(version.key))

    # -- traffic -----------------------------------------------------------------------------------------

    def set_traffic(self, ask: TrafficAsk) -> Sequence[Version]:
        """Give the versions of a name other shares, labels, or a shadow; all its versions, as they are now.

        Raises Failure: MODEL_NOT_FOUND, VERSION_NOT_FOUND, OPTION_INVALID, MODEL_LOAD_FAILED.
        """
        versions = _versions(self._registry, ask.name)
        weights = _weights(ask, versions)
        for label, number in ask.labels.items():
            _check_label(label)
            if number:
                _usable(versions, number, f"labels.{label}")
        gone = {label for label, number in ask.labels.items() if not number}
        permit.check_labels({*self._labels(ask.name), *ask.labels} - gone)
        if ask.shadow:
            _usable(versions, ask.shadow, "shadow_version")
        for version in versions if weights else ():
            version.weight = weights.get(version.number, 0)
        by_number = {v.number: v for v in versions}
        for label, number in ask.labels.items():
            self._registry.set_label(ask.name, label, by_number.get(number))
        for version in versions:
            version.shadow = version.number == ask.shadow
        log.info(
            "traffic_set",
            model=ask.name,
            weights={v.number: v.weight for v in versions},
            labels={label: v.number for v in versions for label in v.labels},
            shadow=ask.shadow or None,
        )
        self.followers.follow_models()
        return versions

    async def close(self) -> None:
        """Stop what is under way; the process ends."""
        for task in (*self._loading.values(), *self._draining.values()):
            task.cancel()


def _close(loaded: LoadedModel) -> None:
    try:
        loaded.close()
    except Exception:
        log.exception("model_close_failed", model=loaded.key)


def _settings(ask: LoadAsk, version: int) -> ModelSettings:
    ours = {key: value for key, value in ask.settings.items() if key in OURS}
    theirs = {key: value for key, value in ask.settings.items() if key not in OURS}
    table = model_table(ask.name, "" if ask.source == permit.BUILT_IN else ask.source, ours) | {
        "version": version,
        "detector": ask.detector,
        "labels": tuple(ask.labels),
        "settings": theirs,
    }
    try:
        return ModelSettings(**table)
    except ValidationError as error:
        fault = error.errors()[0]
        where = str(fault["loc"][0])
        path = f"settings.{where}" if where in OURS else where
        what = fault["msg"].removeprefix("Value error, ")
        if where == "name":
            what = "lower-case letters, digits, “.”, “_” and “-”, beginning with a letter or a digit"
        raise Failure(
            Reason.OPTION_INVALID, f"{path}: {what}", field=path, metadata={"model": ask.name[:200]}
        ) from None


def _versions(registry: Registry, name: str) -> list[Version]:
    if not name:
        raise Failure(Reason.OPTION_INVALID, "name is needed", field="name")
    try:
        return sorted(registry.versions(name), key=lambda v: v.number)
    except Failure as failure:
        failure.field = "name"
        raise


def _version(versions: Sequence[Version], number: int, field_path: str) -> Version:
    for version in versions:
        if version.number == number:
            return version
    known = [str(v.number) for v in versions]
    near = nearest(str(number), known) or known[-1]
    raise Failure(
        Reason.VERSION_NOT_FOUND,
        f"model {quote(versions[0].name)} has no version {number}; it has: {', '.join(known)}",
        field=field_path,
        metadata={"model": versions[0].name, "version": str(number), "nearest": near},
    )


def _usable(versions: Sequence[Version], number: int, field_path: str) -> Version:
    """A version that calls may be sent to, now or once it serves."""
    version = _version(versions, number, field_path)
    if version.state is ModelState.FAILED:
        why = version.failure.message if version.failure else "unknown"
        message = f"version {number} of model {quote(version.name)} failed to load: {why}"
        raise Failure(Reason.MODEL_LOAD_FAILED, message, field_path, {"model": version.name})
    if version.state is ModelState.DRAINING:
        others = [v for v in versions if v is not version]
        raise Failure(
            Reason.VERSION_NOT_FOUND,
            f"version {number} of model {quote(version.name)} is being unloaded",
            field=field_path,
            metadata={"model": version.name, "version": str(number)}
            | ({"nearest": str(others[-1].number)} if others else {}),
        )
    return version


def _weights(ask: TrafficAsk, versions: Sequence[Version]) -> dict[int, int]:
    weights: dict[int, int] = {}
    for index, (number, weight) in enumerate(ask.targets):
        path = f"targets[{index}]"
        if weight < 0:
            raise Failure(
                Reason.OPTION_INVALID,
                f"the weight of version {number} is {weight}; it has to be 0 or more",
                field=f"{path}.weight",
                metadata={"version": str(number), "weight": str(weight)},
            )
        if number in weights:
            message = f"version {number} is given two weights"
            raise Failure(Reason.OPTION_INVALID, message, f"{path}.version", {"version": str(number)})
        if weight:
            _usable(versions, number, f"{path}.version")
        else:
            _version(versions, number, f"{path}.version")
        weights[number] = weight
    if weights and not any(weights.values()):
        raise Failure(Reason.OPTION_INVALID, "one version at least needs a weight above 0", field="targets")
    return weights


def _check_label(label: str) -> None:
    fault = label_fault(label)
    if fault:
        raise Failure(Reason.OPTION_INVALID, fault, field="labels", metadata={"label": label[:200]})
