"""What a graph does not say of itself: how a picture becomes its input, and what its outputs mean.

Read from a TOML file beside the graph (`model.toml` for `model.onnx`). The whole form, with its defaults:

    head = "classifier"           # classifier, yolo, ssd or detr; needed
    labels = ["cat", "dog"]       # or a file beside this one with a name a line; needed
    activation = "softmax"        # of the scores: softmax, sigmoid or none
    min_score = 0.25              # boxes: below it nothing is a detection
    iou_threshold = 0.45          # boxes of one class that overlap more are one; 1 keeps all
    max_batch = 32                # where the graph leaves the batch open

    [input]
    layout = "NCHW"               # or NHWC
    size = [640, 640]             # width, height; needed only where the graph leaves them open
    colors = "RGB"                # or BGR
    resize = "stretch"            # letterbox, letterbox-center, or crop: the middle of the picture
    short_side = 256              # crop: the shorter side is made this long first; default: as it has to be
    filter = "bilinear"           # or bicubic; both antialiased
    fill = 114                    # letterbox: the level around the picture
    divide = 255.0                # input = (level / divide - mean) / std, in the order of `colors`
    mean = [0.0, 0.0, 0.0]
    std = [1.0, 1.0, 1.0]

    [boxes]                       # heads that give boxes; each head has its own defaults
    form = "v8"                   # yolo: v8 (no objectness), v5 (objectness), nms (suppressed in the graph)
    corners = "cxcywh"            # cxcywh, xyxy or yxyx
    unit = "pixels"               # of the input, or fractions of it
    suppress = true               # whether overlapping boxes are still to be suppressed
    background = "none"           # scores of "no object": none, first or last class

    [outputs]                     # names of the graph's outputs, where their order does not tell
    boxes = "boxes"
    scores = "scores"
    classes = "classes"

Owns the form and its errors; opens no graph.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from opsin_detectors.api import LoadError

__all__ = ["BoxForm", "Description", "PictureForm", "read"]

_HEADS = ("classifier", "yolo", "ssd", "detr")
_TOP = (
    "head",
    "labels",
    "activation",
    "min_score",
    "iou_threshold",
    "max_batch",
    "input",
    "boxes",
    "outputs",
)
_INPUT = ("layout", "size", "colors", "resize", "short_side", "filter", "fill", "divide", "mean", "std")
_BOXES = ("form", "corners", "unit", "suppress", "background")
_OUTPUTS = ("boxes", "scores", "classes")

# What the common exporters of each family write.
_CORNERS = {"yolo": "cxcywh", "ssd": "xyxy", "detr": "cxcywh"}
_UNIT = {"yolo": "pixels", "ssd": "fractions", "detr": "fractions"}
_BACKGROUND = {"yolo": "none", "ssd": "none", "detr": "last"}
_ACTIVATION = {"classifier": "softmax", "yolo": "none", "ssd": "none", "detr": "softmax"}


@dataclass(frozen=True, slots=True)
class PictureForm:
    """How a picture becomes the graph's input. size: (width, height), (0, 0) where the graph tells."""

    layout: str = "NCHW"
    size: tuple[int, int] = (0, 0)
    colors: str = "RGB"
    resize: str = "stretch"
    short_side: int = 0
    filter: str = "bilinear"
    fill: int = 114
    divide: float = 255.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class BoxForm:
    """How boxes are written in the graph's outputs."""

    form: str = "v8"
    corners: str = "cxcywh"
    unit: str = "pixels"
    suppress: bool = True
    background: str = "none"


@dataclass(frozen=True, slots=True)
class Description:
    """Everything the file says. outputs: role -> name, empty where the order tells. place: the file."""

    head: str
    labels: tuple[str, ...]
    activation: str
    place: Path
    min_score: float = 0.25
    iou_threshold: float = 0.45
    max_batch: int = 32
    picture: PictureForm = field(default_factory=PictureForm)
    boxes: BoxForm = field(default_factory=BoxForm)
    outputs: Mapping[str, str] = field(default_factory=dict)


def read(path: Path) -> Description:
    """The description in a file. Raises LoadError naming the file, the field, and what would be right."""
    table = _Table(_parsed(path), path)
    table.know(_TOP)
    head = table.choice("head", "", _HEADS)
    return Description(
        head=head,
        labels=_labels(table, path),
        activation=table.choice("activation", _ACTIVATION[head], ("softmax", "sigmoid", "none")),
        place=path,
        min_score=table.number("min_score", 0.25, least=0.0, most=1.0),
        iou_threshold=table.number("iou_threshold", 0.45, least=0.0, most=1.0),
        max_batch=table.whole("max_batch", 32, least=1),
        picture=_picture(table.table("input")),
        boxes=_boxes(table.table("boxes"), head),
        outputs=_outputs(table.table("outputs")),
    )


def _picture(table: "_Table") -> PictureForm:
    table.know(_INPUT)
    return PictureForm(
        layout=table.choice("layout", "NCHW", ("NCHW", "NHWC")),
        size=table.size("size"),
        colors=table.choice("colors", "RGB", ("RGB", "BGR")),
        resize=table.choice("resize", "stretch", ("stretch", "letterbox", "letterbox-center", "crop")),
        short_side=table.whole("short_side", 0, least=0),
        filter=table.choice("filter", "bilinear", ("bilinear", "bicubic")),
        fill=table.whole("fill", 114, least=0, most=255),
        divide=table.number("divide", 255.0, above=0.0),
        mean=table.three("mean", (0.0, 0.0, 0.0)),
        std=table.three("std", (1.0, 1.0, 1.0), above=0.0),
    )


def _boxes(table: "_Table", head: str) -> BoxForm:
    table.know(_BOXES)
    form = table.choice("form", "v8", ("v8", "v5", "nms"))
    done = head == "detr" or form == "nms"
    return BoxForm(
        form=form,
        corners=table.choice(
            "corners", "xyxy" if form == "nms" else _CORNERS.get(head, "xyxy"), ("cxcywh", "xyxy", "yxyx")
        ),
        unit=table.choice("unit", _UNIT.get(head, "pixels"), ("pixels", "fractions")),
        suppress=table.switch("suppress", not done),
        background=table.choice("background", _BACKGROUND.get(head, "none"), ("none", "first", "last")),
    )


def _outputs(table: "_Table") -> dict[str, str]:
    table.know(_OUTPUTS)
    return {role: table.text(role, "") for role in _OUTPUTS if role in table.values}


def _labels(table: "_Table", path: Path) -> tuple[str, ...]:
    match table.values.get("labels"):
        case [*names] if names and all(isinstance(name, str) and name for name in names):
            labels = tuple(names)
        case str(file) if file:
            labels = _lines(table, path.parent / file)
        case _:
            raise table.wrong("labels", "is needed: a list of names, or a file with a name a line")
    if len(set(labels)) < len(labels):
        twice = next(name for name in labels if labels.count(name) > 1)
        raise table.wrong("labels", f"names “{twice}” twice")
    return labels


def _lines(table: "_Table", file: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise table.wrong("labels", f"names {file}, which cannot be read: {error}") from error
    if not names:
        raise table.wrong("labels", f"names {file}, which is empty")
    return names


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of the file, with checked access. section: its name with a dot, empty for the top."""

    values: Mapping[str, Any]
    place: Path
    section: str = ""

    def wrong(self, key: str, why: str) -> LoadError:
        return LoadError(f"{self.place}: “{self.section}{key}” {why}")

    def know(self, keys: Sequence[str]) -> None:
        """Refuse what is none of these keys."""
        for key in self.values:
            if key not in keys:
                near = get_close_matches(key, keys, n=1)
                hint = f"did you mean “{near[0]}”?" if near else f"known: {', '.join(keys)}"
                raise LoadError(f"{self.place}: unknown key “{self.section}{key}”; {hint}")

    def table(self, key: str) -> "_Table":
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "has to be a table")
        return _Table(value, self.place, f"{key}.")

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "has to be a string")
        return value

    def choice(self, key: str, default: str, known: Sequence[str]) -> str:
        value = self.text(key, default)
        if value not in known:
            said = f"has to be one of {', '.join(known)}" + (f", not “{value}”" if value else "")
            raise self.wrong(key, said)
        return value

    def switch(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "has to be true or false")
        return value

    def number(
        self,
        key: str,
        default: float,
        *,
        least: float = -math.inf,
        most: float = math.inf,
        above: float = -math.inf,
    ) -> float:
        return self._number(key, self.values.get(key, default), least=least, most=most, above=above)

    def _number(self, key: str, value: object, *, least: float, most: float, above: float) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.wrong(key, "has to be a number")
        if not least <= value <= most or value <= above:
            limit = f"above {above:g}" if above > -math.inf else f"from {least:g} to {most:g}"
            raise self.wrong(key, f"has to be {limit}, not {value:g}")
        return float(value)

    def whole(self, key: str, default: int, *, least: int, most: int = 1 << 20) -> int:
        value = self.number(key, default, least=least, most=most)
        if value != int(value):
            raise self.wrong(key, f"has to be a whole number, not {value:g}")
        return int(value)

    def three(self, key: str, default: tuple[float, ...], *, above: float = -math.inf) -> tuple[float, ...]:
        value = self.values.get(key, default)
        if not isinstance(value, (list, tuple)) or len(value) != 3:
            raise self.wrong(key, "has to be three numbers, one a channel")
        return tuple(self._number(key, one, least=-math.inf, most=math.inf, above=above) for one in value)

    def size(self, key: str) -> tuple[int, int]:
        match self.values.get(key, [0, 0]):
            case [int(width), int(height)] if min(width, height) >= 0 and max(width, height) <= 1 << 16:
                return width, height
            case _:
                raise self.wrong(key, "has to be [width, height] in pixels")
