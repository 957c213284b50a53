"""What stands in the corner of a saved video's frames."""

import pytest

import opsin
from opsin.cli.film import _note

FOUND = opsin.DetectResult((), (), None, 64, 48, opsin.ModelRef("m", 1), opsin.Timings())


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (opsin.FrameResult(17, FOUND, age=0.0312), "17  31 ms"),
        (opsin.FrameResult(17, FOUND), "17"),
        (opsin.FrameResult(18, FOUND, age=0.02, reused_from=17), "18  as 17"),
        (opsin.FrameDropped(19, opsin.DropReason.SUPERSEDED, age=0.1), "19  superseded, shows 17"),
        (opsin.FrameDropped(20, opsin.DropReason.TOO_OLD), "20  too old, shows 17"),
        (opsin.FrameFailed(21, opsin.InvalidInput("no picture")), "21  failed, shows 17"),
    ],
)
def test_a_frame_says_its_number_and_its_age_or_what_became_of_it(reply: opsin.FrameReply, said: str) -> None:
    assert _note(reply, shown=17) == said
