"""A stream for ordinary code: threads around the state machine of `_session`.

Four threads meet under one lock: a feeder takes frames from the source and encodes them, gRPC's own thread
asks for the next message to send, a reader waits for the server's messages, and the caller's thread takes in
those and the replies that are made here, and opens the next connection when one ends.
"""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import grpc

from opsin._channel import Link, on_wire
from opsin._errors import ClientClosed, InvalidInput, OpsinError
from opsin._freshness import Freshness
from opsin._options import DetectOptions, StreamAsk
from opsin._replies import FrameReply, StreamStats
from opsin._results import ModelRef
from opsin._session import Finish, Session
from opsin._sources import Pace, Source, as_frame, open_source, ready
from opsin._status import error_from_call

__all__ = ["STREAM_DETECT", "StreamSession"]

STREAM_DETECT = "/opsin.v1.InferenceService/StreamDetect"
READ_AHEAD = 2
"""Messages read and not yet taken in: a caller that stops leaves the others where they are."""
_READER_ENDS = 5.0
"""Seconds within which the reader of a call that was cancelled is gone."""


class StreamSession:
    """A stream under way: iterate over it for one reply a frame, in order.

    Replies are `FrameResult`, `FrameDropped` or `FrameFailed`. Iteration ends when the source ends and every
    frame has its reply, or raises an `OpsinError` (or what the source raised) once every frame has one.
    Leaving early, close it, or use it as a context manager.
    """

    def __init__(self, link: Link, channel: grpc.Channel, source: Any, ask: StreamAsk) -> None:
        self._driver = _Driver(link, channel, source, ask)
        # Neither this generator nor the driver's threads hold this object, so a stream that is forgotten is
        # collected, its generator closed, and everything let go of.
        self._replies = self._driver.replies()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> FrameReply:
        return next(self._replies)

    @property
    def stats(self) -> StreamStats:
        """Figures about the stream, as they stand; from any thread."""
        return self._driver.stats()

    @property
    def stream_id(self) -> str:
        """The stream's name: the caller's, or, after the first reply, the one that the server made."""
        return self._driver.session.stream_id

    @property
    def model(self) -> ModelRef | None:
        """The model that looks at the frames; None before the first reply."""
        return self._driver.session.model

    @property
    def fps(self) -> float | None:
        """The source's nominal frames a second; None where not known."""
        return self._driver.source.fps

    def update(self, options: DetectOptions | None = None, freshness: str | Freshness | None = None) -> None:
        """Change what to look for, or the freshness, from the next frame on. None: as it is."""
        self._driver.update(options, None if freshness is None else Freshness.of(freshness))

    def close(self) -> None:
        """End the stream now, from any thread; iteration stops. Closing twice does nothing."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Inbox:
    """What came on one connection. error: what broke it; ended: nothing more comes."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.error: Exception | None = None
        self.ended = False


class _Driver:
    """Carries out what the session decides."""

    def __init__(self, link: Link, channel: grpc.Channel, source: Any, ask: StreamAsk) -> None:
        self.source: Source = open_source(source, ask)
        if not isinstance(self.source.frames, Iterator):
            raise InvalidInput.at("source", "an async iterable takes opsin.AsyncClient")
        self._frames = self.source.frames
        self._link = link
        self._channel = channel
        self._ask = ask = replace(ask, codec=self.source.codec)
        self._end = None if ask.timeout is None else time.monotonic() + ask.timeout
        self.session = Session(ask, live=self.source.live, limit=link.max_message_bytes, now=time.monotonic())
        self._changed = threading.Condition()
        self._closed = False
        self._feeding = False
        self._connections = 0
        self._call: Any = None
        self._own_channel: Any = None
        self._reader: threading.Thread | None = None

    def replies(self) -> Iterator[FrameReply]:
        """All replies; opens connections as needed."""
        if self._closed:
            raise ClientClosed("this stream was closed")
        self._feeding = True
        threading.Thread(target=self._feed, name="opsin-stream-source", daemon=True).start()
        try:
            while not self._closed:
                error = yield from self._connection()
                with self._changed:
                    local = self.session.local_replies()
                    decision = self.session.ended(error, time.monotonic())
                yield from local
                if self._closed:
                    return
                if isinstance(decision, Finish):
                    yield from self._finish(decision)
                    return
                self._wait(decision.delay)
        finally:
            self.close()

    def stats(self) -> StreamStats:
        with self._changed:
            return self.session.stats(time.monotonic())

    def update(self, options: DetectOptions | None, freshness: Freshness | None) -> None:
        with self._changed:
            self.session.update(options, freshness)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            call, self._call = self._call, None
            channel, self._own_channel = self._own_channel, None
            self._changed.notify_all()
        if call is not None:
            call.cancel()
            self._join_reader()
        if channel is not None:
            channel.close()
        if not self._feeding:  # else the feeder closes it, which alone knows when it is done with it
            self.source.close()

    def _join_reader(self) -> None:
        """It ends with its call.

        If the end of the program stopped it while it holds the call's lock, the program would never end: gRPC
        takes that lock once more when it lets go of the call.
        """
        reader = self._reader
        if reader is not None and reader is not threading.current_thread():
            reader.join(_READER_ENDS)

    def _connection(self) -> Generator[FrameReply, None, OpsinError | None]:
        """The replies of one connection; returns the error that ended it, or None."""
        timeout = None if self._end is None else on_wire(max(self._end - time.monotonic(), 0.001))
        inbox = _Inbox()
        try:
            call = self._open(timeout)
            self._reader = threading.Thread(
                target=self._read, args=(call, inbox), name="opsin-stream-reader", daemon=True
            )
            self._reader.start()
            while (replies := self._take_in(inbox)) is not None:
                yield from replies
        except grpc.RpcError as failure:
            return error_from_call(failure, target=self._link.target, timeout=timeout)
        return None

    def _take_in(self, inbox: _Inbox) -> list[FrameReply] | None:
        """The next replies, the server's and those made here; None: the connection ended. Raises why."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or inbox.messages or inbox.ended or self.session.has_local_reply
            )
            if self._closed:
                return None
            replies = self.session.local_replies()
            if inbox.messages:
                replies += self.session.receive(inbox.messages.popleft())
            elif not replies:
                if inbox.error is not None:
                    raise inbox.error
                return None
            self._changed.notify_all()  # there is room for more
            return replies

    def _read(self, call: Any, inbox: _Inbox) -> None:
        """Wait for the messages of one connection, on a thread of its own."""
        try:
            for data in call:
                with self._changed:
                    inbox.messages.append(data)
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closed or len(inbox.messages) < READ_AHEAD)
        except Exception as error:
            inbox.error = error
        finally:
            with self._changed:
                inbox.ended = True
                self._changed.notify_all()

    def _open(self, timeout: float | None) -> Any:
        """A new call: on the client's channel at first, then each on a new connection of its own.

        The connection that broke, or whose server sends streams away, may still be the channel's favourite.
        """
        with self._changed:
            self._connections += 1
            number = self._connections
            if number > 1:
                self._renew_channel()
            channel = self._own_channel or self._channel
            self._call = channel.stream_stream(STREAM_DETECT, None, None)(
                self._messages(number), timeout=timeout, metadata=self._link.call_metadata
            )
            return self._call

    def _renew_channel(self) -> None:
        if self._own_channel is not None:
            self._own_channel.close()
        self._own_channel = self._link.channel(grpc, fresh=True)

    def _messages(self, number: int) -> Iterator[bytes]:
        """What gRPC's thread sends on connection `number`."""
        with self._changed:
            if self._closed or number != self._connections:
                return  # it failed before gRPC came to ask, and another one may be open
            opening = self.session.opening()
        yield opening  # not under the lock: the generator rests here
        while (message := self._next_message(number)) is not None:
            yield message

    def _next_message(self, number: int) -> bytes | None:
        with self._changed:
            while not self._closed and number == self._connections:
                if (message := self.session.next_message(time.monotonic())) is not None:
                    self._changed.notify_all()  # there is room for another frame
                    return message
                if self.session.has_local_reply:  # what waited was dropped
                    self._changed.notify_all()
                if self.session.all_sent:
                    return None
                self._changed.wait()
            return None

    def _feed(self) -> None:
        """Take frames from the source until it ends, or the stream does."""
        error: Exception | None = None
        pace = Pace(self._ask, live=self.source.live, start=time.monotonic(), wall=time.time())
        try:
            while self._has_room():
                frame = as_frame(next(self._frames))
                self._sleep_until(pace.due(frame))
                taken = ready(
                    frame,
                    pace.capture_time(frame, time.time()),
                    limit=self._link.max_message_bytes,
                    quality=self._ask.quality,
                )
                with self._changed:
                    self.session.offer(taken, time.monotonic())
                    self._changed.notify_all()
        except StopIteration:
            pass
        except Exception as broken:  # the caller's own iterator may raise anything: it is the caller's to see
            error = broken
        finally:
            try:
                self.source.close()
            except Exception as broken:
                error = error or broken
            with self._changed:
                self.session.end_source(error)
                self._changed.notify_all()

    def _has_room(self) -> bool:
        """Wait until another frame may be taken; False: the stream was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.session.has_room())
            return not self._closed

    def _sleep_until(self, due: float) -> None:
        with self._changed:
            while not self._closed and (left := due - time.monotonic()) > 0:
                self._changed.wait(left)

    def _wait(self, delay: float) -> None:
        self._sleep_until(time.monotonic() + delay)

    def _finish(self, decision: Finish) -> Iterator[FrameReply]:
        with self._changed:
            lost = self.session.lose_all()
        yield from lost
        if decision.error is not None:
            raise decision.error
