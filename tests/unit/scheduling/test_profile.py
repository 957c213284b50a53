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


def mixed(short: float = 0.001, long: float = 0.04, sizes: tuple[int, ...] = (1, 2, 4, 8)) -> Profile:
    """Of short inputs, any number of which take the same, and long ones; warmed with something between."""
    profile = fed([(size, 0.01 + 0.002 * size) for size in sizes] * 2)
    for size in sizes * 30:
        profile.observe(size, short, "short")
        profile.observe(size, long * size, "long")
    return profile


def test_each_shape_has_what_its_own_batches_have_shown() -> None:
    profile = mixed()
    for size in (1, 2, 4, 8):
        assert profile.of("short").seconds(size) == pytest.approx(0.001)
        assert profile.of("long").seconds(size) == pytest.approx(0.04 * size)
        assert profile.of("long").upper(size) == pytest.approx(0.04 * size, rel=0.05)
    assert profile.of("short").best_rate((1, 2, 4, 8)) == pytest.approx(8000)
    assert profile.of("long").best_rate((1, 2, 4, 8)) == pytest.approx(25)


def test_of_a_shape_that_was_never_run_the_whole_is_known() -> None:
    profile = mixed()
    assert profile.of("other") is profile
    assert profile.of(()) is profile


def test_at_sizes_that_a_shape_was_not_run_at_it_goes_as_the_whole_does() -> None:
    profile = fed([(size, 0.01 + 0.002 * size) for size in (1, 2, 4, 8, 16)] * 30)
    profile.observe(4, 0.1, "slow")
    slow = profile.of("slow")
    for size in (1, 2, 8, 16):
        as_whole = profile.seconds(size) / profile.seconds(4)
        assert slow.seconds(size) == pytest.approx(0.1 * as_whole)
    assert slow.lower(2) <= slow.lower(4) / 2, "nothing says that a smaller batch is not quick"
    assert slow.lower(8) == slow.lower(4)


@given(runs, runs)
def test_more_never_takes_less_of_one_shape_either(
    whole: list[tuple[int, float]], shaped: list[tuple[int, float]]
) -> None:
    profile = fed(whole)
    for batch, seconds in shaped:
        profile.observe(batch, seconds, "shape")
    one = profile.of("shape")
    times = [one.seconds(n) for n in range(1, 80)]
    assert all(a <= b * (1 + 1e-9) + 1e-9 for a, b in pairwise(times))
    for n in range(1, 80):
        assert 0.0 <= one.lower(n) <= one.seconds(n) + 1e-12 <= one.upper(n) + 2e-12 < math.inf


def test_what_hardly_any_input_beats_is_judged_by_the_quickest_shape() -> None:
    slow_whole = fed([(1, 0.05)] * 200)
    assert slow_whole.lower(1) > 0.03
    slow_whole.observe(1, 0.001, "quick")
    for _ in range(10):
        slow_whole.observe(1, 0.05, "slow")
    assert slow_whole.lower(1) <= 0.001


def test_only_so_many_shapes_are_told_apart() -> None:
    profile = fed([(1, 0.01)])
    for shape in range(100):
        profile.observe(1, 0.02, "usual")
        profile.observe(1, 0.03, shape)
    assert profile.of("usual") is not profile
    assert profile.of(99) is not profile
    assert profile.of(0) is profile


def test_answers_of_every_shape_go_the_same_way() -> None:
    profile = mixed()
    profile.answered(0.004)
    assert profile.of("short").after == profile.after > 0


def test_a_first_run_of_no_time_at_all_is_outlived() -> None:
    profile = Profile()
    profile.observe(1, 0.0)
    profile.answered(0.0)
    for _ in range(200):
        profile.observe(1, 0.01)
        profile.answered(0.01)
    assert profile.seconds(1) == pytest.approx(0.01, rel=0.1)
    assert profile.after == pytest.approx(0.02, rel=0.5)
