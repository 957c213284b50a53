"""StreamDetect: lets streams in, one for each name, and sends them away again.

Owns the list of live streams: how many there are, which has which name, how large a window each may have, and
when each has to go. What happens inside a stream is `live_stream.py`'s.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from google.protobuf.message import Message

from opsin.v1.stream_pb2 import StreamConfig, StreamDetectRequest
from opsin_server.calls import Caller
from opsin_server.config import LimitSettings, StreamSettings
from opsin_server.errors import Failure, Reason
from opsin_server.media.budget import PixelBudget
from opsin_server.media.pool import CpuPool
from opsin_server.rpc.edge import CallContext
from opsin_server.rpc.live_stream import LiveStream, StreamRooms, give_turns
from opsin_server.rpc.seam import Catalog, Pipeline
from opsin_server.rpc.stream_config import StreamTerms, reachable, terms
from opsin_server.scheduling.ticket import Priority
from opsin_server.streams.events import GoAwayReason
from opsin_server.streams.tokens import TokenSigner
from opsin_server.streams.turns import Turns, room_for
from opsin_server.streams.window import Backlog, Load, next_window
from opsin_server.telemetry.metrics import Metrics

__all__ = ["StreamService"]

Send = Callable[[Message], Awaitable[None]]
Requests = AsyncIterator[StreamDetectRequest]

LOOK = 0.2
"""Seconds between two looks at how much waits, while there are streams."""
JITTER = 0.1
"""Part of its longest duration by which a stream ends earlier or later: not all shall begin again at once."""


class StreamService:
    """StreamDetect as a behaviour for `Edge`."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        catalog: Catalog,
        limits: LimitSettings,
        settings: StreamSettings,
        metrics: Metrics,
        pool: CpuPool,
        budget: PixelBudget,
    ) -> None:
        signer = TokenSigner(settings.secret.get_secret_value().encode("utf-8", "surrogateescape"))
        self._rooms = StreamRooms(pipeline, pool, budget, signer, limits, metrics)
        self._catalog = catalog
        self._settings = settings
        self._open = 0
        self._live: dict[str, LiveStream] = {}
        self._models: dict[LiveStream, StreamTerms] = {}
        self._turns: dict[str, Turns[LiveStream]] = {}
        """By model, while it has streams."""
        self._draining = False
        self._silent: set[asyncio.Timeout] = set()
        """Of streams that have said nothing yet: how long each is listened to."""
        self._window = settings.max_in_flight
        self._looking: asyncio.TimerHandle | None = None

    @property
    def live(self) -> int:
        """Streams open now."""
        return self._open

    def drain(self) -> None:
        """Send every stream away: it answers what it accepted, says go-away, and ends OK.

        One that has said nothing yet is refused.
        """
        self._draining = True
        silent, self._silent = self._silent, set()
        for patience in silent:
            patience.reschedule(asyncio.get_running_loop().time())
        for stream in tuple(self._live.values()):
            stream.leave(GoAwayReason.DRAINING)

    def follow_models(self) -> None:
        """Send every stream away whose version its caller's words lead to no more: the next one it opens gets
        the version that they lead to now."""
        open_to: dict[str, frozenset[tuple[str, int]]] = {}
        for stream, agreed in tuple(self._models.items()):
            if agreed.asked not in open_to:
                open_to[agreed.asked] = reachable(agreed.asked, self._catalog)
            if (agreed.model.name, agreed.model.version) not in open_to[agreed.asked]:
                stream.leave(GoAwayReason.MODEL_SWITCHED)

    def using(self, model_key: str) -> int:
        """How many live streams are on a version, `name@3`."""
        return sum(agreed.model_key == model_key for agreed in self._models.values())

    async def stream_detect(self, requests: Requests, send: Send, context: CallContext) -> None:
        """Serve one stream to its end."""
        self._let_in()
        self._open += 1
        try:
            config = await self._config(requests)
            agreed = terms(config, self._catalog, self._rooms.limits, self._rooms.signer)
            caller = Caller(f"stream/{agreed.stream_id}", Priority.STREAM, request_id=context.request_id)
            turns = self._turns.setdefault(agreed.model_key, Turns())
            stream = LiveStream(self._rooms, agreed, caller, self._window, turns)
            await self._run(stream, agreed, requests, send)
        finally:
            self._open -= 1

    def _let_in(self) -> None:
        if self._draining:
            raise _draining()
        limit = self._rooms.limits.max_streams
        if self._open >= limit:
            message = f"This server has as many streams as it takes: {limit}."
            raise Failure(Reason.STREAM_LIMIT, message, metadata={"limit": str(limit)}, retry_after=1.0)

    async def _config(self, requests: Requests) -> StreamConfig:
        """The first message. Raises Failure DRAINING if the server leaves before it has come."""
        patience = asyncio.timeout(None)
        try:
            async with patience:
                self._silent.add(patience)
                return await _config(requests)
        except TimeoutError:
            raise _draining() from None
        finally:
            self._silent.discard(patience)

    async def _run(self, stream: LiveStream, agreed: StreamTerms, requests: Requests, send: Send) -> None:
        if self._draining:  # it came in while its config was on the way
            raise _draining()
        older = self._live.get(agreed.stream_id)
        if older is not None:
            older.taken_over()
        self._live[agreed.stream_id] = stream
        self._models[stream] = agreed
        self._look_again()
        timer = self._end_in_time(stream)
        try:
            await stream.run(requests, send)
        finally:
            if timer is not None:
                timer.cancel()
            if self._live.get(agreed.stream_id) is stream:
                del self._live[agreed.stream_id]
            del self._models[stream]
            if not self.using(agreed.model_key):
                self._turns.pop(agreed.model_key, None)

    def _end_in_time(self, stream: LiveStream) -> asyncio.TimerHandle | None:
        longest = self._settings.max_duration
        if not longest:
            return None
        seconds = longest * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 (nobody must not guess it)
        return asyncio.get_running_loop().call_later(seconds, stream.leave, GoAwayReason.MAX_STREAM_AGE)

    def _look_again(self) -> None:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        """Fit all windows to what waits now, and to how many streams are in use."""
        self._looking = None
        if not self._models:
            self._window = self._settings.max_in_flight
            return
        self._look_again()
        loads = {
            f"{model.name}@{model.version}": Load(
                model.queued, tuple((time.batch_size, time.median) for time in model.profile)
            )
            for model in self._catalog.list()
        }
        lanes = self._lanes()
        self._share_turns(loads, lanes)
        window = next_window(
            self._window,
            most=self._settings.max_in_flight,
            places=self._rooms.limits.max_queued_tickets,
            streams=sum(stream.in_use() for stream in self._models),
            backlog=Backlog.of(loads.values(), lanes),
        )
        if window != self._window:
            self._window = window
            for stream in tuple(self._models):
                stream.allow(window)

    def _share_turns(self, loads: Mapping[str, Load], lanes: int) -> None:
        workers = self._rooms.pool.stats().workers
        for key, turns in self._turns.items():
            load = loads.get(key, Load(0))
            give_turns(turns.resize(room_for(load, lanes=lanes, workers=workers, held=turns.held)))

    def _lanes(self) -> int:
        return sum(device.lanes for device in self._catalog.server().devices)


def _draining() -> Failure:
    return Failure(Reason.DRAINING, "This server is shutting down.", retry_after=1.0)


async def _config(requests: Requests) -> StreamConfig:
    async for request in requests:
        if request.WhichOneof("kind") != "config":
            message = "The first message of a stream is its config."
            raise Failure(Reason.STREAM_PROTOCOL, message, "config")
        return request.config
    raise Failure(Reason.STREAM_PROTOCOL, "The stream ended before its config.", "config")
