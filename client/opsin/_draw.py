"""Results drawn on their pictures: boxes with labels, coloured by class, legible at any size."""

import colorsys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opsin._errors import InvalidInput
from opsin._extras import need
from opsin._images import to_pil
from opsin._results import Detection, DetectResult

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    Color = tuple[int, int, int]
    Rect = tuple[int, int, int, int]

__all__ = ["color_of", "draw"]

_GOLDEN = 0.618033988749895  # steps of the golden ratio keep the hues of neighbouring classes apart
_WHITE, _BLACK, _RED = (255, 255, 255), (16, 16, 16), (200, 16, 32)
_SLATE = (40, 44, 52)
_MAX_LABELS = 5


def draw(result: DetectResult, image: Any = None, *, note: str = "") -> "Image.Image":
    """A new picture with all that was found drawn on it. See `DetectResult.draw`.

    note: a line in the bottom left corner, such as a frame's number and age.
    """
    if result.width == 0:
        raise InvalidInput.at("image", "this result is of a text: there is nothing to draw on")
    source = result.source if image is None else image
    if source is None:
        raise InvalidInput.at("image", "the input was not kept: give the picture as image=")
    picture: Image.Image = to_pil(source).convert("RGB")
    canvas = _Canvas(picture)
    # From the least sure to the surest, so that the surest lies on top.
    for detection in reversed(result.detections):
        canvas.box(detection)
    canvas.panel(_lines(result))
    if note:
        canvas.note(note)
    for detection in result.detections:
        canvas.tag(detection)
    return picture


def color_of(name: str, class_id: int) -> "Color":
    """The colour of a class: the same in every picture."""
    seed = class_id or sum(name.encode())
    red, green, blue = colorsys.hsv_to_rgb(0.36 + seed * _GOLDEN % 1, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def caption(detection: Detection) -> str:
    """What stands beside a box: `#3 person 0.87 · happy 0.91 · “text”`."""
    track = f"#{detection.track_id} " if detection.track_id else ""
    said = [f"{track}{detection.label} {detection.score:.2f}"]
    said += [f"{a.labels[0].name} {a.labels[0].score:.2f}" for a in detection.attributes if a.labels]
    if detection.text:
        said.append(f"“{detection.text}”")
    return " · ".join(said)


def _lines(result: DetectResult) -> "Iterator[tuple[str, Color]]":
    if result.flagged:
        yield "flagged", _RED
    for label in result.labels[:_MAX_LABELS]:
        yield f"{label.name} {label.score:.2f}", color_of(label.name, label.class_id)


@dataclass(slots=True)
class _Style:
    """Sizes that suit a picture, in its pixels."""

    line: int
    text: int

    @classmethod
    def of(cls, width: int, height: int) -> "_Style":
        side = min(width, height)
        return cls(line=max(2, round(side / 240)), text=min(max(11, round(side / 32)), 64))


class _Canvas:
    """One picture being drawn on; knows where text stands already."""

    def __init__(self, picture: "Image.Image") -> None:
        self._picture = picture
        self._draw: ImageDraw.ImageDraw = need("PIL.ImageDraw", "Drawing").Draw(picture)
        self._style = _Style.of(*picture.size)
        self._font: ImageFont.FreeTypeFont = need("PIL.ImageFont", "Drawing").load_default(self._style.text)
        self._taken: list[Rect] = []

    def box(self, detection: Detection) -> None:
        """A rectangle in the colour of its class, with a dark edge that shows on any ground."""
        left, top, right, bottom = self._rect(detection)
        line = self._style.line
        self._draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_BLACK, width=line + 2)
        color = color_of(detection.label, detection.class_id)
        self._draw.rectangle((left, top, right, bottom), outline=color, width=line)

    def tag(self, detection: Detection) -> None:
        """The caption of a box: above it, inside, below or further down, where it covers no other."""
        left, top, _, bottom = self._rect(detection)
        text = caption(detection)
        width, height = self._size(text)
        # Further down: boxes that fill the picture have one corner between them.
        rows = (top - height, top, bottom, bottom - height, *range(top + height, bottom, height))
        places = [self._inside(left, y, width, height) for y in rows]
        free = (place for place in places if not any(_overlap(place, other) for other in self._taken))
        self._text(next(free, places[0]), text, color_of(detection.label, detection.class_id))

    def panel(self, lines: "Iterator[tuple[str, Color]]") -> None:
        """Lines about the whole picture, in its top left corner."""
        top = 0
        for text, color in lines:
            width, height = self._size(text)
            self._text(self._inside(0, top, width, height), text, color)
            top += height

    def note(self, text: str) -> None:
        """A line about the picture, in its bottom left corner."""
        self._text(self._inside(0, self._picture.height, *self._size(text)), text, _SLATE)

    def _rect(self, detection: Detection) -> "Rect":
        # By fractions: the picture drawn on may be of another size than the one looked at.
        pixels = detection.box.to_pixels(*self._picture.size)
        return pixels.x_min, pixels.y_min, pixels.x_max - 1, pixels.y_max - 1

    @property
    def _pad(self) -> int:
        return max(2, self._style.text // 5)

    def _size(self, text: str) -> tuple[int, int]:
        """Width of this text, and the same height for every text."""
        ascent, descent = self._font.getmetrics()
        return round(self._font.getlength(text)) + 2 * self._pad, ascent + descent + self._pad

    def _inside(self, left: int, top: int, width: int, height: int) -> "Rect":
        columns, rows = self._picture.size
        left = max(0, min(left, columns - width))
        top = max(0, min(top, rows - height))
        return left, top, left + width, top + height

    def _text(self, place: "Rect", text: str, color: "Color") -> None:
        left, top, right, bottom = place
        self._taken.append(place)
        self._draw.rectangle((left, top, right - 1, bottom - 1), fill=color)
        ink = _BLACK if _luminance(color) > 110 else _WHITE
        self._draw.text((left + self._pad, top + self._pad // 2), text, fill=ink, font=self._font)


def _luminance(color: "Color") -> float:
    red, green, blue = color
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _overlap(one: "Rect", other: "Rect") -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
