"""In front of the pipeline: gives each call its version, and holds that version until the call is answered.

The version is chosen once, here, when the call comes in. From then on it goes by number, so that a switch of
traffic in the middle of a call changes nothing for it, and a version that is unloaded knows who still needs
it. A copy for the shadow is made when the answer is there. Knows no stage of an input's way, and no protobuf.
"""

import time
from dataclasses import replace
from types import TracebackType

from opsin_server.calls import Answer, DetectAnswer, DetectCall, EmbedAnswer, EmbedCall, NotNeeded, Watcher
from opsin_server.errors import Failure, Reason, quote
from opsin_server.models.directory import Kind, Version
from opsin_server.models.registry import Registry
from opsin_server.models.status import ModelState
from opsin_server.rpc.seam import Pipeline
from opsin_server.scheduling.ticket import Priority
from opsin_server.shadow import Shadow
from opsin_server.telemetry.metrics import Metrics

__all__ = ["Switchboard"]


class Switchboard:
    """The pipeline as callers see it."""

    def __init__(self, registry: Registry, pipeline: Pipeline, shadow: Shadow, metrics: Metrics) -> None:
        self._registry = registry
        self._pipeline = pipeline
        self._shadow = shadow
        self._metrics = metrics

    async def detect(self, call: DetectCall, watcher: Watcher | None = None) -> DetectAnswer:
        """Answer one Detect. Raises Failure. watcher: is told how far it has got."""
        version = self._pick(call, "detect")
        if call.model != version.key:  # written out, as `replace` takes five times as long
            call = DetectCall(version.key, call.source, call.options, call.caller, call.then)
        with _Use(version, self._metrics):
            if call.options.embed_detections or version.settings.then:
                answer = await self._with_seconds(version, call, watcher)
            else:
                answer = await self._pipeline.detect(call, watcher)
        self._mirror(version, call, answer)
        return answer

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Answer one Embed. Raises Failure."""
        version = self._pick(call, "embed")
        if call.model != version.key:
            call = replace(call, model=version.key)
        with _Use(version, self._metrics):
            answer = await self._pipeline.embed(call)
        self._mirror(version, call, answer)
        return answer

    async def _with_seconds(
        self, version: Version, call: DetectCall, watcher: Watcher | None
    ) -> DetectAnswer:
        """The models that look at what is found are chosen now, and held too."""
        held = [self._follower(version, name, call.caller.routing_key) for name in version.settings.then]
        call = replace(call, then=tuple(one.key for one in held))
        if call.options.embed_detections:
            embedder = self._embedder(call)
            call = replace(call, options=replace(call.options, embed_model=embedder.key))
            held.append(embedder)
        for one in held:
            one.users += 1
        try:
            return await self._pipeline.detect(call, watcher)
        finally:
            for one in held:
                one.users -= 1

    def _follower(self, version: Version, name: str, routing_key: str) -> Version:
        try:
            return self._registry.pick(name, "detect", routing_key)
        except Failure as failure:
            failure.message = (
                f"what model {quote(version.name)} finds goes on to {quote(name)}: {failure.message}"
            )
            raise

    def _embedder(self, call: DetectCall) -> Version:
        try:
            return self._registry.pick(call.options.embed_model, "embed", call.caller.routing_key)
        except Failure as failure:
            failure.field = "options.embed_model"
            raise

    def _pick(self, call: DetectCall | EmbedCall, kind: Kind) -> Version:
        if call.caller.priority is Priority.STREAM:
            # A stream names its version. What it sent before it heard that it has to go is still answered.
            version = self._registry.find(call.model, kind)
            if version.serves or (version.state is ModelState.DRAINING and version.loaded is not None):
                return version
        return self._registry.pick(call.model, kind, call.caller.routing_key)

    def _mirror(self, version: Version, call: DetectCall | EmbedCall, answer: Answer) -> None:
        shadow = self._registry.shadow(version.name)
        if shadow is not None and shadow is not version:
            self._shadow.mirror(shadow, call, answer)


class _Use:
    """A version while a call is answered by it; counts how that ended."""

    __slots__ = ("_begun", "_metrics", "_version")

    def __init__(self, version: Version, metrics: Metrics) -> None:
        self._version = version
        self._metrics = metrics
        self._begun = time.monotonic()

    def __enter__(self) -> None:
        self._version.users += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        version = self._version
        version.users -= 1
        if isinstance(error, NotNeeded):
            return
        if error is None or isinstance(error, Exception):  # whoever left says nothing about the version
            reason = _reason(error).value if error is not None else ""
            self._metrics.answered(version.name, version.number, reason, time.monotonic() - self._begun)


def _reason(error: Exception) -> Reason:
    """What the caller is told; of what a detector's `prepare` raised, too."""
    return error.reason if isinstance(error, Failure) else Reason.DETECTOR_FAILED
