"""A TCP proxy of the tests' own: one address whose connections go to whichever server it is turned to.

Knows bytes and sockets, nothing of gRPC. A connection that is open stays where it is.
"""

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

__all__ = ["Switch", "switch"]


class Switch:
    """target: what clients connect to. connections: how many have."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._threads[0].start()

    def turn_to(self, port: int) -> None:
        """New connections go to the server on this port."""
        self._to = port

    def cut(self) -> None:
        """Close what is open, both ways, in the middle of whatever is on its way."""
        for ends in self._pairs:
            for end in ends:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close everything, and wait until it is."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()
        for ends in self._pairs:
            for end in ends:
                end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            self.connections += 1
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:  # nobody listens there: neither does the proxy
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append((near, far))
            for ends in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=_pass_on, args=ends))
                self._threads[-1].start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Until one side closes, which closes the other."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def switch(port: int) -> Generator[Switch]:
    """In front of the server on this port, to begin with."""
    opened = Switch(port)
    try:
        yield opened
    finally:
        opened.close()
