"""A still scene is looked at once in a while; a change is seen, at the latest after `max_hold`."""

import numpy as np
import pytest

from opsin_detectors.api import Pixels
from opsin_server.calls import DetectAnswer, ModelRef
from opsin_server.streams.similar import Look, ReuseSimilar, SimilarFrames, thumbnail

RNG = np.random.default_rng(5)
SCENE = RNG.integers(40, 200, (30, 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def noisy(pixels: Pixels, strength: float = 4.0) -> Pixels:
    """As a camera sees the same thing twice."""
    return np.clip(pixels + RNG.normal(0, strength, pixels.shape), 0, 255).astype(np.uint8)


RULE = ReuseSimilar()
ANSWER = DetectAnswer(ModelRef("echo", 1, "cpu"))


def play(frames: list[Pixels], rule: ReuseSimilar = RULE, fps: float = 32) -> list[int | None]:
    """For each frame, the sequence whose answer it got; None where it was looked at (and answered)."""
    similar, told = SimilarFrames(rule), []
    for number, pixels in enumerate(frames, 1):
        seen, when = thumbnail(pixels), number / fps
        match = similar.match(seen, when, "options")
        if match is None:
            similar.answered(Look(number, seen, when, "options", ANSWER))
        told.append(match.sequence if match else None)
    return told


@pytest.mark.parametrize("shape", [(480, 640), (1080, 1920), (33, 47), (1, 1), (5, 2000), (31, 31)])
def test_a_thumbnail_is_small_whatever_the_picture(shape: tuple[int, int]) -> None:
    grey = thumbnail(np.full((*shape, 3), 255, np.uint8))
    assert max(grey.shape) <= 32
    assert grey == pytest.approx(np.ones_like(grey))


@pytest.mark.parametrize("shape", [(720, 1280), (576, 720), (600, 800), (240, 320), (63, 63)])
@pytest.mark.parametrize("edge", ["top", "bottom", "left", "right"])
def test_a_change_at_an_edge_counts_for_its_share_of_the_picture(shape: tuple[int, int], edge: str) -> None:
    """No side of these is a whole number of blocks."""
    rows, columns = shape
    before = np.zeros((*shape, 3), np.uint8)
    after = before.copy()
    band = {
        "top": np.s_[: rows // 10],
        "bottom": np.s_[-(rows // 10) :],
        "left": np.s_[:, : columns // 10],
        "right": np.s_[:, -(columns // 10) :],
    }
    after[band[edge]] = 255
    difference = float(np.abs(thumbnail(before) - thumbnail(after)).mean())
    assert difference == pytest.approx(0.1, abs=0.015)
    assert play([before, after, after]) == [None, None, 2]


def test_a_noisy_still_scene_is_looked_at_once_a_hold() -> None:
    told = play([noisy(SCENE) for _ in range(97)])
    assert [i for i, t in enumerate(told) if t is None] == [0, 32, 64, 96]
    assert told[1:32] == [1] * 31


def test_a_change_is_seen_in_the_frame_where_it_shows() -> None:
    changed = SCENE.copy()
    changed[50:125, 50:125] = 255
    told = play([SCENE] * 10 + [changed] * 10)
    assert [i for i, t in enumerate(told) if t is None] == [0, 10]


def test_a_slow_change_adds_up() -> None:
    """A tenth of the threshold a frame: the neighbours are always alike."""
    told = play(
        [np.clip(SCENE.astype(float) + 0.255 * i, 0, 255).astype(np.uint8) for i in range(100)],
        ReuseSimilar(max_hold=100),
    )
    looked = [i for i, t in enumerate(told) if t is None]
    assert 6 <= len(looked) <= 12


@pytest.mark.parametrize("hold", [0.1, 0.5, 2.0])
def test_a_change_too_small_to_notice_is_hidden_no_longer_than_the_hold(hold: float) -> None:
    changed = SCENE.copy()
    changed[0:4, 0:4] = 255
    told = play([SCENE] * 5 + [changed] * 100, ReuseSimilar(max_hold=hold))
    first_look = next(i for i, t in enumerate(told) if i >= 5 and t is None)
    assert (first_look + 1 - 6) / 32 <= hold


def test_other_options_and_sizes_are_looked_at() -> None:
    similar = SimilarFrames(ReuseSimilar())
    seen = thumbnail(SCENE)
    look = Look(1, seen, 0.0, "options", ANSWER)
    similar.answered(look)
    assert similar.match(seen, 0.1, "options") is look
    assert similar.match(seen, 0.1, "others") is None
    assert similar.match(thumbnail(SCENE[:20, :20]), 0.1, "options") is None


def test_nothing_is_reused_before_anything_was_answered() -> None:
    assert SimilarFrames(ReuseSimilar()).match(thumbnail(SCENE), 0.0, None) is None


def test_an_older_answer_that_comes_late_does_not_replace_a_newer() -> None:
    similar = SimilarFrames(ReuseSimilar())
    newer = Look(2, thumbnail(SCENE), 0.2, None, ANSWER)
    similar.answered(newer)
    similar.answered(Look(1, thumbnail(SCENE // 2), 0.1, None, ANSWER))
    assert similar.match(thumbnail(SCENE), 0.3, None) is newer
