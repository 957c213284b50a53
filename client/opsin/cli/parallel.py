"""Several inputs at once, answers in order. Knows nothing of what is done."""

import atexit
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["ordered_map"]

PARTING = 1.0
"""Seconds that work which was abandoned may take to notice: a call of a client that was closed ends at once,
and a thread that is in gRPC's code while the interpreter goes down can end the process with it."""

In = TypeVar("In")
Out = TypeVar("Out")


def ordered_map(work: Callable[[In], Out], items: Iterable[In], jobs: int) -> Iterator[tuple[In, Out]]:
    """`work` on each item, `jobs` at a time, in the order of the items.

    At most twice as many as run are begun ahead of the one that is waited for, so that a slow first item
    does not pile up the answers of all others. Leaving the iteration early abandons what has not begun, and
    waits for nothing that has: the process may end meanwhile, which it may not with threads of an executor.
    """
    waiting: queue.SimpleQueue[tuple[In, Future[Out]] | None] = queue.SimpleQueue()
    begun: deque[tuple[In, Future[Out]]] = deque()
    workers: list[threading.Thread] = []
    try:
        for item in items:
            answer: Future[Out] = Future()
            begun.append((item, answer))
            waiting.put((item, answer))
            if len(workers) < jobs:
                workers.append(threading.Thread(target=_work, args=(work, waiting), daemon=True))
                workers[-1].start()
            if len(begun) >= 2 * jobs:
                yield _answered(begun)
        while begun:
            yield _answered(begun)
    finally:
        for _, answer in begun:
            answer.cancel()
        for _ in workers:
            waiting.put(None)
        if begun:
            atexit.register(_part, workers)


def _part(workers: Sequence[threading.Thread]) -> None:
    until = time.monotonic() + PARTING
    for worker in workers:
        worker.join(max(0.0, until - time.monotonic()))


def _answered(begun: "deque[tuple[In, Future[Out]]]") -> tuple[In, Out]:
    item, answer = begun.popleft()
    return item, answer.result()


def _work(work: Callable[[In], Out], waiting: "queue.SimpleQueue[tuple[In, Future[Out]] | None]") -> None:
    while (job := waiting.get()) is not None:
        item, answer = job
        if not answer.set_running_or_notify_cancel():
            continue
        try:
            answer.set_result(work(item))
        except BaseException as error:  # told to whoever waits for it
            answer.set_exception(error)
