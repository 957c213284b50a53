"""What a graph's outputs mean: from arrays to scores, or to boxes with scores. Pure numpy.

Every form of boxes becomes one, `Found`: corners in fractions of the graph's input, and one score and class
for each. A box takes the class it scores highest for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from opsin_detectors.api import LoadError
from opsin_detectors.onnx.description import Description

__all__ = ["Found", "activated", "boxes", "pick_outputs", "scores"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a batch of B pictures shows, N boxes each.

    corners: (B, N, 4) x_min, y_min, x_max, y_max in fractions of the input. score: (B, N). label: (B, N),
    -1 where there is nothing.
    """

    corners: Floats
    score: Floats
    label: npt.NDArray[np.int64]


def pick_outputs(arrays: Sequence[Array], names: Sequence[str], about: Description) -> dict[str, Array]:
    """The outputs by their role: those that the description names, else in the graph's order.

    A single number is none of them: it says nothing of any picture. Raises LoadError for a name that the
    graph does not have, for one of a single number, and for too few outputs.
    """
    known = dict(zip(names, arrays, strict=True))
    for role, name in about.outputs.items():
        if name not in known:
            raise LoadError(
                f"{about.place}: “outputs.{role}” is “{name}”, and the graph's outputs are {', '.join(names)}"
            )
        if not known[name].ndim:
            raise LoadError(
                f"{about.place}: “outputs.{role}” is “{name}”, which is a single number for all pictures"
            )
    if about.outputs:
        return {role: known[name] for role, name in about.outputs.items()}
    rows = [array for array in arrays if array.ndim]
    return dict(zip(_order(about.head, len(rows)), rows, strict=False))


def _order(head: str, count: int) -> tuple[str, ...]:
    match head:
        case "classifier":
            return ("scores",)
        case "yolo":
            return ("boxes",)
        case "detr":
            return ("scores", "boxes")
        case _:
            return ("boxes", "scores", "classes")[:count]


def activated(raw: Array, activation: str) -> Floats:
    """Scores over the last axis, float32."""
    numbers = raw.astype(np.float32)
    match activation:
        case "softmax":
            powers = np.exp(numbers - numbers.max(-1, keepdims=True))
            shares: Floats = powers / powers.sum(-1, keepdims=True)
            return shares
        case "sigmoid":
            # exp of a negative number only, so that nothing overflows
            small = np.exp(-np.abs(numbers))
            return np.where(numbers >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
        case _:
            return numbers


def scores(outputs: Mapping[str, Array], about: Description) -> Floats:
    """(B, classes) of a classifier. Raises LoadError when the output has another number of classes."""
    raw = _role(outputs, "scores", about)
    raw = raw.reshape(len(raw), -1)
    count = len(about.labels)
    if raw.shape[1] == 1 and count == 2 and about.activation == "sigmoid":
        positive = activated(raw, "sigmoid")
        return np.concatenate([1 - positive, positive], 1)
    if raw.shape[1] != count:
        raise LoadError(f"{about.place}: “labels” names {count} classes, and the graph scores {raw.shape[1]}")
    return activated(raw, about.activation)


def boxes(outputs: Mapping[str, Array], about: Description, size: tuple[int, int]) -> Found:
    """The boxes of any head that gives some. size: (width, height) of the graph's input in pixels.

    Raises LoadError when the shapes are none of the head's.
    """
    match about.head:
        case "yolo":
            corners, found, label = _yolo(_role(outputs, "boxes", about), about)
        case _:
            corners, found, label = _separate(outputs, about)
    if corners.shape[-1] != 4:
        raise LoadError(
            f"{about.place}: the output “boxes” has shape {corners.shape}, and needs 4 numbers a box"
        )
    return Found(_fractions(corners.astype(np.float32), about, size), found, label)


def _yolo(raw: Array, about: Description) -> tuple[Array, Floats, npt.NDArray[np.int64]]:
    """(B, N, numbers) or (B, numbers, N): 4 of the box, then objectness (v5), then a score for each class.

    nms: (B, N, 6) of corners, score and class.
    """
    count, form = len(about.labels), about.boxes.form
    numbers = {"v8": 4 + count, "v5": 5 + count, "nms": 6}[form]
    if raw.ndim != 3 or numbers not in raw.shape[1:]:
        raise LoadError(
            f"{about.place}: the output has shape {raw.shape}; “boxes.form” {form} with {count} labels is "
            f"(batch, boxes, {numbers}) or (batch, {numbers}, boxes)"
        )
    if raw.shape[2] != numbers:
        raw = raw.transpose(0, 2, 1)
    if form == "nms":
        return raw[..., :4], raw[..., 4].astype(np.float32), _whole(raw[..., 5], count)
    found = activated(raw[..., numbers - count :], about.activation)
    if form == "v5":
        found = found * activated(raw[..., 4:5], "sigmoid" if about.activation == "sigmoid" else "none")
    return raw[..., :4], *_best(found)


def _separate(
    outputs: Mapping[str, Array], about: Description
) -> tuple[Array, Floats, npt.NDArray[np.int64]]:
    """Boxes and scores in outputs of their own, and classes too where the graph has chosen them."""
    corners, raw = _role(outputs, "boxes", about), _role(outputs, "scores", about)
    corners = corners.reshape(len(corners), -1, corners.shape[-1])
    if "classes" in outputs and raw.ndim == 2:
        shift = 1 if about.boxes.background == "first" else 0
        return corners, activated(raw, _alone(about)), _whole(outputs["classes"] - shift, len(about.labels))
    count = len(about.labels) + (about.boxes.background != "none")
    if raw.ndim != 3 or raw.shape[-1] != count:
        raise LoadError(
            f"{about.place}: “labels” names {len(about.labels)} classes, so with “boxes.background” = "
            f"“{about.boxes.background}” scores are (batch, boxes, {count}), and the graph's are {raw.shape}"
        )
    found = activated(raw, about.activation)
    match about.boxes.background:
        case "first":
            found = found[..., 1:]
        case "last":
            found = found[..., :-1]
    return corners, *_best(found)


def _alone(about: Description) -> str:
    """The activation of one score a box; a softmax of one number would always be 1."""
    return "none" if about.activation == "softmax" else about.activation


def _best(found: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    return found.max(-1), found.argmax(-1).astype(np.int64)


def _whole(label: Array, count: int) -> npt.NDArray[np.int64]:
    """Classes as whole numbers; -1 for padding and for what has no name."""
    whole = np.nan_to_num(label, nan=-1.0, posinf=-1.0, neginf=-1.0).astype(np.int64)
    return np.where((whole >= 0) & (whole < count), whole, -1)


def _fractions(raw: Floats, about: Description, size: tuple[int, int]) -> Floats:
    match about.boxes.corners:
        case "cxcywh":
            half = raw[..., 2:] / 2
            corners = np.concatenate([raw[..., :2] - half, raw[..., :2] + half], -1)
        case "yxyx":
            corners = raw[..., [1, 0, 3, 2]]
        case _:
            corners = raw
    if about.boxes.unit == "fractions":
        return corners
    scaled: Floats = (corners / np.array(size * 2)).astype(np.float32)
    return scaled


def _role(outputs: Mapping[str, Array], role: str, about: Description) -> Array:
    if role not in outputs:
        raise LoadError(
            f"{about.place}: head {about.head} needs the graph's output of {role}: “outputs.{role}”"
        )
    return outputs[role]
