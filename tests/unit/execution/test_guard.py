"""Answers are the same when the best labels, the clear finds, their places and scores are."""

import numpy as np

from opsin_detectors.api import Box, Detection, Label, Output
from opsin_detectors.execution.guard import agreement, difference, overlap


def found(score: float = 0.8, label: str = "cat", right: float = 0.6) -> Output:
    return Output(detections=[Detection(Box(0.1, 0.1, right, 0.6), label, score)])


def labelled(cat: float) -> Output:
    return Output(labels=[Label("cat", cat), Label("dog", 1 - cat)])


def test_equal_answers_do_not_differ() -> None:
    assert difference([found(), labelled(0.9)], [found(), labelled(0.9)]) == ""


def test_another_best_label_is_told() -> None:
    assert difference([labelled(0.51)], [labelled(0.49)]) == "picture 1: best label dog, not cat"


def test_a_score_that_moved_is_told() -> None:
    assert "score differs" in difference([labelled(0.9)], [labelled(0.8)])
    assert "no longer found" in difference([found(0.8)], [found(0.7)], 0.35)


def test_a_box_that_moved_is_told() -> None:
    assert difference([found()], [found(right=0.61)], 0.35) == ""
    assert "no longer found" in difference([found()], [found(right=0.64)], 0.35)


def test_a_thing_that_is_found_by_one_only_is_told_unless_a_rounding_decides() -> None:
    assert "no longer found" in difference([found(0.5)], [Output()], 0.35)
    assert "found anew" in difference([Output()], [found(0.5)], 0.35)
    assert difference([found(0.36)], [Output()], 0.35) == ""


def test_a_number_that_is_none_differs_from_everything() -> None:
    nan = float("nan")
    assert difference([found()], [found(nan)], 0.35)
    assert difference([labelled(0.9)], [labelled(nan)])
    assert difference([Output(vector=np.ones(3, np.float32))], [Output(vector=np.full(3, nan, np.float32))])


def test_a_vector_may_change_its_length_but_not_its_direction() -> None:
    one, other = np.array([1.0, 0.0], np.float32), np.array([1.0, 0.2], np.float32)
    assert difference([Output(vector=one)], [Output(vector=one * 2)]) == ""
    assert "vector" in difference([Output(vector=one)], [Output(vector=other)])


def test_agreement_counts_best_labels_and_passes_over_pictures_without_any() -> None:
    assert agreement([labelled(0.9), labelled(0.9)], [labelled(0.6), labelled(0.4)]) == (1, 2)
    assert agreement([Output(), found()], [found(), found(0.2)]) == (1, 1)
    assert agreement([], []) == (0, 0)
    assert agreement([Output(), Output()], [found(), Output()]) == (0, 0)


def test_agreement_compares_vectors_where_there_are_no_labels() -> None:
    one, other = np.array([1.0, 0.0], np.float32), np.array([1.0, 0.2], np.float32)
    reference = [Output(vector=one), Output(vector=one), Output(vector=one)]
    assert agreement(reference, [Output(vector=one), Output(vector=other), Output()]) == (1, 3)


def test_overlap_is_intersection_over_union() -> None:
    assert overlap(Box(0, 0, 1, 1), Box(0, 0, 1, 1)) == 1.0
    assert overlap(Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)) == 0.0
    assert overlap(Box(0, 0, 1, 1), Box(0, 0, 1, 0.5)) == 0.5
