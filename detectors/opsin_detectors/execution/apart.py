"""A program that runs in worker processes, so that lanes wait for it and hold no interpreter lock.

The rules:

1. Lanes stay threads. A lane that calls the program takes a worker that has nothing to do, copies the batch
   to memory that both see, says what lies there, and waits; the outputs are copied out. Nothing else goes
   between the processes, and the lock is not held while waiting or copying.
2. There are as many workers as lanes. A lane that finds none, because one that was given up still computes,
   gets another.
3. A worker computes with as many threads as torch has on the calling lane, batch by batch.
4. The first batch of a shape runs on every worker that is idle: what the first run of a shape costs is paid
   while the model warms up, not by callers.
5. A worker that dies takes with it the batch that it ran, and nothing else: that call raises
   `WorkerDiedError` with how it ended, and another worker takes its place. What one raises is raised here.
6. Nobody stays behind. `close`, the end of this object and the end of this process, whatever its kind, end
   all workers (`nursery.py`).

A network is given to them by pickle: one that cannot be written, or not be read by a process that has not
loaded the detector, raises LoadError. The pickle is in memory, and its weights are mapped by all workers.
"""

import os
import pickle
import signal
import socket
import subprocess
import threading
import weakref
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from opsin_detectors.api import LoadError
from opsin_detectors.execution.network import Program
from opsin_detectors.execution.nursery import FORK, NUMBER, STATUS, UNKNOWN, command
from opsin_detectors.execution.room import Room, nameless_file

__all__ = ["ApartProgram", "WorkerDiedError", "held"]

_PATIENCE = 120.0
"""Seconds in which the program has to be read: importing torch on a busy machine takes ten."""
_LEAVING = 5.0
"""Seconds in which all processes have to end when told to; more than `nursery.PATIENCE`."""

_living: "weakref.WeakSet[ApartProgram]" = weakref.WeakSet()


class WorkerDiedError(RuntimeError):
    """The process that ran a batch ended; the message says how."""


def held() -> int:
    """Bytes that all workers of this process hold now, beside the weights; 0 where that is not known."""
    return sum(program.grown for program in list(_living))


class ApartProgram:
    """Runs a program of torch on the CPU, for batches of one uint8 tensor, in processes of its own."""

    def __init__(self, program: Program, workers: int) -> None:
        """Starts the processes. Raises LoadError where the program cannot be given to them."""
        weights = _written(program)
        self._size = os.fstat(weights).st_size
        self._count = workers
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._warm: set[tuple[int, ...]] = set()
        self._nursery = _Nursery(weights)
        self._end = weakref.finalize(self, _end, self._nursery, self._idle)
        try:
            self._nursery.start()
            self._idle += [self._nursery.worker() for _ in range(workers)]
        except BaseException:
            self._end()
            raise
        _living.add(self)

    @property
    def memory_bytes(self) -> int:
        """The weights, once for all workers, and what the processes hold now beside them."""
        return self._size + self.grown

    @property
    def processes(self) -> list[int]:
        """The numbers of those that wait for a batch."""
        with self._lock:
            return [one.number for one in self._idle]

    @property
    def grown(self) -> int:
        """Bytes that its processes hold now, beside the weights' file."""
        with self._lock:
            shared = sum(one.room.size for one in self._idle)
        return shared + sum(_memory(one) for one in (self._nursery.number, *self.processes) if one)

    def __call__(self, batch: torch.Tensor) -> Any:
        """See `Program`. Raises WorkerDiedError, and what the worker raised."""
        shape, width = tuple(batch.shape), torch.get_num_threads()
        worker = self._taken()
        others = [] if shape in self._warm else self._rest()
        for one in others:
            one.begin(batch, width)
        try:
            outputs = worker.run(batch, width)
            self._warm.add(shape)
        except WorkerDiedError:
            self._replace()
            raise
        except BaseException:
            self._give(worker)
            raise
        finally:
            self._see_through(others)
        self._give(worker)
        return outputs

    def close(self) -> None:
        """End all processes, and wait for that. Twice is as once."""
        self._end()

    def _taken(self) -> "_Worker":
        """One that is idle; the one that was so last has the warmest caches."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._nursery.worker()

    def _rest(self) -> "list[_Worker]":
        with self._lock:
            rest = self._idle[:]
            self._idle.clear()
            return rest

    def _give(self, worker: "_Worker") -> None:
        with self._lock:
            if len(self._idle) < self._count and self._end.alive:
                self._idle.append(worker)
                return
        worker.close()

    def _replace(self) -> None:
        with suppress(WorkerDiedError):  # the next call tries again, and tells
            self._give(self._nursery.worker())

    def _see_through(self, workers: "list[_Worker]") -> None:
        """Of those that ran a batch only to be warm. What they raise, the one that is answered raised."""
        for one in workers:
            try:
                one.ended()
            except WorkerDiedError:
                self._replace()
                continue
            except Exception:  # noqa: S110
                pass
            self._give(one)


def _written(program: Program) -> int:
    """A nameless file with the program. Raises LoadError."""
    file = nameless_file("opsin-weights")
    try:
        with os.fdopen(file, "w+b", closefd=False) as opened:
            torch.save(program, opened, pickle_protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # pickle raises what it likes
        os.close(file)
        raise LoadError(f"the network cannot be given to another process: {error}") from error
    return file


def _end(nursery: "_Nursery", idle: "list[_Worker]") -> None:
    for worker in idle:
        worker.close()
    idle.clear()
    nursery.close()


class _Nursery:
    """The process that forks workers, started again should it die."""

    def __init__(self, weights: int) -> None:
        self._weights = weights
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._asks: socket.socket | None = None

    @property
    def number(self) -> int:
        """Of the process; 0: there is none."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Raises LoadError where the program cannot be read there."""
        asks, asked = socket.socketpair()
        with asked:
            self._process = subprocess.Popen(  # noqa: S603  this interpreter, with code of this project
                command(asked.fileno(), self._weights),
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a detector prints is no line of the server's own output
                pass_fds=(asked.fileno(), self._weights),
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # numpy's threads, before a fork
            )
        self._asks = asks
        asks.settimeout(_PATIENCE)
        try:
            told = asks.recv(4096)
        except OSError as error:
            told = str(error).encode()
        if told != b"ready":
            self._stop()
            why = told.decode(errors="replace") or "the process ended while it read it"
            raise LoadError(f"the network cannot be given to another process: {why}")

    def worker(self) -> "_Worker":
        """Raises WorkerDiedError when there can be no more."""
        ours, theirs = socket.socketpair()
        room = Room(nameless_file("opsin-batch"))
        try:
            with theirs:
                number = self._forked(theirs, room)
        except BaseException:
            ours.close()
            room.close()
            raise
        return _Worker(self, number, Connection(ours.detach()), room)

    def _forked(self, theirs: socket.socket, room: Room) -> int:
        with self._lock:
            try:
                return self._fork(theirs, room)
            except OSError:
                pass  # it died: once more with a new one
            try:
                if self._closed:
                    raise OSError("the model is gone")
                self._stop()
                self.start()
                return self._fork(theirs, room)
            except (OSError, LoadError) as error:
                raise WorkerDiedError(f"no process to run the model in can be started: {error}") from error

    def _fork(self, theirs: socket.socket, room: Room) -> int:
        if self._asks is None:
            raise OSError("there is none")
        socket.send_fds(self._asks, [FORK], [theirs.fileno(), room.file])
        return _number(self._asks)

    def ended_by(self, number: int) -> str:
        """How a worker that closed its socket ended, for people."""
        with self._lock:
            try:
                if self._asks is None:
                    return "it was ended"
                self._asks.sendall(STATUS + NUMBER.pack(number))
                code = _number(self._asks)
            except OSError:
                code = UNKNOWN
        if code == UNKNOWN:
            return "so did the process that started it"
        return f"killed by {_signal_name(-code)}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._stop()
                os.close(self._weights)

    def _stop(self) -> None:
        if self._asks is not None:
            self._asks.close()
            self._asks = None
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(_LEAVING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _number(asks: socket.socket) -> int:
    told = asks.recv(NUMBER.size)
    if len(told) < NUMBER.size:
        raise OSError("the process is gone")
    number: int = NUMBER.unpack(told)[0]
    return number


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


class _Worker:
    """One process, as the lane that took it sees it."""

    def __init__(self, nursery: _Nursery, number: int, talk: Connection, room: Room) -> None:
        self.number = number
        self.room = room
        self._nursery = nursery
        self._talk = talk
        self._broken = False

    def run(self, batch: torch.Tensor, width: int) -> Any:
        """A batch to its outputs."""
        self.begin(batch, width)
        return self.ended()

    def begin(self, batch: torch.Tensor, width: int) -> None:
        """Have it run a batch. That it is dead is `ended`'s to tell."""
        self.room.place(batch, 0)
        try:
            self._talk.send_bytes(pickle.dumps((tuple(batch.shape), width, self.room.size)))
        except OSError:
            self._broken = True

    def ended(self) -> Any:
        """Wait for what `begin` began. Raises WorkerDiedError, and what the worker raised."""
        try:
            if self._broken:
                raise EOFError
            error, *told = pickle.loads(self._talk.recv_bytes())  # noqa: S301
        except (EOFError, OSError):
            how = self._nursery.ended_by(self.number)
            self.close()
            raise WorkerDiedError(f"the process that ran the batch died: {how}") from None
        if error is not None:
            raise error
        return self._outputs(*told)

    def _outputs(self, alone: bool, places: list[Any], size: int) -> Any:
        self.room.look_again(size)
        copied = tuple(
            None if one is None else self.room.view(getattr(torch, one[0]), one[1], one[2]).clone()
            for one in places
        )
        return copied[0] if alone else copied

    def close(self) -> None:
        """It ends by itself when nobody can ask it any more."""
        self._talk.close()
        self.room.close()


def _memory(number: int) -> int:
    """Bytes that a process holds for itself, its part of what it shares with those forked alike included."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{number}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) * 1024
    return 0
