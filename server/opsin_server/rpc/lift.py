"""Large pictures, taken out of a message before it is parsed, so that nobody copies them.

Parsing copies every field, and so does reading one: with the 6 MB of a raw 1080p picture that is a
millisecond of the event loop, and the picture is in memory three times. Instead its bytes stay where gRPC put
them: what is parsed holds a name in their place, which nobody outside can guess, and `pixels` finds the view
of them again, for as long as whoever lifted it keeps it.

Owns where pictures lie in a message. Only a message that has them once is touched; whatever is unusual is
left for the parser, as is everything broken. Batches are parsed as they come.
"""

import functools
import itertools
import secrets
from typing import Any
from weakref import WeakValueDictionary

from google.protobuf.message import Message

from opsin_server.rpc import varint

__all__ = ["LARGE", "lift", "pixels"]

LARGE = 1 << 20
"""Bytes. Copying fewer takes less than 0.1 ms."""

MOST_FIELDS = 64
"""Fields beside the one looked for that are stepped over, each some microseconds."""

_WAYS = (
    ("image", "encoded"),
    ("image", "raw", "data"),
    ("frame", "image", "encoded"),
    ("frame", "image", "raw", "data"),
)
_BYTES = 2
_SECRET, _NUMBERS = secrets.token_bytes(16), itertools.count()
_lifted: "WeakValueDictionary[bytes, memoryview]" = WeakValueDictionary()


def lift(kind: type[Message], data: bytes) -> tuple[bytes, memoryview | None]:
    """What is to be parsed in place of `data`, a message of type `kind`, and its pixels, to be kept."""
    if len(data) <= LARGE:
        return data, None
    for tags in _tags(kind.DESCRIPTOR):
        spans = _spans(data, tags)
        if spans is not None and spans[-1][2] - spans[-1][1] > LARGE:
            name = _SECRET + next(_NUMBERS).to_bytes(8, "big")
            found = _lifted[name] = memoryview(data)[slice(*spans[-1][1:])]
            return _with_instead(data, spans, name), found
    return data, None


def pixels(value: bytes) -> bytes | memoryview:
    """The picture whose field is `value`: that, or what was lifted in its place."""
    if not value.startswith(_SECRET):
        return value
    return _lifted.get(value, value)


_Span = tuple[int, int, int]
"""Of a field: where its tag begins, where its value begins, where that ends."""


def _spans(data: bytes, tags: tuple[int, ...]) -> list[_Span] | None:
    """The way down to the pixels, each field within the one before; None where it is not plain."""
    spans: list[_Span] = []
    at, end = 0, len(data)
    for tag in tags:
        try:
            span = _only(data, at, end, tag)
        except IndexError:  # it ends in the middle of something
            return None
        if span is None:
            return None
        spans.append(span)
        _, at, end = span
    return spans


def _only(data: bytes, at: int, end: int, wanted: int) -> _Span | None:
    """The one field with this tag between `at` and `end`; None where it is not there just once."""
    found = None
    for _ in range(MOST_FIELDS):
        if at == end:
            return found
        begun = at
        tag, at = _varint(data, at)
        size, at = _size(data, at, tag & 7)
        if size < 0 or at + size > end or (tag == wanted and found is not None):
            return None
        if tag == wanted:
            found = (begun, at, at + size)
        at += size
    return None


def _size(data: bytes, at: int, form: int) -> tuple[int, int]:
    """How long a value of this wire type is, -1 where nobody knows, and where it begins."""
    match form:
        case 0:
            return 0, _varint(data, at)[1]
        case 1:
            return 8, at
        case 2:
            return _varint(data, at)
        case 5:
            return 4, at
        case _:
            return -1, at


def _with_instead(data: bytes, spans: list[_Span], value: bytes) -> bytes:
    """The message with `value` at the end of the way; the lengths of all that is around it with it."""
    for depth in range(len(spans) - 1, -1, -1):
        begun, _, end = spans[depth]
        around, until = (spans[depth - 1][1:]) if depth else (0, len(data))
        tag = _varint(data, begun)[1]
        value = b"".join((data[around:tag], varint.spelled(len(value)), value, data[end:until]))
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends.

    Raises IndexError when it does not within 64 bits, or is longer than it need be: parsers take some of
    that and refuse some, and what is around the pixels would be spelled anew.
    """
    value, end = varint.read(data, at)
    if end > at + 1 and not data[end - 1]:
        raise IndexError(end)
    return value, end


@functools.cache
def _tags(kind: Any) -> list[tuple[int, ...]]:
    """Of the fields on each way to a picture that messages of this descriptor have."""
    return [tags for way in _WAYS if (tags := _tags_of(kind, way))]


def _tags_of(kind: Any, way: tuple[str, ...]) -> tuple[int, ...]:
    tags = []
    for name in way:
        field = kind.fields_by_name.get(name) if kind is not None else None
        if field is None:
            return ()
        tags.append(field.number << 3 | _BYTES)
        kind = field.message_type
    return tuple(tags)
