"""Answers are the same when the best labels, the clear finds, their places and scores are."""

import numpy as np

from opsin_detectors.api import Box, Detection, Label, Output
from opsin_detectors.execution.guard import Agreement, agreements, difference, overlap


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


def test_a_number_that_is_none_is_seen_wherever_it_stands() -> None:
    nan = float("nan")
    old = Output(labels=[Label("cat", 0.9), Label("dog", 0.1), Label("cow", 0.1)])
    new = Output(labels=[Label("cat", 0.9), Label("dog", nan), Label("cow", 0.1)])
    assert difference([old], [new])
    assert agreements([old], [new])[0].same == 0
    assert agreements([found()], [found(nan)], 0.35)[0].same == 0


def test_labels_where_there_were_none_are_told() -> None:
    assert difference([Output()], [labelled(0.9)]) == "picture 1: best label cat, not none"
    assert difference([labelled(0.9)], [Output()]) == "picture 1: best label none, not cat"


def test_two_labels_of_the_very_same_score_are_both_the_best_one() -> None:
    old = Output(labels=[Label("cat", 0.5), Label("dog", 0.5)])
    new = Output(labels=[Label("cat", 0.499), Label("dog", 0.501)])
    assert difference([old], [new]) == ""


def test_a_vector_of_nothing_but_zeros_points_nowhere() -> None:
    one, none = Output(vector=np.ones(3, np.float32)), Output(vector=np.zeros(3, np.float32))
    assert "vector" in difference([one], [none])
    assert "vector" in difference([none], [one])
    assert difference([none], [none]) == ""
    assert agreements([one], [none]) == [Agreement("vectors", 0, 1)]


def test_a_vector_too_long_for_its_type_is_compared_all_the_same() -> None:
    long = np.array([3e38, 0.0], np.float32)
    assert difference([Output(vector=long)], [Output(vector=long)]) == ""
    assert "vector" in difference([Output(vector=long)], [Output(vector=long[::-1])])


def test_a_thing_found_twice_is_not_found_again_by_one() -> None:
    one = found()
    twice = Output(detections=[*one.detections, *one.detections])
    assert "no longer found" in difference([twice], [one], 0.35)
    assert "found anew" in difference([one], [twice], 0.35)
    assert difference([twice], [twice], 0.35) == ""
    assert agreements([twice], [one], 0.35) == [Agreement("finds", 1, 2)]


def test_things_that_overlap_are_matched_so_that_all_are_found() -> None:
    """The first of the old ones could take either of the new ones, the second only one of them."""
    left, middle, right = 0.595, 0.6, 0.605
    old = Output(detections=[*found(right=middle).detections, *found(right=left - 0.019).detections])
    new = Output(detections=[*found(right=left).detections, *found(right=right).detections])
    assert difference([old], [new], 0.35) == ""


def test_a_vector_may_change_its_length_but_not_its_direction() -> None:
    one, other = np.array([1.0, 0.0], np.float32), np.array([1.0, 0.2], np.float32)
    assert difference([Output(vector=one)], [Output(vector=one * 2)]) == ""
    assert "vector" in difference([Output(vector=one)], [Output(vector=other)])


def test_labels_agree_where_the_best_one_is_the_same() -> None:
    old = [labelled(0.9), labelled(0.9), labelled(0.4)]
    new = [labelled(0.6), labelled(0.4), Output()]
    assert agreements(old, new) == [Agreement("labels", 1, 3)]


def test_which_of_two_even_labels_is_best_does_not_count() -> None:
    assert agreements([labelled(0.514)], [labelled(0.2)])[0].same == 1  # 0.028 apart in the reference
    assert agreements([labelled(0.52)], [labelled(0.49)])[0].same == 0


def test_every_clear_find_has_to_be_found_again_in_its_place_and_of_its_kind() -> None:
    again = [found(), found(right=0.65), found(right=0.9), found(label="dog"), Output()]
    assert agreements([found()] * 5, again, 0.35) == [Agreement("finds", 2, 5)]
    one = found()
    both = Output(detections=[*one.detections, *found(0.7, right=0.2).detections])
    assert agreements([both], [one], 0.35) == [Agreement("finds", 1, 2)]


def test_what_was_hardly_found_proves_nothing() -> None:
    assert agreements([found(0.44)], [Output()], 0.35) == []
    assert agreements([Output()], [found(0.44)], 0.35) == []
    assert agreements([], []) == []


def test_what_is_invented_counts_as_what_is_lost_does() -> None:
    one = found()
    more = Output(detections=[*one.detections, *found(0.7, right=0.2).detections])
    assert agreements([one], [more], 0.35) == [Agreement("finds", 1, 2)]
    assert agreements([Output()], [one], 0.35) == [Agreement("finds", 0, 1)]
    assert agreements([one, Output()], [Output(), one], 0.35) == [Agreement("finds", 0, 2)]


def test_a_thing_that_is_another_one_now_is_one_that_is_not_as_it_was() -> None:
    assert agreements([found()], [found(label="dog")], 0.35) == [Agreement("finds", 0, 1)]


def test_a_faint_thing_that_is_clear_now_is_not_invented() -> None:
    assert agreements([found(0.4)], [found(0.5)], 0.35) == []
    assert agreements([found(), found(0.4)], [found(), found(0.5)], 0.35) == [Agreement("finds", 1, 1)]


def test_an_invention_whose_score_is_no_number_counts() -> None:
    assert agreements([Output()], [found(float("nan"))], 0.35) == [Agreement("finds", 0, 1)]


def test_vectors_count_by_themselves_beside_labels() -> None:
    one, near, far = (np.array([1.0, y], np.float32) for y in (0.0, 0.13, 0.15))
    old = Output(labels=labelled(0.9).labels, vector=one)
    new = [Output(labels=old.labels, vector=vector) for vector in (near, far, None)]
    assert agreements([old] * 3, new) == [Agreement("labels", 3, 3), Agreement("vectors", 1, 3)]


def test_an_agreement_tells_its_share() -> None:
    assert str(Agreement("labels", 95, 96)) == "labels 99.0% of 96"
    assert Agreement("labels", 1, 4).share == 0.25


def test_overlap_is_intersection_over_union() -> None:
    assert overlap(Box(0, 0, 1, 1), Box(0, 0, 1, 1)) == 1.0
    assert overlap(Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)) == 0.0
    assert overlap(Box(0, 0, 1, 1), Box(0, 0, 1, 0.5)) == 0.5
