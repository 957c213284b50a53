"""The rules catch detectors that break them, each by its own rule; otherwise passing would mean nothing.

`WRONG` holds detectors that are wrong in one way each. The rules of a detector's life, which need a folder
to load it from, are in test_life_rules.py.
"""

import math
import threading
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from opsin_detectors.api import (
    Attribute,
    Box,
    Detection,
    Detector,
    ImageInput,
    Input,
    InputError,
    InputSpec,
    Item,
    Label,
    ModelInfo,
    Options,
    Output,
    Prepared,
    Task,
    TextInput,
)
from opsin_detectors.testing import Finding, Status, check, findings
from opsin_detectors.testing.answers import differences
from opsin_server.models.trial import ServerHarness

SIZE = 4


class Honest(Detector):
    """Detects one thing, as likely as the picture is bright; every hook is there to be overridden."""

    framework: Any = "numpy"
    stated: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        standard: dict[str, Any] = {
            "tasks": frozenset({Task.DETECT}),
            "classes": ("a", "b"),
            "input": InputSpec(SIZE, SIZE, framework=self.framework),
            "embedding_dimensions": 2,
            "max_batch": 8,
        }
        self.info = ModelInfo(**{**standard, **self.stated})

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        return Prepared(np.full((SIZE, SIZE, 3), self.level(source), np.uint8))

    def level(self, source: Input) -> int:
        match source:
            case ImageInput(pixels):
                return int(pixels.mean())
            case TextInput(text):
                return len(text) % 256

    def infer(self, batch: Any) -> Any:
        return batch.mean((1, 2, 3)) / 255

    def finish(self, outputs: Any, items: Sequence[Item]) -> Sequence[Output]:
        return [self.output(float(one), item) for one, item in zip(outputs, items, strict=True)]

    def output(self, score: float, item: Item) -> Output:
        return Output([self.found(score)], vector=np.array([score, 1], np.float32))

    def found(self, score: float) -> Detection:
        return Detection(Box(0, 0, 0.5, 1), "a", score)


class Texts(Honest):
    stated: ClassVar[dict[str, Any]] = {"tasks": frozenset({Task.EMBED_TEXT})}


class Pictures(Honest):
    stated: ClassVar[dict[str, Any]] = {"tasks": frozenset({Task.EMBED_IMAGE})}


class Torch(Honest):
    framework = "torch"

    def infer(self, batch: Any) -> Any:
        return batch.float().mean((1, 2, 3)) / 255


class RaisesInPrepare(Honest):
    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        raise KeyError("mean")


class RaisesInBatches(Honest):
    def infer(self, batch: Any) -> Any:
        if len(batch) > 1:
            raise ValueError("shapes")
        return super().infer(batch)


class RefusesItsExample(Honest):
    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        raise InputError("not today")


class TooLarge(Honest):
    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        return Prepared(np.zeros((SIZE + 1, SIZE, 3), np.uint8))


class Floats(Honest):
    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        return Prepared(np.zeros((SIZE, SIZE, 3), np.float32))


class Bare(Honest):
    def prepare(self, source: Input, task: Task, options: Options) -> Any:
        return np.zeros((SIZE, SIZE, 3), np.uint8)


class OneBuffer(Honest):
    buffer = np.zeros((SIZE, SIZE, 3), np.uint8)

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        self.buffer[:] = self.level(source)
        return Prepared(self.buffer)


class Unhashable(Honest):
    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        return Prepared(super().prepare(source, task, options).data, shape=[1])  # type: ignore[arg-type]


class TooFew(Honest):
    def finish(self, outputs: Any, items: Sequence[Item]) -> Sequence[Output]:
        return super().finish(outputs, items)[: max(1, len(items) - 1)]


class Dicts(Honest):
    def output(self, score: float, item: Item) -> Any:
        return {"score": score}


class WritesInThePicture(Honest):
    def level(self, source: Input) -> int:
        if isinstance(source, ImageInput) and source.pixels.flags.writeable:
            source.pixels[0, 0] = 0
        return super().level(source)


class NotFinite(Honest):
    def found(self, score: float) -> Detection:
        return super().found(math.nan)


class BoxOfNaN(Honest):
    def found(self, score: float) -> Detection:
        return Detection(Box(0, 0, math.inf, 1), "a", score)


class OverOne(Honest):
    def found(self, score: float) -> Detection:
        return super().found(score + 1)


class BelowZero(Honest):
    def output(self, score: float, item: Item) -> Output:
        return Output(labels=[Label("a", score - 1)])


class AttributesRise(Honest):
    def found(self, score: float) -> Detection:
        rising = Attribute("mood", (Label("sad", 0.1), Label("glad", 0.9)))
        return Detection(Box(0, 0, 1, 1), "a", score, attributes=(rising,))


class InPixels(Honest):
    def found(self, score: float) -> Detection:
        return Detection(Box(0, 0, 640, 480), "a", score)


class UpsideDown(Honest):
    def found(self, score: float) -> Detection:
        return Detection(Box(0, 0.8, 1, 0.2), "a", score)


class Empty(Honest):
    def found(self, score: float) -> Detection:
        return Detection(Box(0.5, 0, 0.5, 1), "a", score)


class UnknownLabel(Honest):
    def found(self, score: float) -> Detection:
        return Detection(Box(0, 0, 1, 1), "cat", score)


class WrongNumber(Honest):
    def found(self, score: float) -> Detection:
        return Detection(Box(0, 0, 1, 1), "b", score)


class NoVector(Pictures):
    def output(self, score: float, item: Item) -> Output:
        return Output()


class LongVector(Pictures):
    def output(self, score: float, item: Item) -> Output:
        return Output(vector=np.ones(3, np.float32))


class DoubleVector(Pictures):
    def output(self, score: float, item: Item) -> Output:
        return Output(vector=np.ones(2))  # type: ignore[arg-type]


class ZeroVector(Pictures):
    def output(self, score: float, item: Item) -> Output:
        return Output(vector=np.zeros(2, np.float32))


class Backwards(Honest):
    def finish(self, outputs: Any, items: Sequence[Item]) -> Sequence[Output]:
        return super().finish(outputs, items)[::-1]


class LooksBeside(Honest):
    def infer(self, batch: Any) -> Any:
        return super().infer(batch) * 0.9 + batch.mean() / 2550


class OnlyLargeBatches(Honest):
    """Right in a batch of up to five, which is how many samples there are."""

    def infer(self, batch: Any) -> Any:
        return super().infer(batch) * (0.9 if len(batch) == 8 else 1)


class AnswersViews(Torch):
    """What the batch is staged in is used again while `finish` waits for its turn."""

    def infer(self, batch: Any) -> Any:
        return batch[:, 0, 0, 0]

    def output(self, score: float, item: Item) -> Output:
        return super().output(score / 255, item)


class AnswersItsBuffer(Honest):
    def __init__(self) -> None:
        super().__init__()
        self._buffer = np.zeros(8)

    def infer(self, batch: Any) -> Any:
        self._buffer[: len(batch)] = super().infer(batch)
        return self._buffer[: len(batch)]


class FailsOnGrey(Honest):
    def level(self, source: Input) -> int:
        pixels = source.pixels  # type: ignore[union-attr]
        if pixels.shape[0] == 90 and (pixels[..., 0] == pixels[..., 1]).all() and pixels.std() > 1:
            raise ZeroDivisionError("saturation")
        return super().level(source)


class FailsOnEmptyText(Texts):
    def level(self, source: Input) -> int:
        return ord(source.text[0]) % 256  # type: ignore[union-attr]


class OverOneOnTall(Honest):
    def found(self, score: float) -> Detection:
        return super().found(score + 0.6 * (0.465 < score < 0.475))

    def level(self, source: Input) -> int:
        rows = source.pixels.shape[0]  # type: ignore[union-attr]
        return 120 if rows == 4000 else super().level(source)


class WillNotCut(Texts):
    def level(self, source: Input) -> int:
        if len(source.text) > 1000:  # type: ignore[union-attr]
            raise InputError("a text of at most 1000 characters")
        return super().level(source)


class PrepareRaces(Honest):
    def level(self, source: Input) -> int:
        self._last = super().level(source)
        time.sleep(0.001)
        return self._last


class FinishRaces(Honest):
    def finish(self, outputs: Any, items: Sequence[Item]) -> Sequence[Output]:
        self._outputs = outputs
        time.sleep(0.001)
        return super().finish(self._outputs, items)


class InferRaces(Honest):
    def infer(self, batch: Any) -> Any:
        self._batch = batch
        time.sleep(0.001)
        return super().infer(self._batch)


class InferRaisesInTwo(Honest):
    def __init__(self) -> None:
        super().__init__()
        self._busy = threading.Lock()

    def infer(self, batch: Any) -> Any:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("the session is in use")
        try:
            time.sleep(0.002)
            return super().infer(batch)
        finally:
            self._busy.release()


class Heavy(Honest):
    stated: ClassVar[dict[str, Any]] = {"light": True}

    def infer(self, batch: Any) -> Any:
        time.sleep(0.002)
        return super().infer(batch)


class Light(Honest):
    stated: ClassVar[dict[str, Any]] = {"light": True, "input": None}

    def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
        return Prepared(float(source.pixels[0, 0, 0]))  # type: ignore[union-attr]

    def infer(self, batch: Any) -> Any:
        return [one / 255 for one in batch]


def stating(**stated: Any) -> type[Honest]:
    return type("Stating", (Honest,), {"stated": stated})


WRONG: list[tuple[type[Honest], str, str, str]] = [
    (stating(tasks=frozenset()), "info", "info.tasks is empty", "at least one Task"),
    (stating(max_batch=0), "info", "max_batch is 0", "one input or more"),
    (stating(tasks=frozenset({Task.EMBED_TEXT}), embedding_dimensions=0), "info", "is 0", "length of its"),
    (stating(classes=("a", "a")), "info", "the class “a” is there twice", "a name of its own"),
    (stating(classes="a"), "info", "classes is 'a'", "a tuple of names"),
    (stating(input=InputSpec(0, 4)), "info", "height=0", "1 or more"),
    (stating(defaults=Options(min_score=25)), "info", "defaults.min_score is 25", "in 0..1"),
    (RaisesInPrepare, "runs", "prepare of its own example raised KeyError", "InputError"),
    (RaisesInBatches, "runs", "infer of a batch of 5 raised ValueError: shapes", "nothing else raises"),
    (RefusesItsExample, "runs", "its own example was refused: not today", "can be used"),
    (TooLarge, "prepared", "an array of (5, 4, 3), and info.input states (4, 4, 3)", "as info.input states"),
    (Floats, "prepared", "prepare gave float32, not uint8", "as info.input states"),
    (Bare, "prepared", "prepare gave a ndarray", "prepare answers Prepared(data)"),
    (OneBuffer, "prepared", "lies in the same memory", "a new array each time"),
    (Unhashable, "prepared", "Prepared.shape is a list", "prepare answers Prepared"),
    (TooFew, "length", "finish gave 4 answers to a batch of 5", "exactly one Output per item"),
    (Dicts, "length", "finish gave a dict for an answer", "exactly one Output per item"),
    (WritesInThePicture, "source", "prepare wrote into the pixels of", "copy first"),
    (NotFinite, "finite", "the score of “a” is nan", "every number"),
    (BoxOfNaN, "finite", "is not finite", "every number"),
    (OverOne, "scores", "the score of “a” is 1", "scores are in 0..1"),
    (BelowZero, "scores", "the score of “a” is -", "scores are in 0..1"),
    (AttributesRise, "scores", "“mood” are not in order", "scores are in 0..1"),
    (
        InPixels,
        "boxes",
        "the box (0, 0) to (640, 480) of “a” is not inside",
        "fractions of the upright picture",
    ),
    (UpsideDown, "boxes", "upside down", "x_min < x_max"),
    (Empty, "boxes", "or empty", "x_min < x_max"),
    (UnknownLabel, "labels", "“cat” is not a stated class", "info.classes"),
    (WrongNumber, "labels", "“b” came with class_id 0, and it is class 1", "the place there"),
    (NoVector, "vector", "the vector is missing", "float32 of shape"),
    (LongVector, "vector", "the shape (3,), and (2,) is stated", "float32 of shape"),
    (DoubleVector, "vector", "the vector is of float64", "float32 of shape"),
    (ZeroVector, "vector", "all zero", "not zero"),
    (Backwards, "order", "and holds the answer to", "in the order of the items"),
    (
        LooksBeside,
        "batching",
        "is another than alone (numbers differ by",
        "does not depend on its neighbours",
    ),
    (OnlyLargeBatches, "batching", "in a batch of 8 is another", "does not depend on its neighbours"),
    (AnswersViews, "kept", "changed while later batches ran", "memory of its own"),
    (AnswersItsBuffer, "kept", "changed while later batches ran", "memory of its own"),
    (FailsOnGrey, "awkward", "prepare of a grey picture raised ZeroDivisionError: sat", "raises InputError"),
    (FailsOnEmptyText, "awkward", "prepare of an empty text raised IndexError", "raises InputError"),
    (OverOneOnTall, "awkward", "for a picture of 1 x 4000 the score of “a” is", "scores are in 0..1"),
    (WillNotCut, "truncation", "was refused although the caller set truncate_text", "cuts what is too long"),
    (PrepareRaces, "threads", "in several threads at once", "prepare and finish may run in several"),
    (FinishRaces, "threads", "in several threads at once", "keep nothing of a call in self"),
    (InferRaces, "lanes", "in several threads at once", "infer may run in several threads"),
    (InferRaisesInTwo, "lanes", "raised RuntimeError: the session is in use", "nothing else raises"),
    (Heavy, "light", "infer of its own example took 2", "info.light promises less than 1 ms"),
]


FOLLOWS: dict[type[Honest], set[str]] = {AnswersItsBuffer: {"threads", "lanes"}}
"""What else such a mistake cannot but break."""


def failed(detector: Detector) -> list[Finding]:
    return [one for one in findings(detector, harness=ServerHarness()) if one.status is Status.FAILED]


@pytest.mark.parametrize("kind", [Honest, Texts, Pictures, Torch, Light])
def test_an_honest_detector_keeps_every_rule(kind: type[Honest]) -> None:
    assert failed(kind()) == []
    check(kind())


@pytest.mark.parametrize(
    ("kind", "rule", "seen", "right"),
    WRONG,
    ids=[f"{kind.__name__}-{seen[:24]}" for kind, _, seen, _ in WRONG],
)
def test_a_wrong_detector_is_caught_by_its_rule_alone(
    kind: type[Honest], rule: str, seen: str, right: str
) -> None:
    finding, *others = failed(kind())
    assert finding.rule == rule
    assert {one.rule for one in others} <= FOLLOWS.get(kind, set())
    assert seen in finding.seen
    assert right in finding.right
    assert "test_testing.py:" in finding.where


def test_every_rule_about_answers_is_broken_by_one_of_these() -> None:
    known = {one.rule for one in findings(Honest())}
    assert {rule for _, rule, _, _ in WRONG} == known


def test_check_names_every_rule_that_was_broken_and_where() -> None:
    with pytest.raises(AssertionError, match=r"^labels: detect: .*“cat” is not .* \[.*py:\d+ in finish\]$"):
        check(UnknownLabel())


def test_what_needs_samples_is_skipped_when_none_got_through() -> None:
    stands = {one.rule: one for one in findings(TooLarge())}
    assert stands["order"].status is Status.SKIPPED
    assert stands["order"].seen == "not reached, as “prepared” failed"


def test_a_rule_broken_by_one_task_of_two_names_the_task() -> None:
    class TextsOnly(Honest):
        stated: ClassVar[dict[str, Any]] = {"tasks": frozenset({Task.DETECT, Task.EMBED_TEXT})}

        def output(self, score: float, item: Item) -> Output:
            return super().output(score, item) if item.task is Task.EMBED_TEXT else Output([self.found(2)])

    (finding,) = failed(TextsOnly())
    assert (finding.rule, finding.task) == ("scores", "detect")


def test_the_place_is_the_line_that_raised() -> None:
    (finding,) = failed(FailsOnGrey())
    line = FailsOnGrey.level.__code__.co_firstlineno + 3
    assert finding.where.endswith(f"test_testing.py:{line} in level")


def test_inputs_of_different_shapes_share_no_batch() -> None:
    class Ragged(Honest):
        stated: ClassVar[dict[str, Any]] = {"input": None}

        def prepare(self, source: Input, task: Task, options: Options) -> Prepared:
            level = self.level(source)
            return Prepared(np.full(1 + level % 2, level), shape=level % 2)

        def infer(self, batch: Any) -> Any:
            return np.stack(batch).mean(1) / 255  # stacking fails for unequal lengths

    assert failed(Ragged()) == []


def test_detections_are_compared_whatever_their_order() -> None:
    near = [Detection(Box(x, 0, x + 0.1, 1), "a", score) for x, score in ((0.1, 0.5004), (0.7, 0.5005))]
    assert differences(Output(near), Output(near[::-1]), 1e-3) == ""
    moved = [near[0], Detection(Box(0.4, 0, 0.8, 1), "a", 0.5005)]
    assert differences(Output(near), Output(moved), 1e-3) == "numbers differ by 0.3"


def test_vectors_are_compared_at_length_one() -> None:
    one, two = (Output(vector=np.array([300, level], np.float32)) for level in (1.0, 1.01))
    assert differences(one, two, 1e-3) == ""
