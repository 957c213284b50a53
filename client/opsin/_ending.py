"""How a call of grpc.aio really ended.

When the other side ends a call while this one is about to write, the write fails, and grpc.aio puts
`INTERNAL: Internal error from Core` in the place of the status that the server gave (grpc/grpc#36066): the
model that was not found looks like a server that broke. `Ending` keeps the server's own word. Knows calls of
grpc.aio, and nothing of streams.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import grpc

__all__ = ["Ending"]

MASK = "Internal error from Core"
PATIENCE = 1.0
"""Seconds to wait for the server's word behind a write that failed: it is on its way, or never comes."""


class Ending:
    """The status of one call, from the moment that it has one. Made as soon as the call is."""

    def __init__(self, call: Any) -> None:
        self._status: grpc.aio.AioRpcError | None = None
        self._known = asyncio.Event()
        call.add_done_callback(self._note)

    async def of(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError | None:
        """What the call ended with, where reading from it raised `error`; None: it ended with OK."""
        if error.details() != MASK:
            return error
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._known.wait()
        if self._status is None:
            return error
        return None if self._status.code() is grpc.StatusCode.OK else self._status

    def _note(self, call: Any) -> None:
        """A status was set: the first one that is no mask counts, and what is set after it does not."""
        told = [
            _now(ask()) for ask in (call.code, call.initial_metadata, call.trailing_metadata, call.details)
        ]
        status = grpc.aio.AioRpcError(*told)
        if self._status is None and status.details() != MASK:
            self._status = status
            self._known.set()


def _now(answer: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for, as those of a call that is done."""
    try:
        answer.send(None)
    except StopIteration as done:
        return done.value
    answer.close()
    return None
