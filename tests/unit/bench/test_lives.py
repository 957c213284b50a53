"""The judges of the measurements about models' lives and the cache."""

from collections import Counter

import pytest

from bench.cache import zipf
from bench.lifecycle import off_weights
from bench.traffic import Change, Seen


def by_name(at: float, version: int, asked: str = "", error: str = "") -> Seen:
    return Seen(at, at + 0.1, asked, bool(asked), version, error)


def test_a_right_split_is_no_deviation_and_a_wrong_one_many() -> None:
    changes = [Change(0.0, 0.0, {1: 1, 2: 1}, 1)]
    right = [by_name(1.0 + n, 1 + n % 2) for n in range(100)]
    assert off_weights(right, changes) == pytest.approx(0.0)
    wrong = [by_name(1.0 + n, 1) for n in range(100)]
    assert off_weights(wrong, changes) == pytest.approx(10.0)


def test_only_answered_calls_by_name_within_one_division_count() -> None:
    changes = [Change(0.0, 0.0, {1: 1, 2: 1}, 1), Change(10.0, 11.0, {1: 0, 2: 1}, 1)]
    astray = [by_name(1.0, 1, asked="key-1"), by_name(1.0, 0, error="UNAVAILABLE"), by_name(10.5, 1)]
    assert off_weights(astray, changes) == 0.0
    assert off_weights([*astray, by_name(1.0, 1)], changes) == pytest.approx(1.0)


def test_the_picture_of_rank_r_comes_one_over_r_as_often() -> None:
    draw = zipf(1000, seed=1)
    drawn = Counter(draw() for _ in range(50_000))
    assert drawn[0] / drawn[1] == pytest.approx(2.0, rel=0.1)
    assert drawn[0] / drawn[9] == pytest.approx(10.0, rel=0.25)
    assert max(drawn) < 1000
