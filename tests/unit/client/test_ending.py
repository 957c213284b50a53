"""A status that the server gave is what the caller hears, whatever grpc.aio puts in its place."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from opsin import _ending
from opsin._ending import MASK, Ending

NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "no such model", (("reason", "MODEL_NOT_FOUND"),))
MASKED = (grpc.StatusCode.INTERNAL, MASK, ())
FINE = (grpc.StatusCode.OK, "", ())


class Call:
    """A call of grpc.aio: statuses can be set over each other, and each setting is told."""

    def __init__(self) -> None:
        self._tell: Callable[[Any], None]
        self._status: tuple[Any, ...]

    def add_done_callback(self, tell: Callable[[Any], None]) -> None:
        self._tell = tell

    def end(self, status: tuple[Any, ...]) -> None:
        self._status = status
        self._tell(self)

    async def code(self) -> Any:
        return self._status[0]

    async def details(self) -> Any:
        return self._status[1]

    async def trailing_metadata(self) -> Any:
        return self._status[2]

    async def initial_metadata(self) -> Any:
        return ()


def raised(status: tuple[Any, ...]) -> grpc.aio.AioRpcError:
    code, details, trailers = status
    return grpc.aio.AioRpcError(code, (), trailers, details)  # type: ignore[arg-type]


async def told(*statuses: tuple[Any, ...]) -> grpc.aio.AioRpcError | None:
    """What a reader hears that met the mask, when these were set one after the other."""
    call = Call()
    ending = Ending(call)
    for status in statuses:
        call.end(status)
    return await ending.of(raised(MASKED))


@pytest.mark.parametrize("order", [(NOT_FOUND, MASKED), (MASKED, NOT_FOUND)], ids=["before", "after"])
async def test_the_servers_word_counts_whether_it_came_before_the_failed_write_or_after(order: Any) -> None:
    error = await told(*order)
    assert error is not None
    assert (error.code(), error.details(), error.trailing_metadata()) == NOT_FOUND


async def test_a_stream_that_ended_well_is_no_error() -> None:
    assert await told(FINE, MASKED) is None


async def test_a_word_that_is_still_on_its_way_is_waited_for() -> None:
    call = Call()
    ending = Ending(call)
    call.end(MASKED)
    asyncio.get_running_loop().call_later(0.01, call.end, NOT_FOUND)
    error = await ending.of(raised(MASKED))
    assert error is not None
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_word_that_never_comes_leaves_grpcs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ending, "PATIENCE", 0.01)
    error = await told(MASKED)
    assert error is not None
    assert error.code() is grpc.StatusCode.INTERNAL


async def test_any_other_error_is_passed_on_as_it_is() -> None:
    error = raised(NOT_FOUND)
    assert await Ending(Call()).of(error) is error
