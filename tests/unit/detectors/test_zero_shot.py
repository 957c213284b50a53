"""Zero-shot models tell pictures by the caller's classes as the stock pipeline does, alone or in a batch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.grounding_dino.modeling_grounding_dino import build_label_maps

import checkpoints
from opsin_detectors.api import (
    Detector,
    ImageInput,
    InputError,
    LoadError,
    Options,
    Output,
    Prepared,
    Task,
    TextInput,
    TextTooLongError,
)
from opsin_detectors.transformers.label_features import LabelFeatures
from opsin_detectors.transformers.prompts import NOBODY, prompt

from .batches import answered, open_, photo

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CLASSIFIERS: dict[str, Callable[[], Path]] = {
    "clip": checkpoints.clip,
    "siglip": checkpoints.siglip,
    "siglip2_naflex": checkpoints.siglip2_naflex,
}
GROUNDED: dict[str, Callable[[], Path]] = {
    "grounding_dino": checkpoints.grounding_dino,
    "mm_grounding_dino": partial(checkpoints.grounding_dino, "MMGroundingDino"),
}
OWLS: dict[str, Callable[[], Path]] = {"owlvit": checkpoints.owlvit, "owlv2": checkpoints.owlv2}
DETECTORS = OWLS | GROUNDED
# The first and the last are of one size, and so nearly of one length that they are padded alike.
LABELS = [("cat", "a dog"), ("x",), ("a dog", "red", "cat", "sun"), ("Sun", "my dog")]
SHORT = {"template": "{}"}  # the tiny tokenizers spell every letter
# Our resizing differs from the processor's by a level in places; the random weights make that up to so much.
TOLERANCE = 0.03


def plain(kind: str) -> Detector:
    """A detector that reads labels as they are."""
    folder = {**CLASSIFIERS, **DETECTORS}[kind]()
    return open_(folder) if kind in DETECTORS else open_(folder, **SHORT)


PHOTOS = [photo(96, 64, 1), photo(50, 120, 2), photo(96, 64, 3), photo(96, 64, 4)]
GIVEN = [
    (one, Options(candidate_labels=labels, min_score=0.0, max_detections=1000))
    for one, labels in zip(PHOTOS, LABELS, strict=True)
]


def answer(detector: Detector, given: list[tuple[ImageInput, Options]]) -> list[Output]:
    """All in as few batches as their shapes allow, answered in the order given."""
    return answered(detector, given, Task.ZERO_SHOT)


def stock_scores(folder: Path, source: ImageInput, labels: tuple[str, ...], template: str) -> list[float]:
    """What transformers' own answer, in the order of the labels: the pipeline, or for SigLIP what it does."""
    pipeline: Any = transformers.pipeline("zero-shot-image-classification", model=str(folder), device="cpu")
    picture = Image.fromarray(source.pixels)
    if "siglip" not in pipeline.model.config.model_type:
        found = pipeline(picture, candidate_labels=list(labels), hypothesis_template=template)
        scores = {one["label"]: one["score"] for one in found}
        return [scores[label] for label in labels]
    # The pipeline pads to 64 tokens whatever the model; these tiny ones have 24.
    texts = [template.format(label) for label in labels]
    tokens = pipeline.tokenizer(texts, padding="max_length", max_length=24, return_tensors="pt")
    with torch.inference_mode():
        answered = pipeline.model(**tokens, **pipeline.image_processor(images=picture, return_tensors="pt"))
    logits: list[float] = answered.logits_per_image.sigmoid()[0].tolist()
    return logits


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_scores_are_the_stock_pipelines_in_batches_of_mixed_sizes_and_classes(kind: str) -> None:
    folder = CLASSIFIERS[kind]()

    outputs = answer(open_(folder, **SHORT), GIVEN)

    for output, (source, options) in zip(outputs, GIVEN, strict=True):
        wanted = stock_scores(folder, source, options.candidate_labels, "{}")
        assert tuple(one.name for one in output.labels) == options.candidate_labels
        assert [one.class_id for one in output.labels] == list(range(len(wanted)))
        # In log-odds, because SigLIP's scores are small: 0.15 is a seventh of such a score.
        np.testing.assert_allclose(odds([one.score for one in output.labels]), odds(wanted), atol=0.15)
    assert np.ptp(odds([one.score for one in outputs[2].labels])) > 0.3


def odds(scores: list[float]) -> np.ndarray[Any, Any]:
    """Log-odds; a lone class of a softmax has score 1."""
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(clipped / (1 - clipped)))


def test_a_label_stands_in_the_sentence_that_the_stock_pipeline_makes() -> None:
    detector = open_(checkpoints.clip())
    [output] = answer(detector, [(GIVEN[0][0], Options(candidate_labels=("cat", "dog")))])

    wanted = stock_scores(checkpoints.clip(), GIVEN[0][0], ("cat", "dog"), "This is a photo of {}.")
    np.testing.assert_allclose([one.score for one in output.labels], wanted, atol=TOLERANCE)


@pytest.mark.parametrize("kind", [*CLASSIFIERS, *DETECTORS])
def test_an_answer_does_not_depend_on_its_neighbours(kind: str) -> None:
    detector = plain(kind)

    together = answer(detector, GIVEN)
    alone = [answer(detector, [pair])[0] for pair in GIVEN]

    for one, two in zip(together, alone, strict=True):
        first, second = table(one), table(two)
        assert len(first)
        np.testing.assert_allclose(first, second, atol=1e-4)


def table(output: Output) -> np.ndarray[Any, Any]:
    """All numbers of an answer: detections in the order of where they are, because scores may tie."""
    rows = [(o.class_id, o.score) for o in output.labels]
    boxes = [(o.class_id, o.box.x_min, o.box.y_min, o.box.x_max, o.score) for o in output.detections]
    return np.array(rows or sorted(boxes, key=lambda row: [round(value, 3) for value in row[:4]]))


def stock_boxes(folder: Path, source: ImageInput, labels: tuple[str, ...]) -> np.ndarray[Any, Any]:
    """(places, 6) of label, score and corners in fractions, cut at the edges: stock processor and model."""
    model: Any = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    size = [(source.height, source.width)]
    stock = _stock_owl if "owl" in model.config.model_type else _stock_grounded
    found = stock(folder, model, Image.fromarray(source.pixels), size, labels)
    boxes = (found["boxes"] / torch.tensor([source.width, source.height] * 2)).clamp(0, 1)
    return torch.column_stack([found["labels"], found["scores"], boxes]).numpy()


def _stock_grounded(folder: Path, model: Any, picture: Any, size: Any, labels: tuple[str, ...]) -> Any:
    """Of the tokens that the model's own module counts as a label's: as weights are random here, the full
    stops between the labels are often the likeliest, which those of a trained model never are."""
    auto: Any = transformers.AutoImageProcessor
    tokenizer: Any = transformers.AutoTokenizer
    processor: Any = transformers.GroundingDinoProcessor(
        auto.from_pretrained(folder), tokenizer.from_pretrained(folder)
    )
    given = processor(images=picture, text=list(labels), return_tensors="pt")
    with torch.inference_mode():
        raw = model(**given)
    [owners] = build_label_maps(raw.logits, given["input_ids"])  # (labels, tokens) of 0 and 1
    by_label = raw.logits[0, :, None].masked_fill(owners == 0, -torch.inf).amax(-1)
    raw.logits = raw.logits.masked_fill(owners.sum(0) == 0, -torch.inf)
    [found] = processor.post_process_grounded_object_detection(
        raw, given["input_ids"], threshold=-1.0, target_sizes=size
    )
    return {"boxes": found["boxes"], "scores": found["scores"], "labels": by_label.argmax(-1)}


def _stock_owl(folder: Path, model: Any, picture: Any, size: Any, labels: tuple[str, ...]) -> Any:
    auto: Any = transformers.AutoProcessor
    processor = auto.from_pretrained(folder)
    auto = transformers.AutoImageProcessor
    given = auto.from_pretrained(folder)(images=picture, return_tensors="pt")
    auto = transformers.AutoTokenizer
    texts = auto.from_pretrained(folder)(
        list(labels), padding="max_length", max_length=16, return_tensors="pt", truncation=True
    )
    with torch.inference_mode():
        raw = model(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"], **given)
    [found] = processor.image_processor.post_process_object_detection(raw, threshold=0.0, target_sizes=size)
    return found


@pytest.mark.parametrize("kind", DETECTORS)
def test_boxes_are_the_stock_processors_and_models_in_batches_of_mixed_sizes_and_classes(kind: str) -> None:
    folder = DETECTORS[kind]()

    outputs = answer(open_(folder), GIVEN)

    for output, (source, options) in zip(outputs, GIVEN, strict=True):
        theirs = stock_boxes(folder, source, options.candidate_labels)
        assert len(output.detections) == len(theirs) == (36 if kind in OWLS else 12)
        left = list(output.detections)
        for label, score, *corners in theirs:
            twins = [
                one
                for one in left
                if np.abs(
                    np.subtract((one.box.x_min, one.box.y_min, one.box.x_max, one.box.y_max), corners)
                ).max()
                <= TOLERANCE
                and one.class_id == label
                and abs(one.score - score) <= TOLERANCE
            ]
            assert twins, f"{label} {score} {corners}"
            left.remove(twins[0])
        assert {one.label for one in output.detections} <= set(options.candidate_labels)


def test_what_owlv2_does_to_pixels_is_left_to_its_own_processor() -> None:
    prepared = open_(checkpoints.owlv2()).prepare(GIVEN[0][0], Task.ZERO_SHOT, GIVEN[0][1])

    auto: Any = transformers.AutoImageProcessor
    theirs = auto.from_pretrained(checkpoints.owlv2())(
        images=Image.fromarray(GIVEN[0][0].pixels), return_tensors="np"
    )
    np.testing.assert_array_equal(prepared.data.picture["pixel_values"], theirs["pixel_values"][0])


@pytest.mark.parametrize("kind", [*CLASSIFIERS, *DETECTORS])
def test_a_waiting_picture_counts_its_bytes(kind: str) -> None:
    detector = plain(kind)
    for task in detector.info.tasks - {Task.EMBED_TEXT}:
        data = detector.prepare(GIVEN[0][0], task, GIVEN[0][1]).data

        assert data.nbytes >= 16 * 16 * 3, task


@pytest.mark.parametrize("kind", ["clip", "siglip", "owlvit"])
def test_pixels_stay_bytes_where_that_gives_the_stock_processors(kind: str) -> None:
    folder = {**CLASSIFIERS, **DETECTORS}[kind]()
    detector = open_(folder, **SHORT)
    data: Any = detector.prepare(GIVEN[0][0], Task.ZERO_SHOT, GIVEN[0][1]).data
    pixels = data.picture if kind == "owlvit" else data.data.picture

    auto: Any = transformers.AutoImageProcessor
    processor = auto.from_pretrained(folder)
    theirs = processor(images=Image.fromarray(GIVEN[0][0].pixels), return_tensors="np")["pixel_values"][0]
    levels = (theirs.transpose(1, 2, 0) * processor.image_std + processor.image_mean) * 255

    assert pixels.dtype == np.uint8
    assert np.abs(pixels - levels).max() <= 3.0  # bicubic clips in another order
    assert np.abs(pixels - levels).mean() <= 0.5


def test_equal_classes_cost_the_text_tower_once() -> None:
    runs: list[int] = []
    features, tower = _counted(runs)

    first = features(["cat", "dog", "cat"])
    again = features(["dog", "cat", "bird"])

    assert runs == [2, 1]
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[0], again[1])
    assert torch.equal(tower([np.array([ord("b")])])[0], again[2])


def test_only_so_many_classes_are_kept_and_the_longest_unused_goes_first() -> None:
    runs: list[int] = []
    features, _ = _counted(runs, kept=2)

    features(["a", "b"])
    features(["a"])
    features(["c"])
    runs.clear()
    features(["a", "c"])
    assert runs == []
    features(["b"])
    assert runs == [1]


def test_more_classes_than_are_kept_are_answered_all_the_same() -> None:
    features, _ = _counted([], kept=2)

    assert features(list("abcdef")).shape == (6, 1)


def _counted(runs: list[int], kept: int = 4096) -> tuple[LabelFeatures, Any]:
    """A tower whose feature is a label's first letter, and which writes down its batches."""

    class Letters:
        def prepare(self, text: str, *, truncate: bool) -> Prepared:
            return Prepared(np.array([ord(text[0])]), shape=1)

    def tower(batch: Any) -> torch.Tensor:
        runs.append(len(batch))
        return torch.tensor(np.stack(batch), dtype=torch.float32)

    letters: Any = Letters()
    return LabelFeatures(letters, tower, "{}", kept), tower


def test_a_picture_of_the_same_model_can_be_embedded_and_told_apart() -> None:
    tasks = {Task.EMBED_IMAGE, Task.EMBED_TEXT, Task.ZERO_SHOT}

    assert open_(checkpoints.clip()).info.tasks == tasks
    assert open_(checkpoints.owlv2()).info.tasks == {Task.DETECT, Task.ZERO_SHOT}


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("clip", "candidate_labels[1]"),
        ("owlvit", "candidate_labels[1]"),
        ("grounding_dino", "candidate_labels"),
    ],
)
def test_a_label_that_is_too_long_is_refused_unless_it_may_be_cut(kind: str, field: str) -> None:
    detector = plain(kind)
    long = ("fine", "long " * 20)

    with pytest.raises(TextTooLongError, match="tokens long, and the model reads at most") as refused:
        detector.prepare(GIVEN[0][0], Task.ZERO_SHOT, Options(candidate_labels=long))
    [output] = answer(
        detector, [(GIVEN[0][0], Options(candidate_labels=long, truncate_text=True, min_score=0.0))]
    )
    assert refused.value.option == field
    found = {one.name for one in output.labels} or {one.label for one in output.detections}
    assert found
    assert found <= set(long)
    with pytest.raises(TextTooLongError):  # that one caller let it be cut says nothing for the next
        detector.prepare(GIVEN[0][0], Task.ZERO_SHOT, Options(candidate_labels=long))


def test_every_token_of_a_prompt_is_its_labels_or_nobodys() -> None:
    detector = plain("grounding_dino")
    ready = detector.prepare(PHOTOS[0], Task.ZERO_SHOT, Options(candidate_labels=("A cat ", "st. bear", "x")))

    assert prompt(("A cat ", "st. bear", "x")) == "a cat. st. bear. x."
    owned = "".join("." if owner == NOBODY else str(owner) for owner in ready.state)
    # Begin, “a cat”, its stop, “ st. bear” with the stop inside, its stop, “ x”, its stop, end, padding.
    assert owned == "." + "00000" + "." + "111111111" + "." + "22" + "." + "...."


@pytest.mark.parametrize("template", ["a photo", "{} {}", "{0}", "{"])
def test_a_template_without_a_place_for_the_label_is_refused(template: str) -> None:
    with pytest.raises(LoadError, match="template"):
        open_(checkpoints.clip(), template=template)


def test_a_text_is_refused_in_the_callers_words() -> None:
    with pytest.raises(InputError, match="given a text"):
        open_(checkpoints.clip()).prepare(TextInput("hello"), Task.ZERO_SHOT, GIVEN[0][1])
