"""Which models follow another one: as it is written, as it is checked, and in which order they come up."""

from typing import Any

import pytest
from pydantic import ValidationError

from opsin_detectors.api import LoadError, ModelInfo, Task
from opsin_server.config import ModelSettings, Settings, model_spec
from opsin_server.errors import Failure, Reason
from opsin_server.models.following import check, following, second_task, with_followers


def model(spec: str) -> ModelSettings:
    return ModelSettings(**model_spec(spec))


def test_one_line_and_a_table_mean_the_same() -> None:
    line = model("plates=nanodet,then=ocr+look@canary,then_margin=0.1,then_classes=car+stop sign")
    table = Settings(
        model=[
            {
                "name": "plates",
                "source": "nanodet",
                "then": ["ocr", "look@canary"],
                "then_margin": 0.1,
                "then_classes": ["car", "stop sign"],
            }
        ]
    )

    assert (line,) == table.model
    assert ModelSettings(name="a", then="ocr").then == ("ocr",)  # type: ignore[arg-type]
    told = following(line)
    assert told is not None
    assert (told.names, told.margin) == (("ocr", "look@canary"), 0.1)
    assert told.classes == {"car", "stop sign"}
    assert following(model("plates=nanodet")) is None


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("plates,then=", "it names models as calls do"),
        ("plates,then=OCR", "it names models as calls do"),
        ("plates,then=ocr@", "it names models as calls do"),
        ("plates,then=plates@2", "cannot look at what it finds itself"),
        ("plates,then=ocr,then_margin=2", "less than or equal to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(spec: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        model(spec)


def test_who_follows_comes_up_first_and_is_served_even_if_nobody_asked_for_it() -> None:
    asked = [model("plates=nanodet,then=ocr+look@2"), model("nsfw"), model("look=a/b"), model("x,then=ocr")]

    assert [one.name for one in with_followers(asked)] == ["ocr", "look", "plates", "nsfw", "x"]
    assert with_followers([model("b"), model("a")]) == (model("b"), model("a"))


def test_one_that_follows_comes_up_after_those_that_follow_it_for_its_own_callers() -> None:
    asked = [model("a=nanodet,then=b"), model("x"), model("b=echo,then=c"), model("c=nsfw")]
    assert [one.name for one in with_followers(asked)] == ["c", "b", "a", "x"]


def test_models_that_follow_each_other_are_left_to_loading_which_says_so() -> None:
    names = [one.name for one in with_followers([model("a,then=b"), model("b,then=a"), model("c,then=a")])]
    assert sorted(names[:2]) == ["a", "b"]
    assert names[2] == "c"


def test_a_box_is_read_before_it_is_told_apart_before_it_is_embedded() -> None:
    def can(*tasks: Task) -> Any:
        return second_task(ModelInfo(tasks=frozenset(tasks)))

    assert can(Task.EMBED_IMAGE, Task.CLASSIFY_IMAGE, Task.READ_TEXT) is Task.READ_TEXT
    assert can(Task.EMBED_IMAGE, Task.CLASSIFY_IMAGE) is Task.CLASSIFY_IMAGE
    assert can(Task.EMBED_IMAGE, Task.EMBED_TEXT) is Task.EMBED_IMAGE
    assert can(Task.DETECT, Task.ZERO_SHOT) is None


class Models:
    """Knows one model, that reads."""

    def info_of(self, name: str) -> ModelInfo:
        if name != "ocr":
            raise Failure(Reason.MODEL_NOT_FOUND, f"there is no model {name}", field="model")
        return ModelInfo(tasks=frozenset({Task.READ_TEXT}))


def test_a_model_that_finds_boxes_may_be_followed_by_one_that_reads() -> None:
    finds = ModelInfo(tasks=frozenset({Task.DETECT}), classes=("car", "plate"))

    check(model("a,then=ocr,then_classes=plate"), finds, Models())
    check(model("a"), ModelInfo(tasks=frozenset({Task.CLASSIFY_IMAGE})), Models())
    with pytest.raises(LoadError, match="there is no model who; it has to serve first"):
        check(model("a,then=who"), finds, Models())
    with pytest.raises(LoadError, match="the nearest is “plate”"):
        check(model("a,then=ocr,then_classes=plates"), finds, Models())
    with pytest.raises(LoadError, match="needs a model that finds boxes"):
        check(model("a,then=ocr"), ModelInfo(tasks=frozenset({Task.EMBED_IMAGE})), Models())
