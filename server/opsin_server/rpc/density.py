"""How many fields a message has, counted in its bytes before anything is made of them.

A field takes two bytes on the wire and about a hundred once parsed: 32 MiB of empty items become 1.4 GB, and
hold up the event loop for a second. Real messages of that size are a few fields around large pictures, so
counting them costs microseconds. Counting a field here costs ten times what parsing it does (half a
microsecond to one), so the limit is what keeps the count short: it ends there. What is broken is left for the
parser to tell.
"""

import functools
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from opsin_server.rpc import varint

__all__ = ["MOST_FIELDS", "MOST_FIELDS_OF_BATCH", "SMALL", "crowded", "most_fields"]

MOST_FIELDS = 1 << 12
"""Fields of one request, those inside other messages included: full allow-lists and regions are 2 400."""

MOST_FIELDS_OF_BATCH = 1 << 18
"""Fields of a batch: 256 items may have an allow-list of 1 000 classes each, as the limits say. One that
comes to it by empty fields alone costs 0.15 s to count and 30 MB to parse, once."""

SMALL = 1 << 16
"""Bytes below which a message is not looked at: it cannot grow beyond a few megabytes."""

FIELDS_OF_REGION = 5
FIELDS_BESIDE = 100
"""What a request has besides its lists, generously."""

_Nested = Mapping[int, Any]
"""Descriptors by field number. Their type depends on which protobuf runtime is loaded."""


def most_fields(kind: type[Message], labels: int = 1000, regions: int = 64) -> int:
    """How many fields a message of type `kind` may have, where a request may have so many labels and regions.

    A server that is set up for longer lists takes one request that fills them, on its own or in a batch.
    """
    is_batch = "requests" in kind.DESCRIPTOR.fields_by_name
    full = 2 * labels + FIELDS_OF_REGION * regions + FIELDS_BESIDE
    return max(MOST_FIELDS_OF_BATCH if is_batch else MOST_FIELDS, full)


def crowded(kind: type[Message], data: bytes, most: int) -> bool:
    """Whether `data`, a message of type `kind`, has more than `most` fields."""
    if len(data) < SMALL:
        return False
    try:
        return _count(kind.DESCRIPTOR, data, most) > most
    except IndexError:  # a number that runs past the end
        return False


def _count(kind: Any, data: bytes, most: int) -> int:
    """The fields of `data`, or anything above `most` when there are more."""
    count = 0
    parts = [(0, len(data), kind)]
    while parts:
        at, end, kind = parts.pop()
        nested = _nested(kind)
        while at < end and count <= most:
            count += 1
            tag, at = varint.read(data, at)
            match tag & 7:
                case 0:
                    _, at = varint.read(data, at)
                case 1:
                    at += 8
                case 2:
                    size, at = varint.read(data, at)
                    inner = nested.get(tag >> 3)
                    if inner is not None and size:
                        parts.append((at, min(at + size, end), inner))
                    at += size
                case 5:
                    at += 4
    return count


@functools.cache
def _nested(kind: Any) -> _Nested:
    """Fields that are messages themselves, by number."""
    return {field.number: field.message_type for field in kind.fields if field.message_type is not None}
