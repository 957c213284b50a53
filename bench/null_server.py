"""The least a Python gRPC server can be: the floor under every figure of cost. `python -m bench.null_server`.

grpc.aio on uvloop with the server's own channel options, handlers that neither parse nor think: bytes in, the
same few bytes out. What Opsin costs above it is Opsin's; what it costs itself is the wire's.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

from opsin.v1 import DetectResponse, FrameResult, ModelRef, StreamDetectResponse, StreamReady
from opsin_server.config import Settings
from opsin_server.rpc.server import options

__all__ = ["SERVICE", "main"]

SERVICE = "opsin.v1.InferenceService"
_UNARY = DetectResponse(model=ModelRef(name="null", version=1)).SerializeToString()
_READY = StreamDetectResponse(max_in_flight=8, ready=StreamReady(stream_id="null")).SerializeToString()


async def _unary(request: bytes, context: Any) -> bytes:
    return _UNARY


async def _stream(requests: AsyncIterator[bytes], context: Any) -> None:
    """`ready` for the config, then a result for each frame, with numbers as the contract wants them."""
    await anext(requests)
    await context.write(_READY)
    number = 0
    async for _ in requests:
        number += 1
        # The number is what the client counts by; building this message is all that is done.
        await context.write(
            StreamDetectResponse(max_in_flight=8, result=FrameResult(sequence=number)).SerializeToString()
        )


async def _serve() -> None:
    server = grpc.aio.server(options=options(Settings()))
    handlers = {
        "Detect": grpc.unary_unary_rpc_method_handler(_unary),
        "StreamDetect": grpc.stream_stream_rpc_method_handler(_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"null is ready at 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def main() -> None:
    """Serve until killed."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())


if __name__ == "__main__":
    main()
