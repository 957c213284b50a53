"""The client for asyncio. What a call says and means is in `_calls`; here it is only carried out."""

# ruff: noqa: A002, ASYNC109 - a timeout here becomes the deadline on the wire, which the server obeys too

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import grpc.aio

from opsin import _batches, _calls, _health
from opsin._batches import Batcher
from opsin._calls import Call
from opsin._channel import DEFAULT_MAX_MESSAGE_BYTES, Credentials, Link, Metadata, default_target, on_wire
from opsin._errors import ClientClosed, DeadlineExceeded, OpsinError, Unavailable
from opsin._inputs import Input, needs_work
from opsin._models import Health, Model, ServerInfo
from opsin._options import DetectAsk, DetectKeywords, EmbedAsk, EmbedKeywords, StreamAsk, StreamKeywords
from opsin._results import DetectResult, EmbedResult
from opsin._status import error_from_call, request_id_of
from opsin._stream_aio import AsyncStreamSession

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """`opsin.Client` for asyncio: the same arguments and methods, awaited. For one event loop.

        async with opsin.AsyncClient("localhost:50051") as client:
            results = await asyncio.gather(*(client.detect(path) for path in paths))

    Files are read and pixels encoded in threads, so that the event loop goes on meanwhile. The connection
    is made with the first call, in the loop that makes it.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        timeout: float = 30.0,
        tls: Credentials = False,
        token: str | None = None,
        metadata: Metadata = (),
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        user_agent: str = "",
    ) -> None:
        self._link = Link(
            target or default_target(), timeout, tls, token, tuple(metadata), max_message_bytes, user_agent
        )
        self._made_channel: Any = None
        self._streams: set[AsyncStreamSession] = set()
        self._closed = False

    @property
    def target(self) -> str:
        """Where the server is."""
        return self._link.target

    async def detect(
        self,
        input: Input,
        *,
        timeout: float | None = None,
        **options: Unpack[DetectKeywords],
    ) -> DetectResult:
        """Look at one picture or text. See `Client.detect`."""
        ask = DetectAsk.of(**options)
        return await self._run(await _build(_calls.detect, input, ask, self._limit), timeout)

    async def detect_many(
        self,
        inputs: Iterable[Input],
        *,
        timeout: float | None = None,
        **options: Unpack[DetectKeywords],
    ) -> list[DetectResult | OpsinError]:
        """Look at many inputs: one outcome for each, in order. See `Client.detect_many`."""
        ask = DetectAsk.of(**options)
        return await self._run_many(_batches.detect(inputs, ask, self._limit, timeout or self._link.timeout))

    async def embed(
        self,
        input: Input,
        *,
        timeout: float | None = None,
        **options: Unpack[EmbedKeywords],
    ) -> EmbedResult:
        """Turn one picture or text into a vector. See `Client.embed`."""
        ask = EmbedAsk(**options)
        return await self._run(await _build(_calls.embed, input, ask, self._limit), timeout)

    async def embed_many(
        self,
        inputs: Iterable[Input],
        *,
        timeout: float | None = None,
        **options: Unpack[EmbedKeywords],
    ) -> list[EmbedResult | OpsinError]:
        """Turn many inputs into vectors: one outcome for each, in order. See `Client.detect_many`."""
        ask = EmbedAsk(**options)
        return await self._run_many(_batches.embed(inputs, ask, self._limit, timeout or self._link.timeout))

    def stream(self, source: Any, **settings: Unpack[StreamKeywords]) -> AsyncStreamSession:
        """Look at live video: `async for reply in client.stream(source)`. Not awaited itself.

        See `Client.stream`; source may also be an async iterable.
        """
        self._check_open()
        session = AsyncStreamSession(self._link, self._channel, source, StreamAsk.of(**settings))
        self._streams = {stream for stream in self._streams if not stream.closed} | {session}
        return session

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """Every version of every model, by name and version."""
        return await self._run(_calls.models(), timeout)

    async def model(self, name: str = "", *, timeout: float | None = None) -> Model:
        """One version of a model. See `Client.model`."""
        return await self._run(_calls.model(name), timeout)

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """What the server is, and how much it takes."""
        return await self._run(_calls.server_info(), timeout)

    async def load_model(
        self,
        name: str,
        *,
        source: str = "",
        version: int = 0,
        detector: str = "",
        settings: Mapping[str, object] | None = None,
        labels: Sequence[str] = (),
        wait: bool = True,
        timeout: float | None = None,
    ) -> Model:
        """Load a version of a model. See `Client.load_model`."""
        call = _calls.load_model(
            name,
            source=source,
            version=version,
            detector=detector,
            settings=settings or {},
            labels=labels,
            wait=wait,
        )
        return await self._run(call, timeout)

    async def unload_model(
        self,
        name: str,
        *,
        version: int = 0,
        timeout: float | None = None,
    ) -> Model:
        """Take a version of a model away. See `Client.unload_model`."""
        return await self._run(_calls.unload_model(name, version), timeout)

    async def set_traffic(
        self,
        name: str,
        targets: Mapping[int, int] | None = None,
        *,
        labels: Mapping[str, int] | None = None,
        shadow_version: int = 0,
        timeout: float | None = None,
    ) -> list[Model]:
        """Say which versions of a model get which calls. See `Client.set_traffic`."""
        call = _calls.set_traffic(name, targets or {}, labels or {}, shadow_version)
        return await self._run(call, timeout)

    async def health(self, service: str = "", *, timeout: float | None = None) -> Health:
        """How the server is, or one of its services or models. See `Client.health`."""
        return await self._run(_calls.health(service), timeout)

    def watch_health(self, service: str = "") -> AsyncIterator[Health]:
        """How the server is, now and whenever that changes: `async for`, until closed."""
        return self._watch(service, None)

    async def wait_until_serving(self, service: str = "", *, timeout: float = 60.0) -> None:
        """Wait until the server answers and is SERVING. Raises DeadlineExceeded; timeout in seconds."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            with suppress(Unavailable, DeadlineExceeded):  # a server that restarts; the time was up
                async with aclosing(self._watch(service, left)) as states:
                    async for state in states:
                        if state.ok:
                            return
            # A server that leaves ends the watch, and goes on ending each that is opened until it is gone.
            await asyncio.sleep(min(_health.LOOK_AGAIN, max(0.0, end - time.monotonic())))
        raise DeadlineExceeded(f"{self.target} was not serving within {timeout:g} s")

    async def close(self) -> None:
        """End open streams and let go of the connection; closing twice does nothing."""
        self._closed = True
        for session in self._streams:
            await session.close()
        if self._made_channel is not None:
            await self._made_channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _limit(self) -> int:
        return self._link.max_message_bytes

    @property
    def _channel(self) -> Any:
        # Not made in __init__: a channel belongs to the loop that it was made in.
        if self._made_channel is None:
            self._made_channel = self._link.channel(grpc.aio)
        return self._made_channel

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("this client was closed")

    async def _run(self, call: Call[T], timeout: float | None = None) -> T:
        self._check_open()
        call.check(self._limit)
        seconds = self._link.deadline(timeout, call.timeout)
        under_way = self._channel.unary_unary(call.path, None, None)(
            call.request, timeout=seconds, metadata=self._link.call_metadata
        )
        try:
            reply = await under_way
            return call.answer(reply, request_id_of(await under_way.trailing_metadata()))
        except grpc.aio.AioRpcError as failure:
            error = error_from_call(failure, target=self.target, timeout=seconds)
            if (answer := call.recover(error)) is not None:
                return answer
            raise error from None

    async def _run_many(self, batcher: Batcher[T]) -> list[T | OpsinError]:
        while (call := await asyncio.to_thread(batcher.next_call)) is not None:
            try:
                outcomes = await self._run(call)
                batcher.take(outcomes)
            except ClientClosed:
                raise
            except OpsinError as error:
                batcher.take(error)
            await asyncio.sleep(batcher.delay)
        return batcher.results

    async def _watch(self, service: str, timeout: float | None) -> AsyncGenerator[Health, None]:
        self._check_open()
        call = self._channel.unary_stream(_health.WATCH, None, None)(
            _health.request(service),
            timeout=on_wire(timeout),
            metadata=self._link.call_metadata,
            wait_for_ready=timeout is not None,
        )
        try:
            async for reply in call:
                yield _health.health(reply)
        except grpc.aio.AioRpcError as failure:
            raise error_from_call(failure, target=self.target, timeout=timeout) from None
        finally:
            call.cancel()


async def _build(make: Callable[[Any, Any, int], Call[T]], source: Any, ask: Any, limit: int) -> Call[T]:
    if needs_work(source):
        return await asyncio.to_thread(make, source, ask, limit)
    return make(source, ask, limit)
