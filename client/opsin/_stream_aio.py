"""A stream for asyncio: tasks around the state machine of `_session`.

One task feeds frames from the source, one sends, one waits for the server's messages, and the caller's own
takes in those and the replies that are made here, and opens the next connection when one ends. Sources that
block (files, cameras, plain iterators) and encoding run in one thread per stream.
"""

# ruff: noqa: ASYNC109 - a timeout here becomes the deadline on the wire, which the server obeys too

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc

from opsin._channel import Link, on_wire
from opsin._ending import Ending
from opsin._errors import OpsinError
from opsin._freshness import Freshness
from opsin._inputs import needs_work
from opsin._options import DetectOptions, StreamAsk
from opsin._replies import FrameReply, StreamStats
from opsin._results import ModelRef
from opsin._session import Finish, Session, TakenFrame
from opsin._sources import Frame, Pace, Source, as_frame, open_source, ready
from opsin._status import error_from_call
from opsin._stream import READ_AHEAD, STREAM_DETECT

__all__ = ["AsyncStreamSession"]

_NO_MORE = object()


class AsyncStreamSession:
    """A stream under way, for `async for`; see `opsin.StreamSession`. Close it when leaving early."""

    def __init__(self, link: Link, channel: Any, source: Any, ask: StreamAsk) -> None:
        self._source: Source = open_source(source, ask)
        self._link = link
        self._channel = channel
        self._ask = ask = replace(ask, codec=self._source.codec)
        self._end = None if ask.timeout is None else time.monotonic() + ask.timeout
        self._session = Session(
            ask, live=self._source.live, limit=link.max_message_bytes, now=time.monotonic()
        )
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "opsin-stream-source")
        self._own_channel: Any = None
        self._closed = False
        self._running: set[asyncio.Task[None]] = set()
        self._call: Any = None
        self._replies = self._all_replies()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FrameReply:
        return await anext(self._replies)

    @property
    def stats(self) -> StreamStats:
        """Figures about the stream, as they stand."""
        return self._session.stats(time.monotonic())

    @property
    def stream_id(self) -> str:
        """The stream's name: the caller's, or, after the first reply, the one that the server made."""
        return self._session.stream_id

    @property
    def model(self) -> ModelRef | None:
        """The model that looks at the frames; None before the first reply."""
        return self._session.model

    @property
    def fps(self) -> float | None:
        """The source's nominal frames a second; None where not known."""
        return self._source.fps

    @property
    def closed(self) -> bool:
        """Whether the stream is over."""
        return self._closed

    def update(self, options: DetectOptions | None = None, freshness: str | Freshness | None = None) -> None:
        """Change what to look for, or the freshness, from the next frame on. None: as it is."""
        self._session.update(options, None if freshness is None else Freshness.of(freshness))
        self._notify()

    async def close(self) -> None:
        """End the stream now; iteration stops. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        self._notify()
        if self._call is not None:
            self._call.cancel()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._own_channel is not None:
            await self._own_channel.close()
        if self._source.aclose is not None:
            with contextlib.suppress(Exception):  # nobody is there any more to hear of it
                await self._source.aclose()
        # By the thread that uses the source, behind whatever it is doing with it.
        self._thread.submit(self._source.close)
        self._thread.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Replies.

    async def _all_replies(self) -> AsyncGenerator[FrameReply, None]:
        self._start(self._feed())
        try:
            while not self._closed:
                failure: list[OpsinError] = []
                async for reply in self._connection(failure):
                    yield reply
                local = self._session.local_replies()
                decision = self._session.ended(next(iter(failure), None), time.monotonic())
                for reply in local:
                    yield reply
                if self._closed:
                    return
                if isinstance(decision, Finish):
                    for reply in self._session.lose_all():
                        yield reply
                    if decision.error is not None:
                        raise decision.error
                    return
                await self._pause(decision.delay)
        finally:
            await self.close()

    async def _connection(self, failure: list[OpsinError]) -> AsyncIterator[FrameReply]:
        """The replies of one connection; what ended it, if not OK, goes to `failure`."""
        timeout = None if self._end is None else on_wire(max(self._end - time.monotonic(), 0.001))
        call = self._call = await self._open(timeout)
        inbox: deque[bytes] = deque()
        sender, reader = self._start(self._send(call)), self._start(self._read(call, Ending(call), inbox))
        reader.add_done_callback(lambda _: self._notify())
        try:
            while not self._closed:
                replies = self._session.local_replies()
                if inbox:
                    replies += self._session.receive(inbox.popleft())
                elif not replies and reader.done():
                    reader.result()
                    return
                elif not replies:
                    await self._changes()
                    continue
                self._notify()  # there is room for more
                for reply in replies:
                    yield reply
        except grpc.aio.AioRpcError as error:
            failure.append(error_from_call(error, target=self._link.target, timeout=timeout))
        finally:
            sender.cancel()
            reader.cancel()
            call.cancel()

    async def _read(self, call: Any, ending: Ending, inbox: "deque[bytes]") -> None:
        """Wait for the messages of one connection. Raises what it ended with, unless that is OK."""
        try:
            async for data in call:
                inbox.append(data)
                self._notify()
                while len(inbox) >= READ_AHEAD:
                    await self._changes()
        except grpc.aio.AioRpcError as error:
            if (told := await ending.of(error)) is not None:
                raise told from None

    async def _open(self, timeout: float | None) -> Any:
        """A new call: on the client's channel at first, then each on a new connection of its own."""
        channel = self._channel
        if self._call is not None:
            if self._own_channel is not None:
                await self._own_channel.close()
            channel = self._own_channel = self._link.channel(grpc.aio, fresh=True)
        return channel.stream_stream(STREAM_DETECT)(timeout=timeout, metadata=self._link.call_metadata)

    # Frames.

    async def _send(self, call: Any) -> None:
        try:
            await call.write(self._session.opening())
            while not self._session.all_sent:
                message = self._session.next_message(time.monotonic())
                if message is None:
                    if self._session.has_local_reply:  # what waited was dropped
                        self._notify()
                    await self._changes()
                    continue
                self._notify()  # there is room for another frame
                await call.write(message)
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the call has ended, and its reader knows why

    async def _feed(self) -> None:
        error: Exception | None = None
        pace = Pace(self._ask, live=self._source.live, start=time.monotonic(), wall=time.time())
        try:
            while (item := await self._next_item()) is not _NO_MORE:
                frame = as_frame(item)
                await asyncio.sleep(max(pace.due(frame) - time.monotonic(), 0))
                taken = await self._ready(frame, pace.capture_time(frame, time.time()))
                self._session.offer(taken, time.monotonic())
                self._notify()
        except Exception as broken:  # the caller's own iterator may raise anything: it is the caller's to see
            error = broken
        self._session.end_source(error)
        self._notify()

    async def _next_item(self) -> Any:
        while not self._session.has_room():
            await self._changes()
        frames = self._source.frames
        if isinstance(frames, Iterator):
            return await self._in_thread(partial(next, frames, _NO_MORE))
        return await anext(frames, _NO_MORE)

    async def _ready(self, frame: Frame, capture_time: float | None) -> TakenFrame:
        work = partial(
            ready, frame, capture_time, limit=self._link.max_message_bytes, quality=self._ask.quality
        )
        return await self._in_thread(work) if needs_work(frame.input) else work()

    # Inside.

    async def _in_thread(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _pause(self, delay: float) -> None:
        """Wait, unless the stream is closed meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                while not self._closed:
                    await self._changes()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _changes(self) -> None:
        await self._changed.wait()

    def _start(self, work: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task
