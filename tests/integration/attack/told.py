"""What a failed call tells, read back from its trailers."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from opsin.v1 import DetectRequest, Image
from opsin.v1.common_pb2 import RawImage
from serving import Serving

__all__ = ["CYAN", "MAGENTA", "YELLOW", "Told", "goes_on", "look", "pixel", "refused", "told"]

MAGENTA, CYAN, YELLOW = b"\xff\x00\xff", b"\x00\xff\xff", b"\xff\xff\x00"
"""What the echo detector stumbles over: it raises, never returns, answers too few."""

MOST_TRAILERS = 8192
"""Bytes of trailing metadata that gRPC peers accept by default."""


@dataclass(frozen=True)
class Told:
    """A failure as the client sees it. details: the names of the details' messages."""

    code: str
    reason: str
    field: str
    message: str
    details: tuple[str, ...]
    trailers: dict[str, Any]
    trailers_only: bool


def told(error: grpc.aio.AioRpcError) -> Told:
    """Read a failed call; also checks what every failure of ours promises."""
    trailers = dict(error.trailing_metadata() or ())
    assert "grpc-status-details-bin" in trailers, f"{error.code()}: {error.details()}"
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    infos = [d for d in status.details if d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    infos[0].Unpack(info)
    for detail in status.details:
        detail.Unpack(bad)
    assert info.domain == "opsin"
    assert "Traceback" not in str(status)
    assert '.py"' not in str(status)
    assert sum(len(k) + len(v) for k, v in trailers.items()) + 3 * len(error.details() or "") < MOST_TRAILERS
    return Told(
        code=error.code().name,
        reason=info.reason,
        field=bad.field_violations[0].field if bad.field_violations else "",
        message=error.details() or "",
        details=tuple(d.TypeName().rpartition(".")[2] for d in status.details),
        trailers=trailers,
        trailers_only=not error.initial_metadata(),
    )


async def refused(call: Awaitable[Any]) -> Told:
    """The failure of a call that must fail."""
    try:
        async with asyncio.timeout(60):
            answer = await call
    except grpc.aio.AioRpcError as error:
        return told(error)
    raise AssertionError(f"not refused: {answer!r:.200}")


def pixel(colour: bytes = b"\x01\x02\x03") -> Image:
    """A picture of one pixel."""
    return Image(raw=RawImage(data=colour, width=1, height=1))


async def look(server: Serving, colour: bytes = b"\x01\x02\x03", model: str = "echo") -> Any:
    """Send one pixel to an echo."""
    return await server.inference.Detect(DetectRequest(model=model, image=pixel(colour)))


async def goes_on(server: Serving, model: str = "echo") -> None:
    """The server is as good as new: it answers at once, and holds nothing of what came before."""
    async with asyncio.timeout(60):
        assert (await look(server, model=model)).labels[0].name == "echo"
    assert server.app.scheduler.waiting == 0
