"""The client for ordinary code. What a call says and means is in `_calls`; here it is only carried out."""

# ruff: noqa: A002 - `input` is what it is called in the contract

import time
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from opsin import _batches, _calls, _health
from opsin._batches import Batcher
from opsin._calls import Call
from opsin._channel import DEFAULT_MAX_MESSAGE_BYTES, Credentials, Link, Metadata, default_target, on_wire
from opsin._errors import ClientClosed, DeadlineExceeded, OpsinError, Unavailable
from opsin._inputs import Input
from opsin._models import Health, Model, ServerInfo
from opsin._options import DetectAsk, DetectKeywords, EmbedAsk, EmbedKeywords, StreamAsk, StreamKeywords
from opsin._results import DetectResult, EmbedResult
from opsin._status import error_from_call, request_id_of
from opsin._stream import StreamSession

__all__ = ["Client"]

T = TypeVar("T")


class Client:
    """A connection to an Opsin server. Threads may share it; `close` it, or use it as a context manager.

        with opsin.Client("localhost:50051") as client:
            for found in client.detect("street.jpg").detections:
                print(found.label, found.score, found.pixels)

    target: `host:port`, or any gRPC target; default: `OPSIN_TARGET` of the environment, else 127.0.0.1:50051.
    timeout: seconds a call may take, retries included, unless the call says otherwise; math.inf: no limit.
    tls: True: encrypted, by the system's roots; a path: by the roots in that PEM file; or grpc credentials.
    token: sent along as `authorization: Bearer ...`.
    metadata: sent along with every call.
    max_message_bytes: the largest request and answer; the server has a limit of its own (32 MiB by default).

    Connecting happens by itself with the first call. Calls are retried by gRPC while the server is
    unavailable or asks for patience. Every method raises `OpsinError`s, and nothing else.
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
        self._channel: grpc.Channel = self._link.channel(grpc)
        self._streams: weakref.WeakSet[StreamSession] = weakref.WeakSet()
        self._closed = False

    @property
    def target(self) -> str:
        """Where the server is."""
        return self._link.target

    def detect(
        self,
        input: Input,
        *,
        timeout: float | None = None,
        **options: Unpack[DetectKeywords],
    ) -> DetectResult:
        """Look at one picture or text (see `opsin.Input`).

        timeout: seconds; None: the client's. options: model ("": the server's default), priority
        ("interactive" or "bulk"), routing_key, and the fields of `opsin.DetectOptions`: min_score,
        max_detections, max_labels, iou_threshold, labels, regions, candidate_labels, embed_detections,
        embed_model, skip_cache, truncate_text.
        """
        ask = DetectAsk.of(**options)
        return self._run(_calls.detect(input, ask, self._limit), timeout)

    def detect_many(
        self, inputs: Iterable[Input], *, timeout: float | None = None, **options: Unpack[DetectKeywords]
    ) -> list[DetectResult | OpsinError]:
        """Look at many inputs: one outcome for each, in order; what fails is an error in its place.

        Inputs are read as their turn comes and travel up to 256 at a time. timeout: seconds for a call of
        up to 32 inputs, and as much again for each 32 more. Items refused for overload are sent again as
        the server asks, five times at most.
        """
        ask = DetectAsk.of(**options)
        return self._run_many(_batches.detect(inputs, ask, self._limit, timeout or self._link.timeout))

    def embed(
        self,
        input: Input,
        *,
        timeout: float | None = None,
        **options: Unpack[EmbedKeywords],
    ) -> EmbedResult:
        """Turn one picture or text into a vector. A plain string is a path here too: texts are `opsin.Text`.

        options: model ("": the server's default), normalize (True), dimensions (0: all), truncate_text,
        skip_cache, priority, routing_key.
        """
        ask = EmbedAsk(**options)
        return self._run(_calls.embed(input, ask, self._limit), timeout)

    def embed_many(
        self, inputs: Iterable[Input], *, timeout: float | None = None, **options: Unpack[EmbedKeywords]
    ) -> list[EmbedResult | OpsinError]:
        """Turn many inputs into vectors: one outcome for each, in order, as `detect_many`."""
        ask = EmbedAsk(**options)
        return self._run_many(_batches.embed(inputs, ask, self._limit, timeout or self._link.timeout))

    def stream(self, source: Any, **settings: Unpack[StreamKeywords]) -> StreamSession:
        """Look at live video: iterate over what comes back for one reply a frame, in order.

            with client.stream("clip.mp4", freshness="latest") as session:
                for reply in session:
                    if isinstance(reply, opsin.FrameResult):
                        print(reply.sequence, len(reply.result.detections))

        source: a video file, a URL (rtsp://, http://, ...) or the number of a camera, which take
            opsin[video]; a picture or a folder of pictures; or an iterable of inputs or `opsin.Frame`s.
        settings:
            model and the fields of `opsin.DetectOptions`, as for `detect`.
            freshness: "every_frame" (the default: none is dropped, the source waits), "latest", "max_age=0.5"
                (seconds), "target_fps=10", or an `opsin.Freshness`.
            track: number what is found, so that things keep their `track_id` from frame to frame.
            reuse_similar, reuse_threshold: answer frames that look like the last one with its answer,
                for so many seconds at most.
            stream_id: names the stream; a second one of the same name takes over.
            rate: "max" (as fast as answered), "realtime" (as the source's own clock says), or frames a
                second; None: realtime for live sources, else max.
            quality: JPEG quality, 1..100, at which pixels are sent; None: as they are.
            codec: "image" (the default): frames are decoded here, and sent as pictures. "h264", "hevc",
                "mjpeg": the video's packets are sent as they are, which costs this side next to nothing and
                the network a tenth; an iterable then gives `opsin.Packet`s. "auto": packets where possible.
            window: frames that may be unanswered at most; 0: as many as the server advises.
            reconnect: seconds to keep trying to go on after the connection broke; 0: give up at once.
            timeout: seconds the whole stream may take; None: no limit.
        """
        ask = StreamAsk.of(**settings)
        self._check_open()
        session = StreamSession(self._link, self._channel, source, ask)
        self._streams.add(session)
        return session

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """Every version of every model, by name and version."""
        return self._run(_calls.models(), timeout)

    def model(self, name: str = "", *, timeout: float | None = None) -> Model:
        """One version of a model: `name`, `name@3` or `name@canary`; "": the default for `detect`."""
        return self._run(_calls.model(name), timeout)

    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """What the server is, and how much it takes."""
        return self._run(_calls.server_info(), timeout)

    def load_model(
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
        """Load a version of a model.

        source: `builtin`, a folder on the server, or a hub id. version: 0: one more than there is.
        wait: answer when it is serving (timeout then defaults to 600 s), not while it loads.
        """
        call = _calls.load_model(
            name,
            source=source,
            version=version,
            detector=detector,
            settings=settings or {},
            labels=labels,
            wait=wait,
        )
        return self._run(call, timeout)

    def unload_model(self, name: str, *, version: int = 0, timeout: float | None = None) -> Model:
        """Take a version of a model away, once it has finished what it accepted. version: 0: the only one."""
        return self._run(_calls.unload_model(name, version), timeout)

    def set_traffic(
        self,
        name: str,
        targets: Mapping[int, int] | None = None,
        *,
        labels: Mapping[str, int] | None = None,
        shadow_version: int = 0,
        timeout: float | None = None,
    ) -> list[Model]:
        """Say which versions of a model get which calls.

        targets: version to weight; versions left out get 0; None: weights stay. labels: label to version, 0
        takes the label away. shadow_version: gets a copy of every call, its answers thrown away.
        """
        return self._run(_calls.set_traffic(name, targets or {}, labels or {}, shadow_version), timeout)

    def health(self, service: str = "", *, timeout: float | None = None) -> Health:
        """How the server is, or one of `liveness`, `readiness`, its services, or `model/NAME`."""
        return self._run(_calls.health(service), timeout)

    def watch_health(self, service: str = "") -> Iterator[Health]:
        """How the server is, now and whenever that changes, until the iterator is closed."""
        return self._watch(service, None)

    def wait_until_serving(self, service: str = "", *, timeout: float = 60.0) -> None:
        """Wait until the server answers and is SERVING. Raises DeadlineExceeded; timeout in seconds."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            with (
                suppress(Unavailable, DeadlineExceeded),  # a server that restarts; the time was up
                closing(self._watch(service, left)) as states,
            ):
                if any(state.ok for state in states):
                    return
            # A server that leaves ends the watch, and goes on ending each that is opened until it is gone.
            time.sleep(min(_health.LOOK_AGAIN, max(0.0, end - time.monotonic())))
        raise DeadlineExceeded(f"{self.target} was not serving within {timeout:g} s")

    def close(self) -> None:
        """End open streams and let go of the connection; closing twice does nothing."""
        self._closed = True
        for session in list(self._streams):
            session.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _limit(self) -> int:
        return self._link.max_message_bytes

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("this client was closed")

    def _run(self, call: Call[T], timeout: float | None = None) -> T:
        self._check_open()
        call.check(self._limit)
        seconds = self._link.deadline(timeout, call.timeout)
        try:
            reply, done = self._channel.unary_unary(call.path, None, None).with_call(
                call.request, timeout=seconds, metadata=self._link.call_metadata
            )
        except grpc.RpcError as failure:
            error = error_from_call(failure, target=self.target, timeout=seconds)
            if (answer := call.recover(error)) is not None:
                return answer
            raise error from None
        return call.answer(reply, request_id_of(done.trailing_metadata()))

    def _run_many(self, batcher: Batcher[T]) -> list[T | OpsinError]:
        while (call := batcher.next_call()) is not None:
            try:
                batcher.take(self._run(call))
            except ClientClosed:
                raise
            except OpsinError as error:
                batcher.take(error)
            time.sleep(batcher.delay)
        return batcher.results

    def _watch(self, service: str, timeout: float | None) -> Generator[Health, None, None]:
        self._check_open()
        call = self._channel.unary_stream(_health.WATCH, None, None)(
            _health.request(service),
            timeout=on_wire(timeout),
            metadata=self._link.call_metadata,
            wait_for_ready=timeout is not None,
        )
        try:
            for reply in call:
                yield _health.health(reply)
        except grpc.RpcError as failure:
            raise error_from_call(failure, target=self.target, timeout=timeout) from None
        finally:
            call.cancel()  # type: ignore[no-untyped-call]
