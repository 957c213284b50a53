"""The wrapper around every handler of ours: parse, name, time, count, log, and end the call properly.

Handlers are registered for raw bytes and parsed here, because grpcio answers bytes that are no message with
UNKNOWN and the parser's own words. What a behaviour raises becomes one status by the table in `errors.py`.
Nothing is sent before a behaviour sends it, so a refusal is trailers-only, which is what gRPC and Envoy can
retry. Knows nothing of what the calls mean.
"""

import asyncio
import contextlib
import itertools
import math
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from opsin_server.calls import Caller
from opsin_server.config import LimitSettings
from opsin_server.errors import Failure, Reason
from opsin_server.rpc.density import MOST_FIELDS, crowded, most_fields
from opsin_server.rpc.errors import REQUEST_ID_TRAILER, as_failure, code_of, message_of, trailers_of
from opsin_server.rpc.lift import lift
from opsin_server.telemetry.logs import bind_request
from opsin_server.telemetry.metrics import MethodMetrics, Metrics

__all__ = ["CallContext", "Edge", "parse", "request_id_of"]

Request = TypeVar("Request", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
Send = Callable[[Message], Awaitable[None]]

QUIET = 0.1
"""Seconds. Whoever got the last answer may send the next call at once; after these nobody is about to."""

_END: Any = getattr(grpc.aio, "EOF")  # noqa: B009  which its type stubs have forgotten
_REQUEST_ID_HEADER = "x-request-id"
_OURS, _NUMBERS = secrets.token_hex(4), itertools.count()
"""Chance tells servers apart, and a number their calls: chance for each would cost a call of the system."""
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_log = structlog.get_logger("opsin.rpc")


@dataclass(frozen=True, slots=True)
class CallContext:
    """What is known of a call before its request is read.

    peer: the connection, `ipv4:127.0.0.1:51234`.
    arrived, deadline: seconds on the monotonic clock.
    """

    method: str
    request_id: str
    peer: str
    arrived: float
    deadline: float = math.inf

    def caller(self) -> Caller:
        """The caller as the pipeline knows it. Without identities the connection is the flow."""
        return Caller(flow=self.peer, deadline=self.deadline, request_id=self.request_id)


class Edge:
    """Makes gRPC handlers out of behaviours: functions from a parsed request to a message."""

    def __init__(
        self,
        metrics: Metrics,
        limits: LimitSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = metrics
        self.clock = clock
        self._limits = limits or LimitSettings()
        self._draining = False
        self._open_calls = 0
        self._last_end = -math.inf

    def drain(self) -> None:
        """Refuse every call that comes from now on with DRAINING; those that came before are not touched."""
        self._draining = True

    async def wait_quiet(self, within: float) -> None:
        """Return once no call is open and none has ended for QUIET seconds, or after `within` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while True:
                    left = self._quiet_in()
                    if left <= 0:
                        return
                    await asyncio.sleep(left)

    def _quiet_in(self) -> float:
        return QUIET if self._open_calls else self._last_end + QUIET - self.clock()

    def unary(
        self,
        method: str,
        kind: type[Request],
        behaviour: Callable[[Request, CallContext], Awaitable[Message]],
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """A handler for one request and one response."""
        counters = self.metrics.method(method)
        most = self._most_fields(kind)

        async def handle(data: bytes, context: Context) -> bytes:
            call = self._open(method, context, counters)
            try:
                self._let_in()
                data, pixels = lift(kind, data)  # kept until the reply
                reply = await behaviour(parse(kind, data, most), call)
                del pixels
                response = reply.SerializeToString()
            except BaseException as error:
                await self._fail(error, call, context, counters)
            self._done(call, context, counters)
            return response

        return grpc.unary_unary_rpc_method_handler(handle)

    def stream(
        self,
        method: str,
        kind: type[Request],
        behaviour: Callable[[AsyncIterator[Request], Send, CallContext], Awaitable[None]],
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """A handler that reads and writes as it likes; sending waits while the client reads no further."""
        counters = self.metrics.method(method)
        most = self._most_fields(kind)

        async def handle(_: AsyncIterator[bytes], context: Context) -> None:
            call = self._open(method, context, counters)

            async def send(message: Message) -> None:
                await context.write(message.SerializeToString())

            try:
                self._let_in()
                await behaviour(_parsed(kind, context, most), send, call)
            except BaseException as error:
                await self._fail(error, call, context, counters, timed=False)
            self._done(call, context, counters, timed=False)

        return grpc.stream_stream_rpc_method_handler(handle)

    def _most_fields(self, kind: type[Message]) -> int:
        return most_fields(kind, self._limits.max_labels, self._limits.max_regions)

    def _open(self, method: str, context: Context, counters: MethodMetrics) -> CallContext:
        now = self.clock()
        left = context.time_remaining()
        request_id = request_id_of(context)
        counters.started()
        self._open_calls += 1
        bind_request(request_id)
        deadline = math.inf if left is None else now + left
        return CallContext(method, request_id, context.peer(), now, deadline)

    def _let_in(self) -> None:
        if self._draining:
            raise Failure(Reason.DRAINING, "This server is shutting down.", retry_after=1.0)

    def _closed(self, counters: MethodMetrics, code: str, reason: str, seconds: float | None) -> None:
        counters.ended(code, reason, seconds)
        self._open_calls -= 1
        self._last_end = self.clock()

    def _done(
        self, call: CallContext, context: Context, counters: MethodMetrics, *, timed: bool = True
    ) -> None:
        seconds = self.clock() - call.arrived
        self._closed(counters, "OK", "", seconds if timed else None)
        context.set_trailing_metadata(((REQUEST_ID_TRAILER, call.request_id),))
        _log.debug("call", method=call.method, code="OK", seconds=round(seconds, 6), peer=call.peer)

    async def _fail(
        self,
        error: BaseException,
        call: CallContext,
        context: Context,
        counters: MethodMetrics,
        *,
        timed: bool = True,
    ) -> NoReturn:
        seconds = self.clock() - call.arrived
        if not isinstance(error, Exception) and _is_gone(error):
            self._closed(counters, "CANCELLED", "", seconds if timed else None)
            _log.debug(
                "call", method=call.method, code="CANCELLED", seconds=round(seconds, 6), peer=call.peer
            )
            raise error
        failure = as_failure(error)
        code = code_of(failure)
        self._closed(counters, code.name, failure.reason.value, seconds if timed else None)
        self.metrics.failed(failure.reason.value)
        _log.info(
            "call",
            method=call.method,
            code=code.name,
            reason=failure.reason.value,
            message=failure.message,
            seconds=round(seconds, 6),
            peer=call.peer,
        )
        await context.abort(code, message_of(failure), trailers_of(failure, call.request_id))
        raise AssertionError("abort always raises")


def parse(kind: type[Request], data: bytes, most: int = MOST_FIELDS) -> Request:
    """The message in `data`, which may have `most` fields.

    Raises `Failure` MALFORMED_REQUEST, without the parser's words.
    """
    if crowded(kind, data, most):
        raise Failure(Reason.MALFORMED_REQUEST, f"The message has more than {most} fields.")
    try:
        return kind.FromString(data)
    except DecodeError:
        message = f"The bytes received are not a message of type {kind.DESCRIPTOR.full_name}."
        raise Failure(Reason.MALFORMED_REQUEST, message) from None


async def _parsed(kind: type[Request], context: Context, most: int) -> AsyncIterator[Request]:
    """The messages of a stream; gRPC's own iterator over them is one generator more to go through."""
    while (data := await context.read()) is not _END:
        data, pixels = lift(kind, data)
        yield parse(kind, data, most)
        del pixels


def _is_gone(error: BaseException) -> bool:
    """Whether the call itself was cancelled: the client left, the deadline passed, or the server stops.

    A CancelledError that leaks out of the work while the client still waits would leave it hanging for ever,
    so that one is told as an error.
    """
    if not isinstance(error, asyncio.CancelledError):
        return True
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def request_id_of(context: Context) -> str:
    """The client's own id when it is fit for logs and headers, else one that no other call has."""
    for key, value in context.invocation_metadata() or ():
        if key == _REQUEST_ID_HEADER and isinstance(value, str) and _SANE_ID.fullmatch(value):
            return value
    return f"{_OURS}{next(_NUMBERS) & 0xFFFFFFFF:08x}"
