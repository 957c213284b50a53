"""Telling what holds the event loop for too long: a debug mode, off by default.

Everything that runs on the loop is a callback that somebody scheduled: a step of a task, a future's callback,
a timer, a socket that can be read. In this mode each is timed, and one that takes longer than the limit is
logged with its name, with the processor time of it (the rest was spent waiting for a core, or for the
interpreter) and, of a task, with the coroutine that it waits in since. Python's own debug mode times
callbacks too, but keeps a traceback for every task, which costs more than most of what is to be found.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

__all__ = ["LoopWatch", "name_of", "waits_in", "watching"]

log = structlog.get_logger(__name__)

_SCHEDULING = {
    "call_soon": 0,
    "call_soon_threadsafe": 0,
    "call_later": 1,
    "call_at": 1,
    "add_reader": 1,
    "add_writer": 1,
}
"""Methods of a loop that take a callback, and the place where they take it."""


class LoopWatch:
    """Times callbacks.

    limit: seconds. report: called with the callback, its seconds and the processor's when it took more.
    """

    def __init__(
        self,
        limit: float,
        report: Callable[[Callable[..., Any], float, float], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        processor: Callable[[], float] = time.thread_time,
    ) -> None:
        self._limit = limit
        self._report = report or _log
        self._clock = clock
        self._processor = processor

    def timed(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """The callback, watched. Once: a loop's methods call each other."""
        return callback if isinstance(callback, _Timed) else _Timed(self, callback)

    def run(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call it, and tell if that took long."""
        begun, worked = self._clock(), self._processor()
        try:
            return callback(*args)
        finally:
            seconds = self._clock() - begun
            if seconds > self._limit:
                self._report(callback, seconds, self._processor() - worked)


class _Timed:
    __slots__ = ("_callback", "_watch")

    def __init__(self, watch: LoopWatch, callback: Callable[..., Any]) -> None:
        self._watch = watch
        self._callback = callback

    def __call__(self, *args: Any) -> Any:
        return self._watch.run(self._callback, args)


def watching(
    factory: Callable[[], asyncio.AbstractEventLoop] | None, watch: LoopWatch
) -> Callable[[], asyncio.AbstractEventLoop]:
    """A factory of the same kind of loop, on which every callback is watched."""
    make = factory or asyncio.new_event_loop

    def new_loop() -> asyncio.AbstractEventLoop:
        plain = make()
        kind = type(plain)
        plain.close()
        methods = {name: _watched(getattr(kind, name), place, watch) for name, place in _SCHEDULING.items()}
        watched: asyncio.AbstractEventLoop = type(f"Watched{kind.__name__}", (kind,), methods)()
        return watched

    return new_loop


def _watched(method: Callable[..., Any], place: int, watch: LoopWatch) -> Callable[..., Any]:
    def schedule(self: Any, *args: Any, **context: Any) -> Any:
        callback = args[place]
        return method(self, *args[:place], watch.timed(callback), *args[place + 1 :], **context)

    return schedule


def name_of(callback: Callable[..., Any]) -> str:
    """What a person calls it: the coroutine of a task's step, else the function."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return getattr(owner.get_coro(), "__qualname__", owner.get_name())
    inner = getattr(callback, "func", callback)
    return str(getattr(inner, "__qualname__", repr(inner)))


def waits_in(callback: Callable[..., Any]) -> str:
    """Where the task whose step this was waits now: it came there last. Empty for what waits nowhere.

    Tasks of gRPC are all called alike; this tells them apart.
    """
    owner = getattr(callback, "__self__", None)
    if not isinstance(owner, asyncio.Task):
        return ""
    inner, waits = "", getattr(owner.get_coro(), "cr_await", None)
    while waits is not None:
        inner = getattr(waits, "__qualname__", inner)
        waits = getattr(waits, "cr_await", None)
    return inner


def _log(callback: Callable[..., Any], seconds: float, busy: float) -> None:
    log.warning(
        "event_loop_held",
        by=name_of(callback),
        ms=round(seconds * 1e3, 2),
        processor_ms=round(busy * 1e3, 2),
        waits_in=waits_in(callback),
    )
