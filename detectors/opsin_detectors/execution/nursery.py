"""The other side of `apart.py`: a process that has a program, and forks workers that run it.

The nursery is a fresh interpreter, started by `command`. It reads the program, which imports what it is made
of, and forks a worker whenever it is told to: so there is one import and one copy of the weights however many
workers, and a worker that died is replaced in milliseconds. It never runs the program itself: a process in
which torch has computed has threads, and cannot be forked.

A worker reads one batch after the other and answers each, until nobody is left to ask. Both ends of a
conversation live in memory that both see (`room.py`); what goes over the socket says only what lies where.

Nobody but the one that started them ends them: signals that reach a whole group (Ctrl-C, a service
manager's SIGTERM) are ignored, because the server answers what it accepted before it leaves. When it closes
the sockets, or dies in whatever way, they end.
"""

import faulthandler
import gc
import os
import pickle
import signal
import socket
import struct
import sys
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["FORK", "NUMBER", "STATUS", "UNKNOWN", "command", "main"]

FORK, STATUS = b"f", b"s"
"""What the nursery is asked for: a worker, with its socket and its room; how one that ended did."""
NUMBER = struct.Struct("<q")
UNKNOWN = 1 << 32
"""How a worker ended that a nursery before this one forked."""
PATIENCE = 2.0
"""Seconds that workers have to end by themselves when nobody is left to ask them."""


def command(control: int, weights: int) -> list[str]:
    """How to start one that inherits these descriptors. It sees the modules that this process sees."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from opsin_detectors.execution.nursery import main; main({control}, {weights})"
    )
    return [sys.executable, "-I", "-c", code]  # -I: no module is taken from the folder it is started in


def main(control: int, weights: int) -> None:
    """Read the program, say so, and fork workers until `control` is closed."""
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    faulthandler.enable()
    with socket.socket(fileno=control) as asked:
        try:
            program = _read(weights)
        except Exception as error:
            asked.sendall(f"{type(error).__name__}: {error}".encode())
            return
        asked.sendall(b"ready")
        _Nursery(asked, program).serve()


def _read(weights: int) -> Any:
    import torch

    # Mapped, not read: all processes share the pages.
    return torch.load(f"/dev/fd/{weights}", map_location="cpu", mmap=True, weights_only=False)


class _Nursery:
    def __init__(self, asked: socket.socket, program: Any) -> None:
        self._asked = asked
        self._program = program
        self._workers: set[int] = set()

    def serve(self) -> None:
        gc.collect()
        gc.freeze()  # a collection in a worker would write to every object, and so copy all of them
        while True:
            what, files, _, _ = socket.recv_fds(self._asked, 1 + NUMBER.size, 2)
            if not what:
                break
            if what[:1] == FORK:
                self._fork(*files)
            else:
                self._tell(NUMBER.unpack(what[1:])[0])
        self._end()

    def _fork(self, talk: int, room: int) -> None:
        number = os.fork()
        if not number:
            self._asked.close()
            _work(self._program, talk, room)  # does not return
        self._workers.add(number)
        os.close(talk)
        os.close(room)
        self._asked.sendall(NUMBER.pack(number))

    def _tell(self, number: int) -> None:
        """How a worker that closed its socket, or was killed, ended: minus a signal, or an exit code."""
        code = UNKNOWN
        if number in self._workers:
            _, status = os.waitpid(number, 0)
            self._workers.discard(number)
            code = os.waitstatus_to_exitcode(status)
        self._asked.sendall(NUMBER.pack(code))

    def _end(self) -> None:
        """No worker outlives this one, not even one that computes for ever."""
        ends = time.monotonic() + PATIENCE
        while self._workers and time.monotonic() < ends:
            self._workers -= {one for one in self._workers if os.waitpid(one, os.WNOHANG)[0]}
            time.sleep(0.01)
        for one in self._workers:
            os.kill(one, signal.SIGKILL)
            os.waitpid(one, 0)


def _work(program: Any, talk: int, room: int) -> None:
    """A worker's whole life."""
    from opsin_detectors.execution.room import Room

    with suppress(EOFError, OSError):  # nobody asks any more
        _Worker(program, Connection(talk), Room(room)).serve()
    os._exit(0)


class _Worker:
    def __init__(self, program: Any, talk: Connection, room: Any) -> None:
        self._program = program
        self._talk = talk
        self._room = room
        self._width = 0

    def serve(self) -> None:
        import torch

        with torch.inference_mode():
            while True:
                self._talk.send_bytes(self._answer(*pickle.loads(self._talk.recv_bytes())))  # noqa: S301

    def _answer(self, shape: tuple[int, ...], width: int, size: int) -> bytes:
        import torch

        try:
            self._room.look_again(size)
            if width != self._width:
                torch.set_num_threads(width)
                self._width = width
            batch = self._room.view(torch.uint8, shape, 0)
            return pickle.dumps((None, *self._placed(self._program(batch), batch.nbytes)))
        except Exception as error:
            return _told(error)

    def _placed(self, outputs: Any, taken: int) -> tuple[bool, list[Any], int]:
        """Whether it is one tensor, where each lies, and how large the room is. Behind the batch."""
        import torch

        from opsin_detectors.execution.room import ALIGNED

        alone = isinstance(outputs, torch.Tensor)
        at, places = -(-taken // ALIGNED) * ALIGNED, []
        for one in (outputs,) if alone else outputs:
            places.append(
                None if one is None else (str(one.dtype).removeprefix("torch."), tuple(one.shape), at)
            )
            at = at if one is None else self._room.place(one, at)
        return alone, places, self._room.size


def _told(error: Exception) -> bytes:
    """An error as the other side can raise it, with where it came from as a note."""
    error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
    with suppress(Exception):
        told = pickle.dumps((error,))
        pickle.loads(told)  # noqa: S301  some kinds of error can be written and not read
        return told
    return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"),))
