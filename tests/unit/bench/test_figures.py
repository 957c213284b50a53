"""The arithmetic of the project's own measurements: a slip here would make a promise look kept."""

import json

import pytest

from bench.figures import Figure, at_least, at_most, between, slope, table, turns


def test_a_target_is_met_by_the_median_or_within_the_spread_or_not() -> None:
    assert Figure("x", [0.8, 0.95, 1.0], "", at_least(0.9)).verdict == "yes"
    assert Figure("x", [0.8, 0.85, 0.91], "", at_least(0.9)).verdict == "within the spread"
    assert Figure("x", [0.8, 0.85, 0.89], "", at_least(0.9)).verdict == "no"
    assert Figure("x", [1.0, 1.9, 9.0], "", at_most(2.0)).verdict == "yes"
    assert Figure("x", [1.9, 2.5, 9.0], "", at_most(2.0)).verdict == "within the spread"
    assert Figure("x", [2.1, 2.5, 9.0], "", at_most(2.0)).verdict == "no"


def test_what_must_never_happen_must_not_in_any_round() -> None:
    assert Figure("lost frames", [0.0, 0.0, 0.0], "", at_most(0)).verdict == "yes"
    assert Figure("lost frames", [0.0, 0.0, 7.0], "", at_most(0)).verdict == "no"
    assert Figure("descriptors", [-3.0], "", at_most(0)).verdict == "yes"


def test_a_figure_that_is_no_number_meets_no_target() -> None:
    assert Figure("x", [float("nan")], "", at_least(0.0)).verdict == "no"


def test_a_row_tells_figure_target_median_spread_and_verdict() -> None:
    figure = Figure("added", [1.25, 1.0, 1.5], "ms", at_most(2.0))
    assert figure.to_row() == "| added | <= 2 ms | 1.25 ms (1 – 1.5) | yes |"
    assert Figure("beside", [12345.0]).to_row() == "| beside | - | 12 345 | - |"
    assert len(table([figure, figure]).splitlines()) == 2 + 2


def test_a_figure_can_be_kept_with_all_its_rounds() -> None:
    kept = json.loads(json.dumps(Figure("x", [3.0, 1.0], "", at_least(1), {"lanes": 2}).to_dict()))
    assert (kept["rounds"], kept["median"], kept["target"]) == ([3.0, 1.0], 2.0, ">= 1")
    assert (kept["met"], kept["beside"]) == ("yes", {"lanes": 2})


def test_each_run_is_compared_with_the_yardsticks_around_it() -> None:
    assert turns([10.0, 10.0], [10.0, 30.0, 10.0]) == [0.5, 0.5]
    assert between([1.0, 3.0, 7.0]) == [2.0, 5.0]


def test_a_machine_that_slows_down_steadily_is_fair_to_both_sides() -> None:
    assert turns([90.0, 70.0], [100.0, 80.0, 60.0]) == [1.0, 1.0]


def test_runs_without_a_yardstick_on_either_side_are_refused() -> None:
    with pytest.raises(ValueError, match="2 runs need 3 yardsticks, not 2"):
        turns([1.0, 1.0], [1.0, 1.0])


def test_a_slope_is_the_rise_for_each_unit() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2.0)
    assert slope([(0, 4), (1, 4.5), (2, 4)]) == pytest.approx(0.0)
    assert slope([(3, 1)]) == 0.0
    assert slope([(3, 1), (3, 2)]) == 0.0
