"""Equal items of one batch call: found without hashing what they hold.

A hash reads every byte, and holds the interpreter while it does: megabytes of it would stop the event loop
for milliseconds. So items are told apart by a few samples, and only those that look alike are compared as a
whole. Pure.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace

from opsin_server.cache import key as keys
from opsin_server.calls import DetectCall, EmbedCall, EncodedImage, RawImage, Text
from opsin_server.errors import Failure

__all__ = ["first_of_each", "is_quick", "marks_of"]

Call = DetectCall | EmbedCall
_NOTHING = Text("")


def marks_of(calls: Sequence[Call | Failure]) -> list[Hashable]:
    """Of each item something that equal ones share; None for one that failed already."""
    return [None if isinstance(call, Failure) else _mark(call) for call in calls]


def _mark(call: Call) -> Hashable:
    rest = replace(call, source=_NOTHING)
    match call.source:
        case EncodedImage() | RawImage() | Text():
            return keys.mark(rest, call.source)
        case other:
            return (rest, other)


def is_quick(calls: Sequence[Call | Failure], marks: Sequence[Hashable]) -> bool:
    """Whether `first_of_each` has so little to compare that it may run on the event loop."""
    seen: set[Hashable] = set()
    size = 0
    for call, mark in zip(calls, marks, strict=True):
        if mark in seen and not isinstance(call, Failure):
            size += _size(call)
        seen.add(mark)
    return size <= keys.QUICK_BYTES


def first_of_each(calls: Sequence[Call | Failure], marks: Sequence[Hashable]) -> list[int]:
    """For each item the index of the first one that is equal to it, its own when there is none before."""
    alike: dict[Hashable, list[int]] = {}
    firsts: list[int] = []
    for index, (call, mark) in enumerate(zip(calls, marks, strict=True)):
        earlier = () if mark is None else alike.setdefault(mark, [])
        found = next((at for at in earlier if _same(calls[at], call)), index)
        if found == index and mark is not None:
            alike[mark].append(index)
        firsts.append(found)
    return firsts


def _same(one: Call | Failure, other: Call | Failure) -> bool:
    """Of two with the same mark, which differ in nothing but their sources."""
    assert not isinstance(one, Failure)
    assert not isinstance(other, Failure)
    match one.source, other.source:
        case (EncodedImage() | RawImage() | Text()) as a, (EncodedImage() | RawImage() | Text()) as b:
            return keys.same(a, b)
        case a, b:
            return a == b


def _size(call: Call) -> int:
    match call.source:
        case EncodedImage() | RawImage() | Text() as source:
            return keys.size_of(source)
        case _:
            return 0
