"""nsfw gives the recorded scores and features, and carries its flag rule."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from opsin_detectors.api import Detector, FlagRule, LoadContext, LoadError, Task
from opsin_detectors.finder import find, load
from opsin_detectors.testing import check, run

from .conftest import Picture

Recorded = Callable[[str], dict[str, Any]]
PICTURES = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")


def test_it_keeps_the_rules_of_a_detector(nsfw: Detector) -> None:
    check(nsfw)


def test_scores_are_the_recorded_ones(nsfw: Detector, picture: Picture, recorded: Recorded) -> None:
    outputs = run(nsfw, [picture(name) for name in PICTURES], Task.CLASSIFY_IMAGE)

    for name, output in zip(PICTURES, outputs, strict=True):
        scores = {label.name: label.score for label in output.labels}
        assert scores == pytest.approx(recorded("nsfw")[name]["scores"], abs=0.005)
        assert sum(scores.values()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "label", "score"),
    [
        ("astronaut.png", "neutral", 0.973),
        ("coffee.png", "neutral", 0.998),
        ("rocket.jpg", "neutral", 0.774),
        ("chelsea.png", "drawing", 0.674),
    ],
)
def test_the_best_label_is_the_one_known_for_the_picture(
    nsfw: Detector, picture: Picture, name: str, label: str, score: float
) -> None:
    [output] = run(nsfw, [picture(name)], Task.CLASSIFY_IMAGE)

    best = max(output.labels, key=lambda one: one.score)
    assert best.name == label
    assert best.score == pytest.approx(score, abs=0.005)


def test_vectors_are_the_recorded_pooled_features(
    nsfw: Detector, picture: Picture, recorded: Recorded
) -> None:
    outputs = run(nsfw, [picture(name) for name in PICTURES], Task.EMBED_IMAGE)

    for name, output in zip(PICTURES, outputs, strict=True):
        wanted = recorded("nsfw")[name]
        assert output.vector is not None
        assert output.vector.shape == (1792,)
        assert float(np.linalg.norm(output.vector)) == pytest.approx(wanted["norm"], rel=0.01)
        np.testing.assert_allclose(output.vector[:16], wanted["features"], atol=0.05)


def test_the_flag_rule_is_porn_and_hentai_and_can_be_set() -> None:
    def rule(**settings: str) -> FlagRule | None:
        return load(find()["nsfw"], LoadContext("nsfw", settings=settings)).info.flag

    assert rule() == FlagRule(("porn", "hentai"), 0.7)
    assert rule(flag="porn+hentai+sexy>=0.4") == FlagRule(("porn", "hentai", "sexy"), 0.4)
    assert rule(flag="") is None
    with pytest.raises(LoadError, match="flag"):
        rule(flag="porn>0.4")
