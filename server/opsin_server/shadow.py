"""A second opinion that nobody waits for: copies of calls for a version under trial, and how answers differ.

A copy is made only after the caller has had its answer, and only while nothing much waits; otherwise it is
dropped and counted so. It stands in no queue: it runs alone, when no work of a caller waits for the device.
Its answer is compared with the caller's and thrown away, and whatever goes wrong with it is counted and
nothing more. Copies use neither the cache nor joined work.
"""

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import numpy as np
import structlog

from opsin_detectors.api import Box, Detection
from opsin_server.calls import (
    Answer,
    Caller,
    DecodedImage,
    DetectAnswer,
    DetectCall,
    EmbedAnswer,
    EmbedCall,
)
from opsin_server.errors import Failure, Reason
from opsin_server.models.directory import Version
from opsin_server.rpc.seam import Pipeline
from opsin_server.scheduling.ticket import Priority

__all__ = ["Outcome", "Shadow", "agree"]

log = structlog.get_logger(__name__)

Outcome = Literal["same", "different", "failed", "dropped"]
Count = Callable[[str, Outcome], None]
"""Told of each copy: the key of the version it was for, and what became of it."""

PATIENCE = 5.0
"""Seconds after which a copy is given up: load that lasts must not pile copies up."""
OVERLAP = 0.5
"""Intersection over union from which two boxes are one thing."""
ALIKE = 0.99
"""Cosine from which two vectors say the same."""
_FOR_LOAD = frozenset(
    {
        Reason.QUEUE_FULL,
        Reason.MEMORY_LIMIT,
        Reason.DEADLINE_UNMEETABLE,
        Reason.DEADLINE_PASSED,
        Reason.DRAINING,
        Reason.MODEL_NOT_READY,
    }
)


class Shadow:
    """Sends copies.

    idle: whether the server has time to spare now.
    most: copies under way at once. Fewer than there are lanes, where there are several: one that runs cannot
        be called back, so a lane has to be left for callers.
    """

    def __init__(self, pipeline: Pipeline, idle: Callable[[], bool], count: Count, most: int = 1) -> None:
        self._pipeline = pipeline
        self._most = most
        self._idle = idle
        self._count = count
        self._tasks: set[asyncio.Task[None]] = set()

    def mirror(self, version: Version, call: DetectCall | EmbedCall, answer: Answer) -> None:
        """A call was answered; let `version` look at it too, some time. Never raises, never waits."""
        if isinstance(call.source, DecodedImage):
            return  # a frame that the stream's decoder owns
        if len(self._tasks) >= self._most or not self._idle():
            self._count(version.key, "dropped")
            return
        version.users += 1
        task = asyncio.create_task(self._look(version, call, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self, version: Version, call: DetectCall | EmbedCall, answer: Answer) -> None:
        outcome: Outcome = "failed"
        try:
            other = await self._ask(version, call)
            outcome = "same" if agree(answer, other) else "different"
        except Failure as failure:
            outcome = "dropped" if failure.reason in _FOR_LOAD else "failed"
        except Exception as error:
            log.warning("shadow_failed", model=version.key, error=repr(error))
        finally:
            version.users -= 1
            self._count(version.key, outcome)

    async def _ask(self, version: Version, call: DetectCall | EmbedCall) -> Answer:
        caller = Caller(
            flow=f"shadow/{version.name}",
            priority=Priority.BULK,
            deadline=time.monotonic() + PATIENCE,
            when_idle=True,
            request_id=call.caller.request_id,
        )
        match call:
            case DetectCall():
                options = replace(call.options, skip_cache=True)
                copy = DetectCall(version.key, call.source, options, caller)
                return await self._pipeline.detect(copy)
            case EmbedCall():
                return await self._pipeline.embed(
                    replace(call, model=version.key, skip_cache=True, caller=caller)
                )

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


def agree(one: Answer, other: Answer) -> bool:
    """Whether two answers to one input say the same, as far as a user would care.

    Pictures and texts: the same flag, the same first label, the same things in the same places. Vectors: the
    same length and nearly the same direction.
    """
    match one, other:
        case DetectAnswer(), DetectAnswer():
            return (
                one.flagged == other.flagged
                and _first(one) == _first(other)
                and _same_things(
                    [d.detection for d in one.detections], [d.detection for d in other.detections]
                )
            )
        case EmbedAnswer(), EmbedAnswer():
            return _cosine(one, other) >= ALIKE
        case _:
            return False


def _first(answer: DetectAnswer) -> str:
    return answer.labels[0].name if answer.labels else ""


def _same_things(one: list[Detection], other: list[Detection]) -> bool:
    """Each thing has its own counterpart: the same label, and boxes that overlap."""
    if len(one) != len(other):
        return False
    left = list(other)
    for thing in one:
        twins = [t for t in left if t.label == thing.label and _overlap(t.box, thing.box) >= OVERLAP]
        if not twins:
            return False
        left.remove(max(twins, key=lambda twin: _overlap(twin.box, thing.box)))
    return True


def _overlap(one: Box, other: Box) -> float:
    width = min(one.x_max, other.x_max) - max(one.x_min, other.x_min)
    height = min(one.y_max, other.y_max) - max(one.y_min, other.y_min)
    both = max(0.0, width) * max(0.0, height)
    union = _area(one) + _area(other) - both
    return both / union if union > 0 else float(one == other)


def _area(box: Box) -> float:
    return (box.x_max - box.x_min) * (box.y_max - box.y_min)


def _cosine(one: EmbedAnswer, other: EmbedAnswer) -> float:
    if one.vector.shape != other.vector.shape:
        return -math.inf
    lengths = float(np.linalg.norm(one.vector) * np.linalg.norm(other.vector))
    if not lengths:
        return float(np.array_equal(one.vector, other.vector))
    return float(one.vector @ other.vector) / lengths
