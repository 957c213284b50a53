"""The pixel budget lends what it has, and gets it back exactly once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin_server.errors import Failure, Reason
from opsin_server.media.budget import PixelBudget


def test_a_full_budget_refuses_and_says_when_to_come_back() -> None:
    budget = PixelBudget(100, retry_after=0.5)
    with budget.reserve(60):
        with pytest.raises(Failure) as caught:
            budget.reserve(41)
        assert caught.value.reason is Reason.MEMORY_LIMIT
        assert (caught.value.retry_after, caught.value.never_retry) == (0.5, False)
        assert caught.value.metadata == {"needed": "41", "used": "60", "limit": "100"}
        budget.reserve(40).release()
    assert budget.used == 0


def test_a_picture_that_will_never_fit_is_not_to_be_retried() -> None:
    with pytest.raises(Failure) as caught:
        PixelBudget(100).reserve(101)
    assert caught.value.never_retry
    assert caught.value.retry_after is None


def test_a_reservation_is_given_back_when_the_decode_fails() -> None:
    budget = PixelBudget(100)
    with pytest.raises(ZeroDivisionError), budget.reserve(100):
        _ = 1 / 0
    assert budget.used == 0


@given(st.lists(st.tuples(st.integers(0, 40), st.lists(st.integers(0, 50), max_size=4)), max_size=20))
def test_what_is_used_is_the_sum_of_what_is_held(steps: list[tuple[int, list[int]]]) -> None:
    budget, held = PixelBudget(100), []
    for size, shrinks in steps:
        try:
            lent = budget.reserve(size)
        except Failure:
            held.pop().release() if held else None
            continue
        for kept in shrinks:
            lent.shrink(kept)
        assert lent.size == min([size, *shrinks])
        held.append(lent)
        assert budget.used == sum(each.size for each in held) <= 100
    for lent in held:
        lent.release()
        lent.release()
    assert budget.used == 0


def test_pictures_that_exist_already_are_counted_and_half_of_the_budget_is_kept_from_them() -> None:
    budget = PixelBudget(100)
    one, two = budget.hold(30), budget.hold(30)
    assert (budget.used, budget.held, budget.crowded) == (60, 60, True)
    with pytest.raises(Failure):
        budget.reserve(41)
    one.release()
    one.release()
    assert (budget.used, budget.held, budget.crowded) == (30, 30, False)
    budget.reserve(70)
    assert not budget.crowded  # what others hold keeps no stream from decoding
    two.shrink(10)
    assert (budget.used, budget.held) == (80, 10)


def test_what_needs_no_pixels_is_never_refused_for_want_of_them() -> None:
    budget = PixelBudget(capacity=100)
    budget.reserve(90)
    budget.hold(30)

    with budget.reserve(0) as nothing:
        nothing.grow(0)
        with pytest.raises(Failure):
            nothing.grow(1)
    assert budget.used == 120
