"""A server as a tree of processes that can be put to sleep while others have their turn.

Idle servers are not free: some poll their queues, some run daemons. So everybody but the one whose turn it is
is stopped (SIGSTOP), and pays for its own idleness only.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

import psutil

__all__ = ["Tree"]


class Tree:
    """A process and all that it started."""

    def __init__(self, pid: int) -> None:
        self._top = psutil.Process(pid)

    def cpu_seconds(self) -> float:
        """Of all of them, in user and in kernel mode, so far, those that have ended included."""
        total = 0.0
        for one in self.processes():
            with suppress(psutil.NoSuchProcess):
                # Children's is what ended ones took.
                total += sum(one.cpu_times()[:4])
        return total

    def sleep(self) -> None:
        """Nothing of it runs until `wake`."""
        self._send(signal.SIGSTOP)

    def wake(self) -> None:
        """As before."""
        self._send(signal.SIGCONT)

    def end(self, patience: float = 5.0) -> None:
        """Ask the first one to end, then make sure of all of them."""
        self.wake()
        everyone = self.processes()
        with suppress(psutil.NoSuchProcess):
            self._top.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(everyone, timeout=patience)
        for one in left:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(left, timeout=patience)

    @contextmanager
    def awake(self) -> Iterator[Self]:
        """Awake within the block, asleep after it."""
        self.wake()
        try:
            yield self
        finally:
            self.sleep()

    def processes(self) -> list[psutil.Process]:
        """All that live, the first one first."""
        with suppress(psutil.NoSuchProcess):
            return [self._top, *self._top.children(recursive=True)]
        return []

    def _send(self, sign: signal.Signals) -> None:
        for one in self.processes():
            with suppress(psutil.NoSuchProcess):
                one.send_signal(sign)
