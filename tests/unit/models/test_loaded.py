"""What the server checks of every detector's answers, whoever wrote it."""

import math
from typing import Any

import numpy as np
import pytest

from opsin_detectors.api import (
    Attribute,
    Box,
    Detection,
    Detector,
    Item,
    Label,
    ModelInfo,
    Options,
    Output,
    Task,
)
from opsin_server.errors import Failure, Reason
from opsin_server.models.loaded import LoadedModel
from opsin_server.scheduling.batch import WrongLengthError

WHOLE = Box(0.0, 0.0, 1.0, 1.0)
SOUND = Output(detections=(Detection(WHOLE, "cat", 0.5),), labels=(Label("cat", 0.5),), vector=np.ones(3))
ITEM = Item(Task.DETECT, Options(), None, 8, 8)


class Repeats(Detector):
    """Answers what its batch holds."""

    def __init__(self) -> None:
        self.info = ModelInfo(tasks=frozenset({Task.DETECT}))

    def prepare(self, source: Any, task: Task, options: Options) -> Any:
        raise NotImplementedError

    def infer(self, batch: Any) -> Any:
        return batch

    def finish(self, outputs: Any, items: Any) -> Any:
        return outputs


BROKEN = {
    "score": Output(detections=(Detection(WHOLE, "cat", math.nan),)),
    "box": Output(detections=(Detection(Box(0.0, -math.inf, 1.0, math.inf), "cat", 0.5),)),
    "label": Output(labels=(Label("cat", math.inf),)),
    "attribute": Output(
        detections=(Detection(WHOLE, "face", 0.5, attributes=(Attribute("mood", (Label("x", math.nan),)),)),)
    ),
    "vector": Output(vector=np.array([1.0, np.nan, 1.0])),
}


@pytest.mark.parametrize("where", BROKEN)
def test_a_number_that_is_not_finite_fails_its_own_input_and_no_other(where: str) -> None:
    first, broken, last = LoadedModel("m", 3, Repeats()).finish([SOUND, BROKEN[where], SOUND], [ITEM] * 3)
    assert first is last is SOUND
    assert isinstance(broken, Failure)
    assert broken.reason is Reason.DETECTOR_BROKEN
    assert broken.metadata == {"model": "m", "version": "3"}


@pytest.mark.parametrize("answers", [0, 1, 3])
def test_another_number_of_answers_than_inputs_is_never_handed_out(answers: int) -> None:
    with pytest.raises(WrongLengthError, match=f"2 inputs gave {answers} answers"):
        LoadedModel("m", 1, Repeats()).finish([SOUND] * answers, [ITEM] * 2)
