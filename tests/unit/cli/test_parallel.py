"""Several inputs at once, answers in order."""

import threading
from itertools import count

import pytest

from opsin.cli.parallel import ordered_map


def test_answers_come_in_the_order_of_the_items_though_the_first_is_slowest() -> None:
    second_done = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second_done.wait(30)
        if item == 1:
            second_done.set()
        return item * 10

    assert list(ordered_map(work, range(5), jobs=2)) == [(item, item * 10) for item in range(5)]


def test_exactly_as_many_run_at_once_as_there_are_jobs() -> None:
    lock, running, most = threading.Lock(), 0, 0
    together = threading.Barrier(3)  # breaks, and fails the work, when fewer than three ever meet

    def work(item: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(30)
        with lock:
            running -= 1

    assert len(list(ordered_map(work, range(30), jobs=3))) == 30
    assert most == 3


def test_an_endless_source_is_read_only_a_little_ahead() -> None:
    taken: list[int] = []
    items = (taken.append(item) or item for item in count())  # type: ignore[func-returns-value]
    answers = ordered_map(lambda item: item, items, jobs=2)
    next(answers)
    assert len(taken) <= 4
    answers.close()  # type: ignore[attr-defined]


def test_an_exception_of_the_work_comes_out_at_its_turn() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError(item)
        return item

    answers = ordered_map(work, range(4), jobs=4)
    assert [next(answers)[1], next(answers)[1]] == [0, 1]
    with pytest.raises(ValueError, match="2"):
        next(answers)
