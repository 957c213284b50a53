"""How the answers of a second stage are merged, and what it looks at."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from opsin_detectors.api import Attribute, Box, Detection, Label, ModelInfo, Options, Output, Task
from opsin_server.calls import EmbeddedDetection
from opsin_server.cascade import Second, grown, merged

FOUND = EmbeddedDetection(Detection(Box(0.25, 0.25, 0.5, 0.75), "plate", 0.9))


def second(task: Task, **more: Any) -> Second:
    info = ModelInfo(tasks=frozenset({task}), defaults=Options(min_score=0.5))
    model: Any = SimpleNamespace(info=info, name="second")
    return Second(model, task, **more)


def test_labels_become_an_attribute_highest_first_beside_those_there_are() -> None:
    once = merged(
        FOUND,
        second(Task.CLASSIFY_IMAGE, name="colour"),
        Output(labels=[Label("red", 0.2), Label("blue", 0.8, 1)]),
        None,
    )
    twice = merged(once, second(Task.CLASSIFY_IMAGE, name="state"), Output(labels=[Label("bent", 1.0)]), None)

    assert twice.detection.attributes == (
        Attribute("colour", (Label("blue", 0.8, 1), Label("red", 0.2))),
        Attribute("state", (Label("bent", 1.0),)),
    )
    assert (twice.detection.box, twice.detection.label) == (FOUND.detection.box, "plate")


def test_what_was_read_becomes_the_text_line_by_line_in_order() -> None:
    box = Box(0, 0, 1, 1)
    lines = [
        Detection(box, "text", 0.7, text="AB 12"),
        Detection(box, "text", 0.4, text="smudge"),
        Detection(box, "text", 0.9, text="34 CD"),
        Detection(box, "text", 0.9, text=""),
    ]
    assert merged(FOUND, second(Task.READ_TEXT), Output(lines), None).detection.text == "AB 12\n34 CD"


def test_a_vector_becomes_the_embedding() -> None:
    vector = np.ones(4, np.float32)
    assert merged(FOUND, second(Task.EMBED_IMAGE), Output(), vector).vector is vector


@pytest.mark.parametrize(
    ("box", "margin", "wanted"),
    [
        (Box(0.4, 0.4, 0.6, 0.5), 0.0, Box(0.4, 0.4, 0.6, 0.5)),
        (Box(0.4, 0.4, 0.6, 0.5), 0.5, Box(0.3, 0.35, 0.7, 0.55)),
        (Box(0.0, 0.1, 1.0, 0.9), 1.0, Box(0.0, 0.0, 1.0, 1.0)),
    ],
)
def test_a_crop_grows_by_its_own_size_and_ends_at_the_pictures_edge(
    box: Box, margin: float, wanted: Box
) -> None:
    got = grown(box, margin)
    assert [got.x_min, got.y_min, got.x_max, got.y_max] == pytest.approx(
        [wanted.x_min, wanted.y_min, wanted.x_max, wanted.y_max]
    )


def test_a_stage_looks_at_its_classes_only() -> None:
    assert second(Task.READ_TEXT).wants(FOUND.detection)
    assert second(Task.READ_TEXT, classes=frozenset({"plate"})).wants(FOUND.detection)
    assert not second(Task.READ_TEXT, classes=frozenset({"car"})).wants(FOUND.detection)
