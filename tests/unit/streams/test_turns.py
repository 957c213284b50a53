"""Turns go round, to those who have waited longest, and no more of them than there is room for."""

import math
import random

import pytest

from opsin_server.streams.turns import AHEAD, Turns, room_for
from opsin_server.streams.window import Load


def turns(room: float) -> Turns[str]:
    made: Turns[str] = Turns()
    made.resize(room)
    return made


def test_while_there_is_room_whoever_asks_may_go_at_once_and_again() -> None:
    made = turns(3)
    assert [made.ask("a"), made.ask("a"), made.ask("b")] == [True] * 3
    assert made.held == 3
    assert not made.ask("c")


def test_a_turn_that_ends_goes_to_the_one_whose_last_was_longest_ago() -> None:
    made = turns(1)
    for party in ("a", "b", "c"):
        made.ask(party)
    assert made.done("a") == ["b"]
    assert not made.ask("a")
    assert made.done("b") == ["c"]
    assert not made.ask("b")
    assert not made.ask("new")
    assert made.done("c") == ["new"]
    assert made.done("new") == ["a"]
    assert made.done("a") == ["b"]


def test_one_that_holds_a_turn_comes_after_all_that_hold_none() -> None:
    made = turns(2)
    assert made.ask("a")
    assert made.ask("b")
    assert not made.ask("a")
    for party in ("c", "d"):
        assert not made.ask(party)
    assert made.done("b") == ["c"]
    assert made.done("c") == ["d"]
    assert made.done("d") == ["a"]
    assert made.held == 2


def test_one_that_gives_its_turn_back_while_it_asks_is_one_that_holds_none() -> None:
    made = turns(2)
    for party in ("a", "b", "a", "b"):
        made.ask(party)
    assert made.done("b") == ["b"]
    assert made.done("b") == ["a"]


def test_who_leaves_gives_back_all_and_is_not_called() -> None:
    made = turns(2)
    for party in ("a", "a", "b", "c"):
        made.ask(party)
    assert made.leave("b") == []
    assert made.leave("a") == ["c"]
    assert made.done("a") == []
    assert made.leave("c") == []
    assert (len(made), made.held) == (0, 0)


def test_more_room_is_given_out_at_once_and_less_waits_for_turns_to_end() -> None:
    made = turns(1)
    for party in ("a", "b", "c"):
        made.ask(party)
    assert made.resize(2) == ["b"]
    assert made.resize(0) == []  # one there is always
    assert made.done("a") == []
    assert made.done("b") == ["c"]
    assert made.resize(math.inf) == []
    assert made.ask("a")


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_no_turn_is_lost_and_none_waits_while_there_is_room(seed: int) -> None:
    dice, made, room = random.Random(seed), turns(3), 3
    held: dict[str, int] = {}
    asking: set[str] = set()
    for _ in range(2000):
        party = dice.choice("abcdefgh")
        given: list[str] = []
        match dice.randrange(8):
            case 0 | 1 | 2 if party not in asking:
                asking.add(party)
                given = [party] if made.ask(party) else []
            case 3 | 4 | 5 if held.get(party):
                held[party] -= 1
                given = made.done(party)
            case 6:
                held.pop(party, None)
                asking.discard(party)
                given = made.leave(party)
            case 7:
                room = dice.randint(1, 6)
                given = made.resize(room)
        for one in given:
            asking.remove(one)
            held[one] = held.get(one, 0) + 1
        assert made.held == sum(held.values())
        assert made.held >= room or not asking


def test_there_is_room_for_some_batches_of_each_lane_and_for_the_workers() -> None:
    load = Load(7, ((1, 0.1), (8, 0.2), (16, 0.39)))
    assert room_for(load, lanes=2, workers=3, held=7) == 3 + AHEAD * 2 * 8


def test_where_others_have_work_waiting_streams_may_have_as_much_more() -> None:
    load = Load(100, ((1, 0.1),))
    assert room_for(load, lanes=1, workers=2, held=10) == 2 + AHEAD + 90


def test_nothing_is_held_back_while_no_run_time_is_known() -> None:
    assert room_for(Load(50), lanes=1, workers=2, held=0) == math.inf
