"""Rounds, pairs, intervals and the search for a knee: decisions on plain data."""

import random
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsin.bench.arrivals import Arrivals
from opsin.bench.intervals import jain, median_of, percent
from opsin.bench.knee import KneeSearch, Step
from opsin.bench.load import Recording, Sample
from opsin.bench.pairing import ratio_of, turns
from opsin.bench.plan import Point, processes_for
from opsin.bench.streamfigures import jitter, stream_figures


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_an_interval_holds_its_median_and_lies_between_rounds(values: list[float]) -> None:
    found = median_of(values)
    assert found.low <= found.median <= found.high
    assert {found.low, found.high} <= set(values)
    assert 0 <= found.confidence < 1


def test_an_interval_is_the_sign_tests() -> None:
    assert median_of([3.0]).confidence == 0.0
    assert median_of([1, 2, 3, 4, 5]).confidence == pytest.approx(1 - 2 / 32)
    six = median_of([1, 2, 3, 4, 5, 6])
    assert (six.low, six.high) == (1, 6)
    assert six.confidence == pytest.approx(1 - 2 / 64)
    ten = median_of(list(range(10)))
    assert (ten.low, ten.high) == (1, 8), "the second from either end: 97.9 %"
    assert ten.confidence == pytest.approx(1 - 2 * (comb(10, 0) + comb(10, 1)) / 2**10)


def test_an_interval_holds_the_true_median_as_often_as_it_says() -> None:
    chance = random.Random(3)
    held = 0
    for _ in range(2000):
        found = median_of([chance.lognormvariate(0, 1) for _ in range(9)])
        held += found.low <= 1.0 <= found.high
    assert held / 2000 >= 0.95 - 0.015


@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 99))
def test_each_load_is_run_once_a_round_at_both_servers_and_neither_is_favoured(
    points: int, rounds: int, seed: int
) -> None:
    order = turns(points, rounds, paired=True, seed=seed)
    assert len(set(order)) == len(order) == points * rounds * 2
    assert [turn.round for turn in order] == sorted(turn.round for turn in order)
    firsts = [first.side for first, second in zip(order[::2], order[1::2], strict=True)]
    assert all(
        first.point == second.point and {first.side, second.side} == {0, 1}
        for first, second in zip(order[::2], order[1::2], strict=True)
    )
    assert abs(firsts.count(0) - firsts.count(1)) <= points


def test_which_server_is_first_is_drawn() -> None:
    orders = {tuple(turn.side for turn in turns(1, 4, paired=True, seed=seed)) for seed in range(40)}
    assert len(orders) == 4, "two blocks of two rounds, each in either order"


def test_a_ratio_is_of_rounds_that_ran_side_by_side() -> None:
    slower_and_slower = ratio_of([100.0, 50.0, 10.0], [50.0, 25.0, 5.0])
    assert slower_and_slower
    assert (slower_and_slower.median, slower_and_slower.low, slower_and_slower.high) == (2.0, 2.0, 2.0)
    assert ratio_of([1.0], [0.0]) is None


@given(st.floats(1, 1e5), st.floats(0.1, 1e4))
def test_the_search_finds_the_capacity_of_a_server_within_its_precision(
    capacity: float, start: float
) -> None:
    search = KneeSearch(start)
    while (rate := search.next()) is not None:
        search.take(Step(rate, held=rate <= capacity))
    if search.knee is None:
        assert capacity < start / 512
    else:
        assert search.knee <= capacity <= search.knee * 1.0501
    assert len(search.steps) <= 40


def test_a_step_that_fails_once_is_run_again_before_it_is_believed() -> None:
    search = KneeSearch(100.0)
    search.take(Step(100.0, held=False))
    assert search.next() == 100.0
    search.take(Step(100.0, held=True))
    assert search.next() == 200.0
    assert search.knee == 100.0


def test_the_search_ends_where_the_tool_gives_out_and_says_so() -> None:
    search = KneeSearch(100.0)
    search.take(Step(100.0, held=True))
    search.take(Step(200.0, held=False, limited=True))
    assert search.next() == 200.0, "it may have been a moment"
    search.take(Step(200.0, held=False, limited=True))
    assert (search.next(), search.knee, search.limited) == (None, 100.0, True)


@pytest.mark.parametrize("first", [True, False])
def test_a_step_that_failed_once_while_the_tool_kept_up_is_the_servers(first: bool) -> None:
    """Or a neighbour's busy moment in the other try would end the search."""
    search = KneeSearch(10.0)
    for rate, limited in ((10.0, False), (20.0, first), (20.0, not first)):
        assert search.next() == rate
        search.take(Step(rate, held=rate < 20, limited=limited))
    assert not search.limited
    assert search.next() == pytest.approx(14.142, abs=0.001)


def test_a_server_that_holds_nothing_has_no_knee() -> None:
    search = KneeSearch(8.0)
    while (rate := search.next()) is not None:
        search.take(Step(rate, held=False))
    assert search.knee is None
    assert not search.limited


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=40))
def test_fairness_lies_between_one_winner_and_all_equal(shares: list[float]) -> None:
    assert 1 / len(shares) - 1e-9 <= jain(shares) <= 1 + 1e-9
    assert jain([shares[0]] * len(shares)) == pytest.approx(1.0)
    assert jain([shares[0]] + [0.0] * 3) == pytest.approx(0.25)
    assert jain([0.0, 0.0]) == 1.0


def test_jitter_is_how_much_the_delay_changes_from_frame_to_frame() -> None:
    assert jitter([10.0, 30.0, 20.0]) == 15.0
    assert jitter([7.0]) == 0.0


def test_a_starved_stream_counts_in_the_fairness() -> None:
    samples = [Sample(0.01, stream=1, at=at / 10) for at in range(10)]
    figures = stream_figures([Recording([*samples, Sample(0, error="X", stream=2)], 1.0, streams=2)])
    assert figures
    assert figures.fairness == pytest.approx(0.5)
    assert [(one.answered, one.failed) for one in figures.each] == [(10, 0), (0, 1)]
    assert stream_figures([Recording([Sample(0.1)], 1.0)]) is None


def test_a_camera_that_sends_less_is_no_unfair_server() -> None:
    """At a rate, a stream's share is of its own frames; where each sends as it is let, of all."""
    kept = [Sample(0.01, stream=1, at=at / 10) for at in range(9)] + [Sample(0.01, stream=2)]
    lost = [Sample(0, dropped="superseded", stream=2) for _ in range(1)]
    for samples, fair in ((kept, 1.0), ([*kept, *lost], 1.5**2 / (2 * 1.25))):
        run = Recording(samples, 1.0, streams=2)
        paced, free = (stream_figures([run], paced=paced) for paced in (True, False))
        assert paced
        assert free
        assert paced.fairness == pytest.approx(fair)
        assert free.fairness == pytest.approx(100 / (2 * 82))


@pytest.mark.parametrize(("unfinished", "fair"), [(0, 1.0), (3, 0.5)])
def test_a_stream_without_a_frame_is_starved_only_where_frames_were_cut_off(
    unfinished: int, fair: float
) -> None:
    run = Recording([Sample(0.01, stream=1)], 1.0, streams=2, unfinished=unfinished)
    figures = stream_figures([run], paced=True)
    assert figures
    assert figures.fairness == fair


@pytest.mark.parametrize(
    ("share", "told"), [(1.0, "100.0%"), (0.9999, "99.9%"), (0.9896, "98.9%"), (0.99, "99.0%"), (0.0, "0.0%")]
)
def test_a_share_is_never_told_as_more_than_it_was(share: float, told: str) -> None:
    assert percent(share) == told


def test_jitter_is_of_the_streams_that_have_any() -> None:
    steady = [Sample(0.010 + 0.002 * (at % 2), stream=1, at=at / 10) for at in range(10)]
    figures = stream_figures([Recording([*steady, Sample(0.01, stream=2)], 1.0, streams=4)])
    assert figures
    assert figures.jitter == pytest.approx(2.0)


def test_there_are_as_many_processes_as_a_load_needs_and_a_server_beside_keeps_its_cores() -> None:
    assert processes_for(Point(8), 16, local=True) == 1
    assert processes_for(Point(128), 16, local=False) == 8
    assert processes_for(Point(1000), 16, local=True) == 8
    assert processes_for(Point(1000), 1, local=True) == 1
    assert processes_for(Point(None, Arrivals("poisson", 1600.0)), 64, local=False) == 4
