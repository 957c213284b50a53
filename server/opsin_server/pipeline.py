"""The path of an input, from a call to its answer, stage by stage.

    admission -> decode and prepare (CPU pool) -> scheduler -> lane -> finish -> answer

It owns the order of the stages and the stopwatch, and nothing of what happens inside one. It knows no
protobuf and no gRPC: calls come in and answers go out in the server's own words (`calls.py`), and what fails
raises `Failure`. Cancelling the task that awaits an answer takes its inputs out wherever they are.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from opsin_detectors.api import (
    Box,
    Detection,
    ImageInput,
    InputError,
    Item,
    Label,
    Options,
    Prepared,
    Task,
    TextInput,
    Vector,
)
from opsin_server import answers
from opsin_server.admission.gate import Gate, Place
from opsin_server.admission.options import detect_task, embed_task, resolve
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
    Timings,
    Watcher,
)
from opsin_server.errors import Failure, Reason
from opsin_server.media.budget import PixelBudget
from opsin_server.media.crop import crop
from opsin_server.media.decode import decode, decoded_bytes, is_instant
from opsin_server.media.header import MediaLimits
from opsin_server.media.pool import CpuPool
from opsin_server.models.loaded import LoadedModel
from opsin_server.models.registry import Registry
from opsin_server.scheduling.batch import Done
from opsin_server.scheduling.scheduler import Scheduler

__all__ = ["Pipeline"]

WHOLE = Box(0.0, 0.0, 1.0, 1.0)
FEW_DETECTIONS = 100
"""Merging so many takes the event loop a few milliseconds at most."""
_ANY_IMAGE: Source = EncodedImage(b"")


@dataclass(frozen=True, slots=True)
class _Ready:
    """Inputs that came out of the CPU pool.

    width, height: of the upright original, 0 for text. image: kept only for a second stage that crops it.
    decoded, at: clock seconds at the end of decoding and of preparing.
    """

    prepared: tuple[Prepared, ...]
    decoded: float
    at: float
    width: int = 0
    height: int = 0
    image: ImageInput | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes of pixels that stay in memory until the answer."""
        arrays = [p.data for p in self.prepared] + ([self.image.pixels] if self.image else [])
        return sum(getattr(array, "nbytes", 0) for array in arrays)


@dataclass(frozen=True, slots=True)
class _Looks:
    """One source to be looked at by one model, once per region."""

    model: LoadedModel
    source: Source
    task: Task
    options: Options
    regions: tuple[Box, ...]
    keep_image: bool
    caller: Caller
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
    ) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._gate = gate
        self._pool = pool
        self._budget = budget
        self._limits = limits

    async def detect(self, call: DetectCall, watcher: Watcher | None = None) -> DetectAnswer:
        """Answer one Detect. Raises Failure. watcher: is told how far it has got."""
        watch = Stopwatch()
        model = self._registry.route(call.model, "detect", call.caller.routing_key)
        task = detect_task(model.name, model.info, call.source)
        options = resolve(call.options, model.info, task)
        embedder = self._embedder(call.options, call.caller.routing_key)
        looks = _Looks(
            model,
            call.source,
            task,
            options,
            call.options.regions or (WHOLE,),
            keep_image=embedder is not None,
            caller=call.caller,
            watcher=watcher,
        )
        with ExitStack() as held:
            ready, done = await self._look(looks, watch, held)
            found, labels = await self._assembled(done, call.options.regions, model, options)
            vectors: Sequence[Vector | None] = [None] * len(found)
            if embedder is not None and ready.image is not None and found:
                boxes = [d.box for d in found]
                vectors = await self._embed_boxes(embedder, ready.image, boxes, call.caller, watch)
        return DetectAnswer(
            model=_ref(model),
            detections=[EmbeddedDetection(d, v) for d, v in zip(found, vectors, strict=True)],
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
        looks = _Looks(model, call.source, task, options, (WHOLE,), keep_image=False, caller=call.caller)
        with ExitStack() as held:
            _, done = await self._look(looks, watch, held)
        vector = _vector(done[0], model)
        return EmbedAnswer(
            model=_ref(model),
            vector=answers.cut_vector(vector, dimensions=call.dimensions, normalize=call.normalize),
            timings=watch.stop(),
        )

    async def _assembled(
        self, done: Sequence[Done], regions: tuple[Box, ...], model: LoadedModel, options: Options
    ) -> tuple[list[Detection], list[Label]]:
        """`_assemble`, off the event loop when many regions found much."""
        if regions and sum(len(d.output.detections) for d in done) > FEW_DETECTIONS:
            return await self._pool.run(_assemble, done, regions, model, options, urgent=True)
        return _assemble(done, regions, model, options)

    def _embedder(self, options: DetectOptions, routing_key: str) -> LoadedModel | None:
        """The model that gives `embed_detections` its vectors."""
        if not options.embed_detections:
            return None
        try:
            model = self._registry.route(options.embed_model, "embed", routing_key)
        except Failure as failure:
            failure.field = "options.embed_model"
            raise
        embed_task(model.name, model.info, _ANY_IMAGE)
        return model

    async def _look(self, looks: _Looks, watch: "Stopwatch", held: ExitStack) -> tuple[_Ready, list[Done]]:
        """Admission, decode, prepare, and one ticket per region.

        held: gets what is held of the budget of pixels: until the answers all of it, then the kept image.
        """
        with self._gate.admit(looks.model.key, len(looks.regions), looks.caller) as place:
            budgeted = held.enter_context(self._budget.reserve(self._decoded_bytes(looks)))
            watch.admitted()
            if looks.instant:
                ready = _make_ready(looks, self._limits)
            else:
                ready = await self._pool.run(_make_ready, looks, self._limits)
            budgeted.shrink(ready.held_bytes)
            watch.ready(ready.decoded, ready.at)
            pairs = _pairs(ready.prepared, looks.task, looks.options, (ready.width, ready.height))
            done = await self._run(looks.model, pairs, looks.caller, place, looks.watcher)
            budgeted.shrink(ready.image.pixels.nbytes if ready.image else 0)
        watch.ran(done)
        return ready, done

    def _decoded_bytes(self, looks: _Looks) -> int:
        if isinstance(looks.source, Text):
            return 0
        return decoded_bytes(looks.source, self._limits, looks.near)

    async def _run(
        self,
        model: LoadedModel,
        pairs: Sequence[tuple[Prepared, Item]],
        caller: Caller,
        place: Place | None = None,
        watcher: Watcher | None = None,
    ) -> list[Done]:
        """Tickets for prepared inputs of one model; all their answers, in order, or the first failure."""
        futures = []
        for prepared, item in pairs:
            futures.append(
                self._scheduler.submit(
                    model.key,
                    prepared,
                    item,
                    flow=caller.flow,
                    priority=caller.priority,
                    deadline=caller.deadline,
                    size=getattr(prepared.data, "nbytes", 0),
                    on_start=watcher.started if watcher else None,
                )
            )
            if place is not None:
                place.take()
        if watcher is not None:
            watcher.ready()
        return await _all(futures)

    async def _embed_boxes(
        self, model: LoadedModel, image: ImageInput, boxes: Sequence[Box], caller: Caller, watch: "Stopwatch"
    ) -> list[Vector | None]:
        """Second stage of a cascade: a vector for each box, in tickets that share batches with everyone."""
        stage = Stopwatch()
        options = Options()
        try:
            with (
                self._gate.admit(model.key, len(boxes), caller) as place,
                self._budget.reserve(_crop_bytes(model, image, boxes)),
            ):
                stage.admitted()
                prepared = await self._pool.run(
                    _prepare_crops, model, image, boxes, Task.EMBED_IMAGE, options
                )
                now = time.monotonic()
                stage.ready(now, now)
                pairs = _pairs(prepared, Task.EMBED_IMAGE, options, (image.width, image.height))
                done = await self._run(model, pairs, caller, place)
        except Failure as failure:
            raise replace(failure, admitted=True) from failure  # the first stage has run
        stage.ran(done)
        watch.add(stage.stop())
        return [answers.cut_vector(_vector(d, model), dimensions=0, normalize=True) for d in done]


class Stopwatch:
    """Wall time of one input by stage. Each stage ends where the next begins, waits for threads included."""

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()
        self._times = Timings()

    def admitted(self) -> None:
        """Admission ended."""
        now = time.monotonic()
        self._times.admission = now - self._last
        self._last = now

    def ready(self, decoded: float, prepared: float) -> None:
        """The picture was decoded at `decoded`, and the input ready at `prepared`."""
        self._times.decode = decoded - self._last
        self._times.prepare = prepared - decoded
        self._last = prepared

    def ran(self, done: Sequence[Done]) -> None:
        """All tickets are answered; the slowest one counts."""
        slowest = max(done, key=lambda d: d.finished)
        now = time.monotonic()
        self._times.queue = max(0.0, slowest.started - self._last)
        self._times.infer = slowest.inferred - slowest.started
        self._times.finish = now - slowest.inferred
        self._times.batch_size = slowest.batch_size
        self._last = now

    def add(self, stage: Timings) -> None:
        """A second stage ran after this one: its parts are added."""
        for name in ("decode", "prepare", "queue", "infer", "finish"):
            setattr(self._times, name, getattr(self._times, name) + getattr(stage, name))

    def stop(self) -> Timings:
        """The finished times."""
        self._times.total = time.monotonic() - self._begun
        return self._times


def _make_ready(looks: _Looks, limits: MediaLimits) -> _Ready:
    """On the CPU pool: decode the source and prepare it once per region."""
    model, options = looks.model, looks.options
    if isinstance(looks.source, Text):
        start = time.monotonic()
        prepared = _prepare(model, TextInput(looks.source.text), looks.task, options)
        return _Ready((prepared,), start, time.monotonic())
    image = decode(looks.source, limits, near=looks.near)
    decoded = time.monotonic()
    if looks.watcher is not None:
        looks.watcher.decoded(image)
    parts = [image if region == WHOLE else crop(image, region) for region in looks.regions]
    ready = tuple(_prepare(model, part, looks.task, options) for part in parts)
    kept = image if looks.keep_image else None
    return _Ready(ready, decoded, time.monotonic(), image.width, image.height, kept)


def _prepare(model: LoadedModel, source: ImageInput | TextInput, task: Task, options: Options) -> Prepared:
    try:
        return model.detector.prepare(source, task, options)
    except InputError as error:
        if isinstance(source, TextInput):
            raise Failure(Reason.TEXT_TOO_LONG, str(error), field="text") from error
        raise Failure(Reason.IMAGE_UNDECODABLE, str(error), field="image") from error


def _prepare_crops(
    model: LoadedModel, image: ImageInput, boxes: Sequence[Box], task: Task, options: Options
) -> list[Prepared]:
    return [_prepare(model, crop(image, box), task, options) for box in boxes]


def _crop_bytes(model: LoadedModel, image: ImageInput, boxes: Sequence[Box]) -> int:
    """About how many bytes the prepared crops take: what the model states, else their own pixels."""
    spec = model.info.input
    if spec is not None:
        return len(boxes) * spec.height * spec.width * spec.channels
    return math.ceil(image.pixels.nbytes * sum((b.x_max - b.x_min) * (b.y_max - b.y_min) for b in boxes))


def _pairs(
    prepared: Sequence[Prepared], task: Task, options: Options, size: tuple[int, int]
) -> list[tuple[Prepared, Item]]:
    return [(p, Item(task, options, p.state, *size)) for p in prepared]


async def _all(futures: Sequence[asyncio.Future[Done]]) -> list[Done]:
    """Every answer in order. One failure, or a cancelled wait, takes the others out too."""
    try:
        return [await future for future in futures]
    finally:
        for future in futures:
            if not future.done():
                future.cancel()
            elif not future.cancelled():
                future.exception()  # a second failure needs no report of its own


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


def _vector(done: Done, model: LoadedModel) -> Vector:
    if done.output.vector is None:
        raise Failure(Reason.DETECTOR_BROKEN, f"model “{model.name}” answered no vector")
    return done.output.vector


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
    return ModelRef(model.name, model.version, model.info.device)
