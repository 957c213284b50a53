"""The health board by itself: what is SERVING when, and who hears of it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin_server.rpc.health import LIVENESS, SHARED, HealthBoard

UNKNOWN, SERVING, NOT_SERVING = 3, 1, 2


def shared(board: HealthBoard) -> set[int]:
    return {board.status(name) for name in SHARED}


def test_at_first_only_liveness_serves() -> None:
    board = HealthBoard()
    assert shared(board) == {NOT_SERVING}
    assert board.status(LIVENESS) == SERVING
    assert board.status("model/x") == UNKNOWN


def test_an_empty_list_of_models_is_ready_once_it_is_said() -> None:
    board = HealthBoard()
    board.set_model("late", True)
    assert shared(board) == {NOT_SERVING}
    board.expect([])
    assert shared(board) == {SERVING}


def test_one_expected_model_that_stalls_takes_the_server_out_and_brings_it_back() -> None:
    board = HealthBoard()
    board.expect(["a", "b"])
    board.set_model("a", True)
    board.set_model("b", True)
    board.set_model("b", False)
    assert shared(board) == {NOT_SERVING}
    assert board.status("model/a") == SERVING
    board.set_model("b", True)
    assert shared(board) == {SERVING}


def test_a_model_that_nobody_asked_for_at_the_start_does_not_take_the_server_out() -> None:
    board = HealthBoard()
    board.expect(["a"])
    board.set_model("a", True)
    board.set_model("extra", False)
    assert shared(board) == {SERVING}


def test_an_expected_model_that_is_taken_away_on_purpose_is_no_longer_waited_for() -> None:
    board = HealthBoard()
    board.expect(["a", "b"])
    board.set_model("a", True)
    board.set_model("b", True)
    board.remove_model("b")
    assert board.status("model/b") == UNKNOWN
    assert shared(board) == {SERVING}


def test_draining_is_for_good_but_the_process_lives() -> None:
    board = HealthBoard()
    board.expect(["a"])
    board.set_model("a", True)
    board.drain()
    board.set_model("a", True)
    board.set("readiness", True)
    assert shared(board) == {NOT_SERVING}
    assert board.status("model/a") == NOT_SERVING
    assert board.status(LIVENESS) == SERVING


def test_a_watcher_hears_of_its_own_name_once_for_each_change() -> None:
    board = HealthBoard()
    heard: list[str] = []
    board.watch("", lambda: heard.append("all"))
    board.watch("model/a", lambda: heard.append("a"))
    board.expect(["a"])
    board.set_model("a", False)
    assert heard == []
    board.set_model("a", True)
    assert heard == ["a", "all"]


def test_a_watch_that_ended_hears_nothing_and_leaves_nothing() -> None:
    board = HealthBoard()
    heard: list[str] = []
    end = board.watch("x", lambda: heard.append("x"))
    end()
    end()
    board.set("x", True)
    assert heard == []
    assert board.watchers == 0


def test_a_watcher_may_end_while_it_is_told() -> None:
    board = HealthBoard()
    ends: list[Callable[[], None]] = []

    def leave() -> None:
        ends.pop()()

    ends.append(board.watch("x", leave))
    board.watch("x", lambda: None)
    board.set("x", True)
    assert board.watchers == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "expect", "remove", "drain"]), st.sampled_from("ab"), st.booleans())
    )
)
def test_the_shared_names_always_agree(steps: list[tuple[str, str, bool]]) -> None:
    board = HealthBoard()
    for kind, model, serving in steps:
        match kind:
            case "set":
                board.set_model(model, serving)
            case "expect":
                board.expect([model])
            case "remove":
                board.remove_model(model)
            case _:
                board.drain()
        assert len(shared(board)) == 1
        assert board.status(LIVENESS) == SERVING


def test_close_tells_every_watcher() -> None:
    board = HealthBoard()
    heard: list[str] = []
    board.watch("x", lambda: heard.append("x"))
    board.close()
    assert board.closed
    assert heard == ["x"]


@pytest.mark.parametrize("name", SHARED)
def test_the_names_of_the_contract_are_there(name: str) -> None:
    assert name in HealthBoard().names()
