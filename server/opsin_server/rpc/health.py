"""grpc.health.v1.Health, telling the truth.

grpcio's own servicer says SERVING for "" before anything is loaded, and its open watches hold up a stop for
the whole grace period. Here a board (pure: no tasks, no sockets) holds what is true, and a thin servicer
tells it. The board's owner decides what is true; this module knows only how the names hang together.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListResponse

from opsin_server.errors import Failure, Reason
from opsin_server.rpc.edge import parse, request_id_of
from opsin_server.rpc.errors import code_of, message_of, trailers_of

__all__ = ["LIVENESS", "SERVICE", "SHARED", "HealthBoard", "HealthServicer"]

SERVICE: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
LIVENESS = "liveness"
SHARED = ("", "readiness", "opsin.v1.InferenceService", "opsin.v1.ModelService")
"""Names that tell whether the server as a whole should get work."""
MAX_WATCHERS = 1024

Context = grpc.aio.ServicerContext[Any, Any]
_SERVING: int = HealthCheckResponse.SERVING
_NOT_SERVING: int = HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = HealthCheckResponse.SERVICE_UNKNOWN


class HealthBoard:
    """What is SERVING. Everything but `liveness` is NOT_SERVING until somebody says otherwise.

    The shared names are SERVING while every expected model is, from the moment that `expect` was called until
    `drain`. Watchers are called back on every change of the name that they watch, and once more on `close`.
    """

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {LIVENESS: True, **dict.fromkeys(SHARED, False)}
        self._expected: frozenset[str] | None = None
        self._draining = False
        self._watchers: dict[str, set[Callable[[], None]]] = {}
        self.closed = False

    def expect(self, models: Iterable[str]) -> None:
        """The models that the server was told to serve; the shared names wait for all of them."""
        self._expected = frozenset(models)
        for model in self._expected:
            self._serving.setdefault(f"model/{model}", False)
        self._update_shared()

    def set_model(self, model: str, serving: bool) -> None:
        """A model began to serve, or stopped."""
        self.set(f"model/{model}", serving)
        self._update_shared()

    def remove_model(self, model: str) -> None:
        """A model was taken away on purpose: its name is unknown from now on, and nothing waits for it."""
        if self._expected is not None:
            self._expected -= {model}
        if self._serving.pop(f"model/{model}", None) is not None:
            self._notify(f"model/{model}")
        self._update_shared()

    def drain(self) -> None:
        """The server leaves: everything but `liveness` is NOT_SERVING, whatever becomes of the models."""
        self._draining = True
        for name in list(self._serving):
            if name != LIVENESS:
                self.set(name, False)

    def set(self, name: str, serving: bool) -> None:
        """Say it of one name. While draining only `liveness` can be SERVING."""
        serving = serving and (name == LIVENESS or not self._draining)
        if self._serving.get(name) is not serving:
            self._serving[name] = serving
            self._notify(name)

    def close(self) -> None:
        """End all watches, so that the server can stop."""
        self.closed = True
        for name in list(self._watchers):
            self._notify(name)

    def status(self, name: str) -> int:
        """SERVING, NOT_SERVING or SERVICE_UNKNOWN."""
        match self._serving.get(name):
            case None:
                return _UNKNOWN
            case True:
                return _SERVING
            case _:
                return _NOT_SERVING

    def names(self) -> tuple[str, ...]:
        """Every name that has a status."""
        return tuple(self._serving)

    @property
    def watchers(self) -> int:
        """How many watches are open."""
        return sum(map(len, self._watchers.values()))

    def watch(self, name: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` whenever `name` changes. Returns what ends the watch."""
        watchers = self._watchers.setdefault(name, set())
        watchers.add(changed)

        def end() -> None:
            watchers.discard(changed)
            if not watchers:
                self._watchers.pop(name, None)

        return end

    def _update_shared(self) -> None:
        ready = self._expected is not None and all(self._serving[f"model/{m}"] for m in self._expected)
        for name in SHARED:
            self.set(name, ready)

    def _notify(self, name: str) -> None:
        for changed in tuple(self._watchers.get(name, ())):
            changed()


class HealthServicer:
    """Check, List and Watch over a board. Handlers take raw bytes, as all of ours do."""

    def __init__(self, board: HealthBoard) -> None:
        self._board = board

    def handlers(self) -> "dict[str, grpc.RpcMethodHandler[Any, Any]]":
        """Method handlers by method name."""
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self.check),
            "List": grpc.unary_unary_rpc_method_handler(self.list),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
        }

    async def check(self, data: bytes, context: Context) -> bytes:
        """How one name stands. NOT_FOUND for a name that nobody knows."""
        name = await _service(data, context)
        status = self._board.status(name)
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no service of that name.")
        return _bytes(HealthCheckResponse(status=status))

    async def list(self, data: bytes, context: Context) -> bytes:
        """How every name stands."""
        del data, context
        reply = HealthListResponse()
        for name in self._board.names():
            reply.statuses[name].status = self._board.status(name)
        return _bytes(reply)

    async def watch(self, data: bytes, context: Context) -> AsyncIterator[bytes]:
        """How a name stands now, and after each change, until the client or the server leaves.

        A watcher that reads slowly gets the latest status, not every one in between.
        """
        name = await _service(data, context)
        if self._board.watchers >= MAX_WATCHERS:
            limit = {"limit": str(MAX_WATCHERS)}
            message = f"As many watches are open as there may be: {MAX_WATCHERS}."
            await _refuse(Failure(Reason.STREAM_LIMIT, message, metadata=limit), context)
        changed = asyncio.Event()
        end = self._board.watch(name, changed.set)
        told: int | None = None
        try:
            while not self._board.closed:
                changed.clear()
                status = self._board.status(name)
                if status != told:
                    told = status
                    yield _bytes(HealthCheckResponse(status=status))
                    continue
                await changed.wait()
        finally:
            end()


async def _service(data: bytes, context: Context) -> str:
    try:
        return str(parse(HealthCheckRequest, data).service)
    except Failure as failure:
        await _refuse(failure, context)


async def _refuse(failure: Failure, context: Context) -> NoReturn:
    await context.abort(code_of(failure), message_of(failure), trailers_of(failure, request_id_of(context)))
    raise AssertionError("abort always raises")


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()
