"""Callers of the peers: aiohttp, one kept-alive connection a caller, no limit on their number.

python -m bench.peers.http_caller       in the environment `client`
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from bench.peers.calling import Job, Send, serve

__all__ = ["main"]

_EDGE = b"opsin-bench-edge"
_BEFORE = (
    b"--" + _EDGE + b'\r\nContent-Disposition: form-data; name="image"; filename="image.jpg"\r\n'
    b"Content-Type: image/jpeg\r\n\r\n"
)
_AFTER = b"\r\n--" + _EDGE + b"--\r\n"
PATIENCE = 120.0


@asynccontextmanager
async def connect(job: Job) -> AsyncGenerator[Send]:
    """Connections that last as long as the job."""
    kind = f"multipart/form-data; boundary={_EDGE.decode()}" if job.form else "application/octet-stream"
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(PATIENCE),
        headers={"Content-Type": kind},
        raise_for_status=True,
    ) as session:

        async def send(data: bytes) -> dict[str, Any]:
            body = _BEFORE + data + _AFTER if job.form else data
            async with session.post(job.target, data=body) as reply:
                answer: dict[str, Any] = await reply.json(content_type=None)
                return answer

        yield send


def main() -> None:
    """Until standard input ends."""
    serve(connect)


if __name__ == "__main__":
    main()
