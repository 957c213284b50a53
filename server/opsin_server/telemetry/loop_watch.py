"""Telling what holds the event loop for too long: a debug mode, off by default.

Everything that runs on the loop is a callback that somebody scheduled: a step of a task, a future's callback,
a timer, a socket that can be read. In this mode each is timed, and one that takes longer than the limit is
logged with its name. Python's own debug mode times callbacks too, but keeps a traceback for every task, which
costs more than most of what is to be found.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

__all__ = ["LoopWatch", "name_of", "watching"]

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
    """Times callbacks. limit: seconds. report: called with the callback and its seconds when it took more."""

    def __init__(
        self,
        limit: float,
        report: Callable[[Callable[..., Any], float], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._limit = limit
        self._report = report or _log
        self._clock = clock

    def timed(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """The callback, watched. Once: a loop's methods call each other."""
        return callback if isinstance(callback, _Timed) else _Timed(self, callback)

    def run(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call it, and tell if that took long."""
        begun = self._clock()
        try:
            return callback(*args)
        finally:
            seconds = self._clock() - begun
            if seconds > self._limit:
                self._report(callback, seconds)


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


def _log(callback: Callable[..., Any], seconds: float) -> None:
    log.warning("event_loop_held", by=name_of(callback), ms=round(seconds * 1e3, 2))
