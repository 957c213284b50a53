"""The profile: learns run times, is not fooled by one, never says that more takes less."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin_server.scheduling.profile import Profile

runs = st.lists(st.tuples(st.integers(1, 64), st.floats(0.0, 10.0)), min_size=1, max_size=60)


def fed(pairs: list[tuple[int, float]]) -> Profile:
    profile = Profile()
    for batch, seconds in pairs:
        profile.observe(batch, seconds)
    return profile


def test_nothing_is_known_at_first() -> None:
    profile = Profile()
    assert not profile
    assert profile.seconds(8) == profile.spread(8) == profile.lower(8) == profile.upper(8) == 0.0
    assert profile.table() == {}


def test_steady_runs_are_learnt_exactly() -> None:
    profile = fed([(4, 0.02)] * 50)
    assert profile.seconds(4) == pytest.approx(0.02)
    assert profile.spread(4) < 0.001


def test_one_stall_moves_the_estimate_by_a_few_percent() -> None:
    profile = fed([(4, 0.02)] * 50)
    profile.observe(4, 20.0)
    assert profile.seconds(4) < 0.02 * 1.05


def test_a_lasting_change_is_learnt_within_fifty_runs() -> None:
    profile = fed([(4, 0.02)] * 200 + [(4, 0.04)] * 50)
    assert profile.seconds(4) == pytest.approx(0.04, rel=0.05)


def test_sizes_between_are_interpolated_and_beyond_are_proportional() -> None:
    profile = fed([(2, 0.02), (4, 0.04), (8, 0.06)])
    assert profile.seconds(3) == pytest.approx(0.03)
    assert profile.seconds(1) == pytest.approx(0.02)
    assert profile.seconds(16) == pytest.approx(0.12)


def test_a_small_batch_never_run_is_not_called_slow() -> None:
    assert fed([(8, 0.08)] * 30).lower(1) <= 0.08 / 8


@given(runs)
def test_a_larger_batch_never_takes_less(pairs: list[tuple[int, float]]) -> None:
    profile = fed(pairs)
    times = [profile.seconds(n) for n in range(1, 80)]
    assert all(a <= b + 1e-9 for a, b in pairwise(times))
    assert list(profile.table()) == sorted(profile.table())


@given(runs)
def test_bounds_enclose_the_estimate_and_stay_finite(pairs: list[tuple[int, float]]) -> None:
    profile = fed(pairs)
    for n in range(1, 80):
        assert 0.0 <= profile.lower(n) <= profile.seconds(n) + 1e-12
        assert profile.seconds(n) <= profile.upper(n) + 1e-12 < math.inf


@given(st.lists(st.floats(0.01, 0.02), min_size=1, max_size=100))
def test_the_estimate_stays_among_what_was_seen(seconds: list[float]) -> None:
    assert 0.01 - 1e-9 <= fed([(1, s) for s in seconds]).seconds(1) <= 0.02 + 1e-9


@pytest.mark.parametrize(("batch", "seconds"), [(0, 0.1), (1, -0.1), (1, math.nan), (1, math.inf)])
def test_what_cannot_be_is_refused(batch: int, seconds: float) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Profile().observe(batch, seconds)


def test_the_way_of_an_answer_to_the_wire_is_learnt() -> None:
    profile = Profile()
    assert profile.after == 0.0
    for _ in range(50):
        profile.answered(0.004)
    assert profile.after == pytest.approx(0.008, rel=0.2)


def test_a_size_seen_often_is_read_anew_every_few_runs() -> None:
    profile = Profile()
    for _ in range(200):
        profile.observe(1, 0.01)
    for _ in range(16):
        profile.observe(1, 0.02)
    assert profile.seconds(1) > 0.012
