"""Strings that no message can carry, told as what they are.

Python's strings can hold half a character, a lone surrogate: names of files that are not UTF-8 have them, and
texts that somebody cut in the middle of an emoji. UTF-8 has no bytes for it, and so protobuf refuses it with
an error that is none of ours. Knows neither.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from opsin._errors import InvalidInput

__all__ = ["check_text", "spelled"]

P = ParamSpec("P")
R = TypeVar("R")


def check_text(field: str, text: str) -> None:
    """Raise InvalidInput, with the field to blame, for a string that cannot travel."""
    if isinstance(text, str) and not text.isascii():  # what is no string at all is protobuf's to refuse
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _unspeakable(field, error) from None


def spelled(build: Callable[P, R]) -> Callable[P, R]:
    """The same function, but for strings that cannot travel: these are InvalidInput."""

    @functools.wraps(build)
    def built(*args: P.args, **options: P.kwargs) -> R:
        try:
            return build(*args, **options)
        except UnicodeEncodeError as error:
            raise _unspeakable("request", error) from None

    return built


def _unspeakable(field: str, error: UnicodeEncodeError) -> InvalidInput:
    around = error.object[max(0, error.start - 20) : error.start + 20]
    return InvalidInput.at(
        field, f"{around!a} holds half a character, at {error.start}, that UTF-8 has no bytes for"
    )
