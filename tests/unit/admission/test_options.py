"""What a caller asked for meets what the model can do."""

import pytest

from opsin_detectors.api import ModelInfo, Task
from opsin_server.admission.options import resolve
from opsin_server.calls import DetectOptions
from opsin_server.errors import Failure, Reason


def test_a_zero_shot_model_without_classes_of_its_own_has_to_be_told_what_to_look_for() -> None:
    info = ModelInfo(tasks=frozenset({Task.ZERO_SHOT}))

    with pytest.raises(Failure) as raised:
        resolve(DetectOptions(), info, Task.ZERO_SHOT)
    assert raised.value.reason is Reason.OPTION_INVALID
    assert raised.value.field == "options.candidate_labels"
    assert resolve(DetectOptions(candidate_labels=("cat",)), info, Task.ZERO_SHOT).candidate_labels == (
        "cat",
    )
