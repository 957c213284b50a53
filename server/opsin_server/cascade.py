"""The second stage of a cascade: other models look at what the first one found.

    face -> emotion       labels become an attribute of the box
    detect -> embed       the vector becomes the box's embedding
    detect -> read text   what was read becomes the box's text

All three are one mechanism: each box is cropped, once for every model of the second stage, and the crops
are ordinary tickets, which share batches with everyone's. The models of the second stage run side by side.
Owns which crops are made and how answers are merged; the first stage is the pipeline's.
"""

import asyncio
import math
import time
from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from opsin_detectors.api import Attribute, Box, Detection, ImageInput, Options, Output, Task, Vector
from opsin_server import answers
from opsin_server.admission.gate import Gate, Place
from opsin_server.calls import Caller, DetectCall, EmbeddedDetection, Timings
from opsin_server.errors import Failure, Reason, quote
from opsin_server.looking import Pair, all_done, prepare, submit, vector_of
from opsin_server.media.budget import PixelBudget
from opsin_server.media.crop import crop
from opsin_server.media.pool import CpuPool
from opsin_server.models.following import second_task
from opsin_server.models.loaded import LoadedModel
from opsin_server.models.registry import Registry
from opsin_server.scheduling.batch import Done
from opsin_server.scheduling.scheduler import Scheduler
from opsin_server.stopwatch import Stopwatch

__all__ = ["Cascade", "Second", "grown", "merged", "own_stages", "told_stages"]


@dataclass(frozen=True, slots=True)
class Second:
    """A model of the second stage.

    name: of the attribute that its labels become. margin: see `opsin_detectors.api.Stage`. classes: it looks
    at boxes of these only; empty means all.
    """

    model: LoadedModel
    task: Task
    name: str = ""
    margin: float = 0.0
    classes: frozenset[str] = frozenset()

    @property
    def terms(self) -> tuple[Hashable, ...]:
        """What it looks at and what becomes of that, as plain values: an answer is kept under them too."""
        return (self.task.value, self.name, self.margin, tuple(sorted(self.classes)))

    def wants(self, found: Detection) -> bool:
        """Whether it looks at this box."""
        return not self.classes or found.label in self.classes


@dataclass(frozen=True, slots=True)
class _Part:
    """One model's share of the second stage: the boxes it looks at, by their index among those found."""

    second: Second
    options: Options
    indices: tuple[int, ...]
    boxes: tuple[Box, ...]


class Cascade:
    """Runs second stages. One per server, on the event loop."""

    def __init__(self, *, scheduler: Scheduler, gate: Gate, pool: CpuPool, budget: PixelBudget) -> None:
        self._scheduler = scheduler
        self._gate = gate
        self._pool = pool
        self._budget = budget

    async def look(
        self, seconds: Sequence[Second], image: ImageInput, found: Sequence[Detection], caller: Caller
    ) -> tuple[list[EmbeddedDetection], Timings]:
        """What was found, with what `seconds` say about it, and the stage's times: the slowest answer's.

        Raises Failure, marked as of a call that was admitted: the first stage has run.
        """
        watch = Stopwatch()
        parts = [part for second in seconds if (part := _part(second, found)).boxes]
        if not parts:
            return [EmbeddedDetection(one) for one in found], watch.stop()
        try:
            done = await self._run(parts, image, caller, watch)
        except Failure as failure:
            raise replace(failure, admitted=True) from failure
        return _put_together(found, parts, done), watch.stop()

    async def _run(
        self, parts: Sequence[_Part], image: ImageInput, caller: Caller, watch: Stopwatch
    ) -> list[Done]:
        """The answers of each part, one part after the other."""
        with ExitStack() as held:
            places = [self._admit(part, caller, held) for part in parts]
            held.enter_context(self._budget.reserve(sum(_crop_bytes(part, image) for part in parts)))
            watch.admitted()
            ready = await self._pool.run(_prepare_crops, parts, image, flow=caller.flow)
            now = time.monotonic()
            watch.ready(now, now)
            done = await all_done(self._submit(parts, ready, places, caller))
        watch.ran(done)
        return done

    def _admit(self, part: _Part, caller: Caller, held: ExitStack) -> Place:
        return held.enter_context(self._gate.admit(part.second.model.key, len(part.boxes), caller))

    def _submit(
        self,
        parts: Sequence[_Part],
        ready: Sequence[Sequence[Pair]],
        places: Sequence[Place],
        caller: Caller,
    ) -> list[asyncio.Future[Done]]:
        futures: list[asyncio.Future[Done]] = []
        try:
            for part, inputs, place in zip(parts, ready, places, strict=True):
                futures += submit(self._scheduler, part.second.model, inputs, caller=caller, place=place)
        except Failure:
            for future in futures:
                future.cancel()
            raise
        return futures


def own_stages(model: LoadedModel) -> list[Second]:
    """The second stage that a detector itself states."""
    return [
        Second(loaded, stage.task, stage.name, stage.margin, stage.classes) for stage, loaded in model.stages
    ]


def told_stages(model: LoadedModel, call: DetectCall, registry: Registry) -> list[Second]:
    """The second stage that the settings name: ordinary models, with batches and callers of their own.

    Raises Failure when one of them cannot be asked.
    """
    told = model.following
    if told is None:
        return []
    seconds = []
    for name in call.then or told.names:
        follower = registry.route(name, "detect", call.caller.routing_key)
        task = second_task(follower.info)
        if task is None:  # it was when the first model came up, and was loaded anew since
            raise _says_nothing(follower)
        if task is Task.EMBED_IMAGE and call.options.embed_detections:
            continue  # the caller chose whose vectors it wants
        seconds.append(Second(follower, task, follower.name, told.margin, told.classes))
    return seconds


def _says_nothing(model: LoadedModel) -> Failure:
    can = ", ".join(sorted(task.name for task in model.info.tasks))
    return Failure(
        Reason.TASK_UNSUPPORTED,
        f"model {quote(model.name)} has nothing to say about a box; it can: {can}",
        field="model",
        metadata={"model": model.name, "tasks": can},
    )


def grown(box: Box, margin: float) -> Box:
    """The box, larger on each side by `margin` of its width or height, cut at the picture's edges."""
    if not margin:
        return box
    x, y = (box.x_max - box.x_min) * margin, (box.y_max - box.y_min) * margin
    return Box(
        max(0.0, box.x_min - x), max(0.0, box.y_min - y), min(1.0, box.x_max + x), min(1.0, box.y_max + y)
    )


def merged(
    one: EmbeddedDetection, second: Second, output: Output, vector: Vector | None
) -> EmbeddedDetection:
    """A detection with what a second model answered about its crop."""
    found = one.detection
    match second.task:
        case Task.EMBED_IMAGE:
            return replace(one, vector=vector)
        case Task.READ_TEXT:
            least = second.model.info.defaults.min_score
            text = "\n".join(line.text for line in output.detections if line.text and line.score >= least)
            return replace(one, detection=replace(found, text=text))
        case _:
            labels = tuple(sorted(output.labels, key=lambda label: label.score, reverse=True))
            attribute = Attribute(second.name, labels)
            return replace(one, detection=replace(found, attributes=(*found.attributes, attribute)))


def _part(second: Second, found: Sequence[Detection]) -> _Part:
    indices = tuple(index for index, one in enumerate(found) if second.wants(one))
    boxes = tuple(grown(found[index].box, second.margin) for index in indices)
    return _Part(second, second.model.info.defaults, indices, boxes)


def _prepare_crops(parts: Sequence[_Part], image: ImageInput) -> list[list[Pair]]:
    """On the CPU pool."""
    return [
        [prepare(part.second.model, crop(image, box), part.second.task, part.options) for box in part.boxes]
        for part in parts
    ]


def _crop_bytes(part: _Part, image: ImageInput) -> int:
    """About how many bytes the prepared crops take: what the model states, else their own pixels."""
    spec = part.second.model.info.input
    if spec is not None:
        return len(part.boxes) * spec.height * spec.width * spec.channels
    area = sum((box.x_max - box.x_min) * (box.y_max - box.y_min) for box in part.boxes)
    return math.ceil(image.pixels.nbytes * area)


def _put_together(
    found: Sequence[Detection], parts: Sequence[_Part], done: Sequence[Done]
) -> list[EmbeddedDetection]:
    whole = [EmbeddedDetection(one) for one in found]
    answered = iter(done)
    for part in parts:
        for index in part.indices:
            whole[index] = _merged(whole[index], part.second, next(answered))
    return whole


def _merged(one: EmbeddedDetection, second: Second, done: Done) -> EmbeddedDetection:
    vector = None
    if second.task is Task.EMBED_IMAGE:
        vector = answers.cut_vector(vector_of(done, second.model), dimensions=0, normalize=True)
    return merged(one, second, done.output, vector)
