"""Several inputs at once, answers in order. Knows nothing of what is done."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ordered_map"]

In = TypeVar("In")
Out = TypeVar("Out")


def ordered_map(work: Callable[[In], Out], items: Iterable[In], jobs: int) -> Iterator[tuple[In, Out]]:
    """`work` on each item, `jobs` at a time, in the order of the items.

    At most twice as many as run are begun ahead of the one that is waited for, so that a slow first item
    does not pile up the answers of all others. Leaving the iteration early abandons what has not begun.
    """
    pool = ThreadPoolExecutor(jobs)
    begun: deque[tuple[In, Future[Out]]] = deque()
    try:
        for item in items:
            begun.append((item, pool.submit(work, item)))
            if len(begun) >= 2 * jobs:
                first, answer = begun.popleft()
                yield first, answer.result()
        while begun:
            first, answer = begun.popleft()
            yield first, answer.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
