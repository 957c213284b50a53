"""Shares are judged by whoever is worst off, or best."""

import pytest

from bench.stream_fairness import worst


@pytest.mark.parametrize(
    ("shares", "off"),
    [
        ([10, 10, 10], 0.0),
        ([9, 10, 11], 0.1),
        ([10, 10, 10, 10, 10, 10, 10, 10, 10, 20], 9 / 11),
        ([0, 0], 1.0),
    ],
)
def test_the_furthest_share_counts(shares: list[float], off: float) -> None:
    assert worst(shares) == pytest.approx(off)
