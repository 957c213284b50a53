"""A page of documentation as what it tells its reader to do: the code blocks, in order.

The word after a block's language says what it is:

    sh              commands; what the next block shows, if that is `text`, is what they print
    sh fails        the same, and they end with an error
    sh server       starts a server, which runs until the next one starts
    python          a program
    LANGUAGE PATH   a file to write
"""

import doctest
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "blocks", "difference"]

_FENCE = re.compile(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True, slots=True)
class Block:
    """language, word: of the fence. line: on the page, from 1. shown: what it prints, "" where not shown."""

    language: str
    word: str
    text: str
    line: int
    shown: str = ""


def blocks(page: Path) -> Iterator[Block]:
    """Every block to be run or written, with the output that is shown for it."""
    text = page.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(text))
    for place, one in enumerate(found):
        language, word, body = one[1], one[2] or "", one[3]
        if language == "text":
            continue
        after = found[place + 1] if place + 1 < len(found) else None
        shown = after[3] if after is not None and after[1] == "text" else ""
        yield Block(language, word, body, text.count("\n", 0, one.start()) + 1, shown)


def difference(shown: str, printed: str) -> str:
    """How what was printed differs from what is shown (`...` stands for anything); "" when it does not."""
    checker = doctest.OutputChecker()
    if checker.check_output(shown, printed, _FLAGS):
        return ""
    return checker.output_difference(doctest.Example("", shown), printed, _FLAGS)
