"""The path of an input, from a call to its answer, stage by stage.

    answered already? -> admission -> decode and prepare (CPU pool) -> scheduler -> lane -> finish -> answer

It owns the order of the stages and the stopwatch, and nothing of what happens inside one. It knows no
protobuf and no gRPC: calls come in and answers go out in the server's own words (`calls.py`), and what fails
raises `Failure`. Cancelling the task that awaits an answer takes its inputs out wherever they are.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from opsin_detectors.api import (
    Box,
    Detection,
    ImageInput,
    Label,
    Options,
    Task,
    TextInput,
)
from opsin_server import answers
from opsin_server.admission.gate import Gate
from opsin_server.admission.options import detect_task, embed_task, resolve
from opsin_server.cache.key import Question
from opsin_server.cache.results import Asked, Results
from opsin_server.calls import (
    Caller,
    DetectAnswer,
    DetectCall,
    DetectOptions,
    EmbedAnswer,
    EmbedCall,
    EmbeddedDetection,
    EncodedImage,
    ModelRef,
    Source,
    Text,
    Watcher,
)
from opsin_server.cascade import Cascade, Second, own_stages, told_stages
from opsin_server.errors import Failure, Reason
from opsin_server.looking import Pair, all_done, prepare, submit, vector_of
from opsin_server.media.budget import PixelBudget, Reservation
from opsin_server.media.crop import crop
from opsin_server.media.decode import decode, decoded_bytes, is_instant
from opsin_server.media.header import MediaLimits
from opsin_server.media.pool import CpuPool
from opsin_server.models.loaded import LoadedModel
from opsin_server.models.registry import Registry
from opsin_server.scheduling.batch import Done
from opsin_server.scheduling.scheduler import Scheduler
from opsin_server.scheduling.ticket import Priority
from opsin_server.stopwatch import Stopwatch

__all__ = ["Pipeline"]

WHOLE = Box(0.0, 0.0, 1.0, 1.0)
FEW_DETECTIONS = 100
"""Merging so many takes the event loop a few milliseconds at most."""
_ANY_IMAGE: Source = EncodedImage(b"")


@dataclass(slots=True)
class _Ready:
    """Inputs that came out of the CPU pool. Never changed; a frozen one takes three times as long to make.

    width, height: of the upright original, 0 for text. image: kept only for a second stage that crops it.
    decoded, at: clock seconds at the end of decoding and of preparing.
    """

    inputs: tuple[Pair, ...]
    decoded: float
    at: float
    width: int = 0
    height: int = 0
    image: ImageInput | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes of pixels that stay in memory until the answer."""
        arrays = [prepared.data for prepared, _ in self.inputs] + ([self.image.pixels] if self.image else [])
        return sum(getattr(array, "nbytes", 0) for array in arrays)


@dataclass(slots=True)
class _Looks:
    """One source to be looked at by one model, once per region. Never changed; see `_Ready`."""

    model: LoadedModel
    source: Source
    task: Task
    options: Options
    regions: tuple[Box, ...]
    keep_image: bool
    watcher: Watcher | None = None

    @property
    def instant(self) -> bool:
        """Whether making it ready takes less than a hop to another thread would."""
        if not self.model.info.light or len(self.regions) > 1:
            return False
        return isinstance(self.source, Text) or is_instant(self.source)

    @property
    def near(self) -> tuple[int, int]:
        """The size (width, height) that decoding may reduce the whole image to; (0, 0) is no reduction."""
        width, height = self.model.info.decode_size
        if self.keep_image or not width:
            return (0, 0)
        return (
            max(math.ceil(width / (r.x_max - r.x_min)) for r in self.regions),
            max(math.ceil(height / (r.y_max - r.y_min)) for r in self.regions),
        )


class Pipeline:
    """Turns calls into answers. One per server, on the event loop."""

    def __init__(
        self,
        *,
        registry: Registry,
        scheduler: Scheduler,
        gate: Gate,
        pool: CpuPool,
        budget: PixelBudget,
        limits: MediaLimits,
        results: Results | None = None,
    ) -> None:
        """results: answers that need not be computed; by default identical inputs in flight run once."""
        self._registry = registry
        self._scheduler = scheduler
        self._gate = gate
        self._pool = pool
        self._budget = budget
        self._limits = limits
        self._results = results or Results(pool)
        self._cascade = Cascade(scheduler=scheduler, gate=gate, pool=pool, budget=budget)

    async def detect(self, call: DetectCall, watcher: Watcher | None = None) -> DetectAnswer:
        """Answer one Detect. Raises Failure. watcher: is told how far it has got."""
        watch = Stopwatch()
        model = self._registry.route(call.model, "detect", call.caller.routing_key)
        task = detect_task(model.name, model.info, call.source)
        options = resolve(call.options, model.info, task)
        seconds = self._seconds(model, call)
        looks = _Looks(
            model,
            call.source,
            task,
            options,
            call.options.regions or (WHOLE,),
            keep_image=bool(seconds),
            watcher=watcher,
        )
        if watcher is not None or self._is_quick(looks):  # a frame of a stream is like no other
            return await self._detect(looks, call.caller, seconds, call.options.regions, watch)

        async def compute(caller: Caller, watch: Stopwatch) -> DetectAnswer:
            return await self._detect(looks, caller, seconds, call.options.regions, watch)

        others = [s for s in seconds if s.model not in model.whole] if seconds else seconds
        question = Question(
            "detect",
            task,
            (model.key, *[second.model.key for second in others]) if others else (model.key,),
            options,
            call.options.regions,
            stages=tuple([second.terms for second in others]) if others else (),
        )
        asked = Asked(question, call.source, _ref(model), call.options.skip_cache)
        return await self._results.answer(asked, call.caller, watch, compute)

    async def _detect(
        self,
        looks: _Looks,
        caller: Caller,
        seconds: Sequence[Second],
        regions: tuple[Box, ...],
        watch: Stopwatch,
    ) -> DetectAnswer:
        model = looks.model
        with self._budget.reserve(0) as pixels:
            ready, done = await self._look(looks, caller, watch, pixels)
            found, labels = await self._assembled(done, regions, model, looks.options)
            detections = [EmbeddedDetection(one) for one in found]
            if found and ready.image is not None:
                detections, times = await self._cascade.look(seconds, ready.image, found, caller)
                watch.add(times)
        return DetectAnswer(
            model=_ref(model),
            detections=detections,
            labels=labels,
            flagged=answers.flagged(model.info.flag, [d.output for d in done]),
            width=ready.width,
            height=ready.height,
            timings=watch.stop(),
        )

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Answer one Embed. Raises Failure."""
        watch = Stopwatch()
        model = self._registry.route(call.model, "embed", call.caller.routing_key)
        task = embed_task(model.name, model.info, call.source)
        _check_dimensions(call.dimensions, model)
        options = Options(truncate_text=call.truncate_text)
        looks = _Looks(model, call.source, task, options, (WHOLE,), keep_image=False)

        async def compute(caller: Caller, watch: Stopwatch) -> EmbedAnswer:
            with self._budget.reserve(0) as pixels:
                _, done = await self._look(looks, caller, watch, pixels)
            vector = answers.cut_vector(
                vector_of(done[0], model), dimensions=call.dimensions, normalize=call.normalize
            )
            return EmbedAnswer(model=_ref(model), vector=vector, timings=watch.stop())

        if self._is_quick(looks):
            return await compute(call.caller, watch)
        question = Question(
            "embed", task, (model.key,), options, normalize=call.normalize, dimensions=call.dimensions
        )
        asked = Asked(question, call.source, _ref(model), call.skip_cache)
        return await self._results.answer(asked, call.caller, watch, compute)

    def _is_quick(self, looks: _Looks) -> bool:
        """Whether the answer takes less time than looking who else asks for it, and is not kept."""
        return looks.instant and not self._results.keeps

    async def _assembled(
        self, done: Sequence[Done], regions: tuple[Box, ...], model: LoadedModel, options: Options
    ) -> tuple[list[Detection], list[Label]]:
        """`_assemble`, off the event loop when many regions found much."""
        if regions and sum(len(d.output.detections) for d in done) > FEW_DETECTIONS:
            return await self._pool.run(_assemble, done, regions, model, options, urgent=True)
        return _assemble(done, regions, model, options)

    def _seconds(self, model: LoadedModel, call: DetectCall) -> list[Second]:
        """Who looks at what `model` finds: its own stages, what the settings and `embed_detections` name."""
        seconds = [*own_stages(model), *told_stages(model, call, self._registry)]
        if call.options.embed_detections:
            embedder = self._embedder(call.options, call.caller.routing_key)
            seconds.append(Second(embedder, Task.EMBED_IMAGE))
        return seconds

    def _embedder(self, options: DetectOptions, routing_key: str) -> LoadedModel:
        """The model that gives `embed_detections` its vectors."""
        try:
            model = self._registry.route(options.embed_model, "embed", routing_key)
        except Failure as failure:
            failure.field = "options.embed_model"
            raise
        embed_task(model.name, model.info, _ANY_IMAGE)
        return model

    async def _look(
        self, looks: _Looks, caller: Caller, watch: Stopwatch, pixels: Reservation
    ) -> tuple[_Ready, list[Done]]:
        """Admission, decode, prepare, and one ticket per region.

        pixels: grows by what is held of the budget: until the answers all of it, then the kept image.
        """
        with self._gate.admit(looks.model.key, len(looks.regions), caller) as place:
            if looks.instant:  # it allocates no pixels
                watch.admitted()
                ready = _make_ready(looks, self._limits)
            else:
                pixels.grow(self._decoded_bytes(looks))
                watch.admitted()
                patient = caller.priority is not Priority.INTERACTIVE
                ready = await self._pool.run(
                    _make_ready, looks, self._limits, flow=caller.flow, patient=patient
                )
                pixels.shrink(ready.held_bytes)
            watch.ready(ready.decoded, ready.at)
            if looks.watcher is not None:
                looks.watcher.ready()
            futures = submit(
                self._scheduler, looks.model, ready.inputs, caller=caller, place=place, watcher=looks.watcher
            )
            done = await all_done(futures)
            pixels.shrink(ready.image.pixels.nbytes if ready.image else 0)
        watch.ran(done)
        return ready, done

    def _decoded_bytes(self, looks: _Looks) -> int:
        if isinstance(looks.source, Text):
            return 0
        # A device decodes to the full size only.
        return decoded_bytes(looks.source, self._limits, (0, 0) if looks.model.decoder else looks.near)


def _make_ready(looks: _Looks, limits: MediaLimits) -> _Ready:
    """On the CPU pool: decode the source and prepare it once per region."""
    model, options = looks.model, looks.options
    if isinstance(looks.source, Text):
        start = time.monotonic()
        text = prepare(model, TextInput(looks.source.text), looks.task, options)
        return _Ready((text,), start, time.monotonic())
    image = decode(looks.source, limits, near=looks.near, device=model.decoder)
    decoded = time.monotonic()
    if looks.watcher is not None:
        looks.watcher.decoded(image)
    ready = tuple(prepare(model, _part(image, region), looks.task, options) for region in looks.regions)
    kept = image if looks.keep_image else None
    return _Ready(ready, decoded, time.monotonic(), image.width, image.height, kept)


def _part(image: ImageInput, region: Box) -> ImageInput:
    return image if region == WHOLE else crop(image, region)


def _assemble(
    done: Sequence[Done], regions: tuple[Box, ...], model: LoadedModel, options: Options
) -> tuple[list[Detection], list[Label]]:
    outputs = [d.output for d in done]
    if regions:
        merged = answers.merge_regions(outputs, regions, model.info, options)
        return answers.keep_detections(merged, options), []
    return (
        answers.keep_detections(outputs[0].detections, options),
        answers.keep_labels(outputs[0].labels, options),
    )


def _check_dimensions(dimensions: int, model: LoadedModel) -> None:
    most = model.info.embedding_dimensions
    if dimensions > most:
        raise Failure(
            Reason.OPTION_INVALID,
            f"dimensions is {dimensions}, and model “{model.name}” has {most}",
            field="dimensions",
            metadata={"dimensions": str(dimensions), "most": str(most)},
        )


def _ref(model: LoadedModel) -> ModelRef:
    return ModelRef(model.name, model.version, model.device)
