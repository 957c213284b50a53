"""The pairing is the best there is: compared with every pairing, and with a slow method on larger ones."""

from itertools import permutations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from opsin_server.streams.tracking.assignment import assign

GAIN = st.sampled_from([-1.0, 0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0]) | st.floats(-1, 1)


def matrix(rows: int, columns: int) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(st.lists(GAIN, min_size=columns, max_size=columns), min_size=rows, max_size=rows)


def best_by_trying(gains: np.ndarray) -> float:
    rows, columns = gains.shape
    if rows > columns:
        return best_by_trying(gains.T)
    wins = np.maximum(gains, 0)
    return max(sum(wins[r, c] for r, c in enumerate(chosen)) for chosen in permutations(range(columns), rows))


def total(gains: np.ndarray, pairs: list[tuple[int, int]]) -> float:
    assert len({r for r, _ in pairs}) == len(pairs) == len({c for _, c in pairs})
    assert all(gains[r, c] > 0 for r, c in pairs)
    return sum(gains[r, c] for r, c in pairs)


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 6).flatmap(lambda r: st.integers(1, 6).flatmap(lambda c: matrix(r, c))))
def test_no_pairing_is_better(rows: list[list[float]]) -> None:
    gains = np.array(rows)
    assert total(gains, assign(gains)) == pytest.approx(best_by_trying(gains))


def test_greed_would_be_wrong() -> None:
    assert assign(np.array([[0.9, 0.8], [0.8, 0.0]])) == [(0, 1), (1, 0)]


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (0, 3), (3, 0)])
def test_nothing_pairs_with_nothing(rows: int, columns: int) -> None:
    assert assign(np.zeros((rows, columns))) == []


def test_a_hidden_pairing_is_found_among_a_hundred() -> None:
    """On top of noise below 0.5 the planted pairs, at 1, are the best by far."""
    rng = np.random.default_rng(3)
    gains = rng.uniform(-0.5, 0.5, (100, 100))
    planted = rng.permutation(100)
    gains[np.arange(100), planted] = 1.0
    assert assign(gains) == [(r, int(c)) for r, c in enumerate(planted)]


def test_large_crowds_satisfy_the_proof_of_being_best() -> None:
    """No exchange of two pairs, and no free pair, adds anything (which a slip of prices would)."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        gains = rng.uniform(-0.3, 1, (40, 30))
        pairs = assign(gains)
        rows, columns = zip(*pairs, strict=True)
        have = gains[rows, columns]
        swapped = gains[np.ix_(rows, columns)]
        assert (have[:, None] + have[None, :] >= swapped + swapped.T - 1e-9).all()
        free = np.setdiff1d(np.arange(40), rows)
        assert (gains[np.ix_(free, columns)] <= have[None, :] + 1e-9).all()
