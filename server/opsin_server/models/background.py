"""Long work, such as loading weights, on a thread that nobody has to wait for.

`loop.run_in_executor` will not do: the interpreter joins an executor's threads when it exits, so a server
that is told to stop while it loads would live on until the load is done. These are daemon threads, and `busy`
tells whether one is still at work, so that the process can be ended without them. Knows nothing of models.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

__all__ = ["THREAD_NAME", "busy", "in_background"]

Result = TypeVar("Result")
Args = TypeVarTuple("Args")

THREAD_NAME = "opsin-background"


async def in_background(work: Callable[[*Args], Result], *args: *Args) -> Result:
    """`work(*args)` on a thread of its own; its result, or the exception that it raised.

    When the caller is cancelled the work runs on, and its outcome is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.done():  # the caller may have left
            outcome()

    def main() -> None:
        try:
            result = work(*args)
        except BaseException as caught:  # whatever ends the work ends it for the caller too
            error = caught if isinstance(caught, Exception) else RuntimeError(f"the work raised {caught!r}")
            tell(lambda: future.set_exception(error))
        else:
            tell(lambda: future.set_result(result))

    def tell(outcome: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=main, name=THREAD_NAME, daemon=True).start()
    return await future


def busy() -> bool:
    """Whether some work that was begun here, on any loop, has not ended."""
    return any(thread.name == THREAD_NAME for thread in threading.enumerate())
