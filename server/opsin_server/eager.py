"""Coroutines that begin at once, and become a task only if they have to wait.

A task costs a turn of the event loop before it begins, more than many a coroutine takes to its end. From
Python 3.12 on asyncio can begin tasks at once by itself; this is what of it 3.11 can do, too. Knows nothing
of what the coroutines do.
"""

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

__all__ = ["begin"]


def begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Run `work` here and now, up to its first wait; the task that carries on there, None where none has to.

    Raises what `work` raises before it waits. Until then it belongs to no task, so that it may not open a
    timeout or a task group, which would be those of whoever called this; and asyncio says so if it does. It
    runs in the caller's context until then: a context variable that it sets is set for the caller, too.
    """
    loop = asyncio.get_running_loop()
    current = asyncio.current_task(loop)
    if current is not None:
        asyncio.tasks._leave_task(loop, current)
    try:
        waited = work.send(None)
    except StopIteration:
        return None
    finally:
        if current is not None:
            asyncio.tasks._enter_task(loop, current)
    rest = _rest(work, waited)
    rest.send(None)
    return loop.create_task(rest)


async def _rest(work: Coroutine[Any, Any, None], waited: object) -> None:
    """What is left of `work`, which waits for `waited`. Stops once before that: a task that is cancelled
    before its first turn would never let `work` hear of it.
    """
    await _carry_on(work, waited)


@types.coroutine
def _carry_on(work: Coroutine[Any, Any, None], waited: object) -> Generator[object, Any, None]:
    """Pass on what is sent and thrown to `work`, and what it waits for to its task."""
    value: object = None
    error: BaseException | None = None
    try:
        yield None
    except asyncio.CancelledError as cancelled:
        # A task that is cancelled cancels what it waits for, if that can be, and hears of it from there.
        if not (isinstance(waited, asyncio.Future) and waited.cancel()):
            error = cancelled
    while True:
        try:
            if error is None:
                value = yield waited
        except BaseException as thrown:
            error = thrown
        try:
            waited = work.send(value) if error is None else work.throw(error)
        except StopIteration:
            return
        finally:
            value, error = None, None  # kept, it would keep this frame, and so itself, from going
