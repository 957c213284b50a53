"""The HTTP endpoint that Prometheus scrapes: GET /metrics.

Runs in threads of its own, so that a slow or hanging scraper never holds up the event loop. What lives on the
loop is asked for on the loop, through `OnLoop`. Knows nothing of what is in the registry.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, start_http_server

__all__ = ["MetricsEndpoint", "OnLoop"]

Answer = TypeVar("Answer")


class OnLoop(Generic[Answer]):
    """`ask`, from any thread: it runs on the running loop's thread, where what it reads is at home.

    A loop that does not get to it within `timeout` seconds is busy or gone; then the last answer has to do,
    or `first` where there was none. Make it on the loop's thread.
    """

    def __init__(self, ask: Callable[[], Answer], first: Answer, timeout: float = 1.0) -> None:
        self._ask = ask
        self._last = first
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def __call__(self) -> Answer:
        """The answer, or the last one. Raises what `ask` raises."""
        if threading.get_ident() == self._thread:
            return self._ask()
        asked: Future[Answer] = Future()
        try:
            self._loop.call_soon_threadsafe(self._answer, asked)
        except RuntimeError:  # the loop is closed
            return self._last
        wait([asked], self._timeout)
        return self._last if asked.cancel() else asked.result()

    def _answer(self, asked: "Future[Answer]") -> None:
        if not asked.set_running_or_notify_cancel():
            return
        try:
            self._last = self._ask()
        except Exception as error:
            asked.set_exception(error)
        else:
            asked.set_result(self._last)


class MetricsEndpoint:
    """Listens from construction until `close`."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        """port 0 takes any free one. Raises OSError, in words, when the address cannot be had."""
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            why = error.strerror or error
            raise OSError(f"metrics.port: cannot listen on {host}:{port}: {why}") from error
        self.port = int(self._server.server_port)

    def close(self) -> None:
        """Stop listening. Blocks for at most half a second, the time the listener takes to look up."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
