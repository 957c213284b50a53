"""One model's look at inputs that are decoded: `prepare`, tickets, answers. Both stages of a cascade do this.

Knows the scheduler and the detector's side of an input; not where inputs come from, nor what becomes of the
answers.
"""

import asyncio
from collections.abc import Sequence

from opsin_detectors.api import (
    ImageInput,
    InputError,
    Item,
    Options,
    Prepared,
    Task,
    TextInput,
    TextTooLongError,
    Vector,
)
from opsin_server.admission.gate import Place
from opsin_server.cache.party import Party
from opsin_server.calls import Caller, Watcher
from opsin_server.errors import Failure, Reason
from opsin_server.models.loaded import LoadedModel
from opsin_server.scheduling.batch import Done
from opsin_server.scheduling.scheduler import Scheduler

__all__ = ["Pair", "all_done", "prepare", "submit", "vector_of"]

Pair = tuple[Prepared, Item]
"""A prepared input, and what `finish` is told of it."""


def prepare(model: LoadedModel, source: ImageInput | TextInput, task: Task, options: Options) -> Pair:
    """The model's own `prepare`, as the scheduler takes it; not for the event loop.

    Of a region the item has the region's own size: boxes in it are shares of that. Raises Failure for an
    input that the model cannot use.
    """
    try:
        prepared = model.prepare(source, task, options)
    except InputError as error:
        raise _refusal(error, source) from error
    width, height = (0, 0) if isinstance(source, TextInput) else (source.width, source.height)
    return prepared, Item(task, options, prepared.state, width, height)


def _refusal(error: InputError, source: ImageInput | TextInput) -> Failure:
    """What the caller is told: which field is wrong, and of which kind its fault is."""
    long = isinstance(source, TextInput) or isinstance(error, TextTooLongError)
    if error.option:
        reason = Reason.TEXT_TOO_LONG if long else Reason.OPTION_INVALID
        return Failure(reason, str(error), field=f"options.{error.option}")
    if long:
        return Failure(Reason.TEXT_TOO_LONG, str(error), field="text")
    return Failure(Reason.IMAGE_UNDECODABLE, str(error), field="image")


def submit(
    scheduler: Scheduler,
    model: LoadedModel,
    inputs: Sequence[Pair],
    *,
    caller: Caller,
    place: Place,
    watcher: Watcher | None = None,
) -> list[asyncio.Future[Done]]:
    """A ticket for each input, each taking its part of the place; their answers to come, in order."""
    futures = []
    for prepared, item in inputs:
        futures.append(
            scheduler.submit(
                model.key,
                prepared,
                item,
                flow=caller.flow,
                priority=caller.priority,
                deadline=caller.deadline,
                size=getattr(prepared.data, "nbytes", 0),
                on_start=watcher.started if watcher is not None and watcher.keen else None,
                when_idle=caller.when_idle,
            )
        )
        place.take()
    if isinstance(caller, Party):
        caller.begun(_Shared(scheduler, futures, place))
    return futures


class _Shared:
    """Tickets that wait for several callers, whose terms may change."""

    def __init__(self, scheduler: Scheduler, futures: list[asyncio.Future[Done]], place: Place) -> None:
        self._scheduler = scheduler
        self._futures = futures
        self._place = place

    def amend(self, caller: Caller) -> bool:
        self._place.move(caller.flow)
        flow, priority, deadline = caller.flow, caller.priority, caller.deadline
        took = [
            self._scheduler.amend(f, flow=flow, priority=priority, deadline=deadline) for f in self._futures
        ]
        return any(took)


async def all_done(futures: Sequence[asyncio.Future[Done]]) -> list[Done]:
    """Every answer in order. One failure, or a cancelled wait, takes the others out too."""
    try:
        return [await future for future in futures]
    finally:
        for future in futures:
            if not future.done():
                future.cancel()
            elif not future.cancelled():
                future.exception()  # a second failure needs no report of its own


def vector_of(done: Done, model: LoadedModel) -> Vector:
    """The vector of an embedding's answer. Raises Failure DETECTOR_BROKEN when there is none."""
    if done.output.vector is None:
        raise Failure(Reason.DETECTOR_BROKEN, f"model “{model.name}” answered no vector")
    return done.output.vector
