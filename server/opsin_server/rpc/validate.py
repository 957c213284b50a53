"""Checks of single option values: each takes the value and the path of its field, and raises `Failure`.

Owns what a value must be whichever model it is for. Knows plain Python values only; whether a model can use
an option, or has a class of that name, is decided where the model is known.
"""

import math
from collections.abc import Sequence

from opsin_detectors.api import Box
from opsin_server.errors import Failure, Reason

__all__ = ["above_zero", "at_most", "fraction", "length", "names", "region", "regions", "text", "words"]


def fraction(value: float, path: str) -> float:
    """A number in 0..1; NaN is not one."""
    if 0.0 <= value <= 1.0:
        return value
    raise Failure(
        Reason.OPTION_INVALID,
        f"{path} must be a number from 0 to 1, not {value:g}.",
        field=path,
        metadata={"value": f"{value:g}", "minimum": "0", "maximum": "1"},
    )


def above_zero(value: float, path: str) -> float:
    """A finite number greater than 0."""
    if math.isfinite(value) and value > 0.0:
        return value
    raise Failure(
        Reason.OPTION_INVALID,
        f"{path} must be a number greater than 0, not {value:g}.",
        field=path,
        metadata={"value": f"{value:g}", "minimum": "0"},
    )


def at_most(count: int, limit: int, what: str, path: str, reason: Reason = Reason.OPTION_INVALID) -> None:
    """No more than `limit` of `what` (a plural) in the field."""
    if count <= limit:
        return
    raise Failure(
        reason,
        f"{path} has {count} {what}; this server takes at most {limit}.",
        field=path,
        metadata={"count": str(count), "limit": str(limit)},
    )


def names(values: Sequence[str], limit: int, path: str) -> tuple[str, ...]:
    """Class names: not too many, none empty."""
    at_most(len(values), limit, "entries", path)
    taken = tuple(values)
    if "" in taken:
        at = f"{path}[{taken.index('')}]"
        raise Failure(Reason.OPTION_INVALID, f"{at} is empty; it must be the name of a class.", field=at)
    return taken


def words(values: Sequence[str], limit: int, characters: int, path: str) -> tuple[str, ...]:
    """Names that a model reads as text: together no longer than one text may be."""
    taken = names(values, limit, path)
    length(sum(map(len, taken)), characters, path)
    return taken


def text(value: str, limit: int, path: str) -> str:
    """A text: at least one character, at most `limit`."""
    if not value:
        raise Failure(Reason.INPUT_MISSING, f"{path} is empty; it needs at least one character.", field=path)
    length(len(value), limit, path)
    return value


def length(characters: int, limit: int, path: str) -> None:
    """At most `limit` characters (Unicode code points)."""
    at_most(characters, limit, "characters", path, Reason.TEXT_TOO_LONG)


def regions(values: Sequence[Box], limit: int, path: str) -> tuple[Box, ...]:
    """The parts of a picture to look at."""
    at_most(len(values), limit, "regions", path)
    return tuple(region(box, f"{path}[{index}]") for index, box in enumerate(values))


def region(box: Box, path: str) -> Box:
    """A rectangle inside the picture with an area. NaN fails every comparison, so it fails here too."""
    edges = (box.x_min, box.y_min, box.x_max, box.y_max)
    if not all(0.0 <= edge <= 1.0 for edge in edges):
        raise _region(path, "must lie within the image, all edges from 0 to 1", box)
    if not (box.x_min < box.x_max and box.y_min < box.y_max):
        raise _region(path, "is empty or inverted: x_min must be below x_max and y_min below y_max", box)
    return box


def _region(path: str, what: str, box: Box) -> Failure:
    edges = f"{box.x_min:g}, {box.y_min:g}, {box.x_max:g}, {box.y_max:g}"
    return Failure(
        Reason.REGION_INVALID, f"{path} {what}; it is ({edges}).", field=path, metadata={"box": edges}
    )
