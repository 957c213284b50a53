"""A process that serves looks for garbage where some may be; what was set apart still goes when unloaded."""

import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from opsin_server import interpreter
from opsin_server.models.release import give_back


class Ring:
    """Holds itself, as a loaded network may."""

    def __init__(self) -> None:
        self.itself = self


class Held:
    """Held by others only, as most of what a call makes."""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    limits = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*limits)


def test_what_is_there_when_serving_begins_is_looked_at_no_more() -> None:
    interpreter.set_apart()
    there = gc.get_freeze_count()
    assert there > 1000
    gc.collect()
    assert gc.get_freeze_count() > 0.9 * there, "some may have gone by themselves since"
    assert gc.get_threshold() == (interpreter.YOUNG, interpreter.MIDDLE, interpreter.OLD)


def test_garbage_made_while_serving_goes() -> None:
    interpreter.set_apart()
    ring = weakref.ref(Ring())
    for _ in range(3):
        gc.collect()
    assert ring() is None


def test_a_model_that_was_there_when_serving_began_goes_when_it_is_unloaded() -> None:
    ring = Ring()
    interpreter.set_apart()
    gone: weakref.ref[object] = weakref.ref(ring)
    del ring
    gc.collect()
    assert gone() is not None, "set apart: an ordinary collection does not look there"
    give_back(gone)
    assert gone() is None
    assert gc.get_freeze_count(), "the rest stays apart"


def test_what_was_in_flight_when_a_model_was_unloaded_does_not_add_up() -> None:
    interpreter.set_apart()
    in_flight, alone = Ring(), Held()
    give_back(weakref.ref(Ring()))
    gone: list[weakref.ref[object]] = [weakref.ref(in_flight), weakref.ref(alone)]
    del in_flight, alone
    assert gone[1]() is None, "nobody holds it: no collection is needed"
    give_back(weakref.ref(Ring()))
    assert gone[0]() is None


def test_a_process_that_set_nothing_apart_is_left_alone() -> None:
    gone: weakref.ref[object] = weakref.ref(Ring())
    give_back(gone)
    assert gone() is None
    assert not gc.get_freeze_count()


def test_a_thread_that_wants_the_interpreter_waits_for_less_than_by_default() -> None:
    before = sys.getswitchinterval()
    try:
        interpreter.hasten_turns()
        assert sys.getswitchinterval() == pytest.approx(interpreter.TURN)
    finally:
        sys.setswitchinterval(before)
    assert before > interpreter.TURN
