"""A stream whose server falls silent ends: a frame may take as long as a call."""

import asyncio
from typing import Any

import pytest

from opsin import RawFrame
from opsin import v1 as pb
from opsin.bench.load import Budget, Recording, Sample
from opsin.bench.messages import Asked
from opsin.bench.streams import Camera, film

FRAME = RawFrame(bytes(27), 3, 3)


class Silent:
    """A call whose server says that it is ready, where `opens`, and then nothing more."""

    def __init__(self, *, opens: bool) -> None:
        self._opens = opens
        self._ended = asyncio.Event()
        self.written = 0

    async def write(self, message: bytes) -> None:
        self.written += 1

    async def read(self) -> bytes:
        if self._opens:
            self._opens = False
            ready = pb.StreamReady(stream_id="s", model=pb.ModelRef(name="m"))
            return pb.StreamDetectResponse(max_in_flight=4, ready=ready).SerializeToString()
        await self._ended.wait()
        raise asyncio.CancelledError

    async def done_writing(self) -> None:
        pass

    def cancel(self) -> None:
        self._ended.set()


class Server:
    """Connections to a server that opens streams, or does not even that."""

    def __init__(self, *, opens: bool = True, patience: float = 0.05) -> None:
        self._opens = opens
        self.sent = {"metadata": (), "timeout": patience}
        self.calls: list[Silent] = []

    def streams(self, path: str) -> list[Any]:
        def way(**_: Any) -> Silent:
            self.calls.append(Silent(opens=self._opens))
            return self.calls[-1]

        return [way]


async def filmed(server: Any, camera: Camera, budget: Budget, make: Any = lambda number: FRAME) -> Recording:
    noted: list[Sample] = []
    return await asyncio.wait_for(
        film(server, make, Asked(), [camera], Recording(), budget=budget, note=noted.append), 30
    )


@pytest.mark.parametrize("offsets", [None, [0.0, 0.0, 0.0]], ids=["as it is let", "at a rate"])
async def test_frames_that_are_never_answered_fail_after_the_time_of_a_call(
    offsets: list[float] | None,
) -> None:
    camera = Camera(1, None if offsets is None else iter(offsets))
    done = await filmed(Server(), camera, Budget(total=3 if offsets is None else None))
    assert [sample.error for sample in done.samples] == ["DEADLINE_EXCEEDED"] * 3
    assert done.unfinished == 0


async def test_a_stream_that_is_never_opened_fails_after_the_time_of_a_call() -> None:
    done = await filmed(Server(opens=False), Camera(1, iter([0.0, 0.0])), Budget())
    assert [sample.error for sample in done.samples] == ["DEADLINE_EXCEEDED"] * 2


async def test_a_stream_with_nothing_to_send_for_a_while_is_left_open() -> None:
    server = Server(patience=0.05)
    await filmed(server, Camera(1, iter([0.2])), Budget())
    assert [call.written for call in server.calls] == [2], "the opening, and the frame that was due later"


async def test_an_input_that_cannot_be_sent_ends_the_run_instead_of_hanging_it() -> None:
    def make(number: int) -> Any:
        raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"):
        await filmed(Server(patience=60), Camera(1, None), Budget(total=3), make)
