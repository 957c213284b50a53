"""Writing a new detector's folder from the template: what `opsin new-detector NAME` does.

Owns the names that are put into the template. Knows no command line.
"""

import keyword
import re
from pathlib import Path

from opsin_detectors.finder import find

__all__ = ["ScaffoldError", "write"]

_TEMPLATE = Path(__file__).parent / "template"
_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")


class ScaffoldError(ValueError):
    """The folder cannot be written; the message says why and what would be right."""


def write(name: str, into: Path) -> Path:
    """Write the detector `name` as a new folder of that name in `into`, and answer the folder.

    What is written works: it classifies pictures by brightness, and its test passes. Raises ScaffoldError for
    a name that cannot be one or is a built-in detector's, and for a folder that is there already; nothing is
    overwritten.
    """
    _check(name)
    folder = into / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ScaffoldError(f"{folder} is there already; nothing was written") from None
    for template in sorted(_TEMPLATE.glob("*.txt")):
        target = folder / _filled(template.name.removesuffix(".txt"), name)
        target.write_text(_filled(template.read_text(encoding="utf-8"), name), encoding="utf-8")
    return folder


def _check(name: str) -> None:
    if keyword.iskeyword(name):
        raise ScaffoldError(
            f"“{name}” is a word of Python's own, so no module can be called that; take another name"
        )
    if not _NAME.fullmatch(name) or len(name) > 64:
        raise ScaffoldError(
            f"“{name}” cannot be a detector's name: words of lower-case letters and digits, joined by “-” "
            "or “_”, beginning with a letter, 64 characters at most"
        )
    if name in find():
        raise ScaffoldError(f"“{name}” is a detector already; take another name")


def _filled(text: str, name: str) -> str:
    words = re.split(r"[_-]", name)
    for mark, value in (
        ("__NAME__", name),
        ("__MODULE__", "_".join(words)),
        ("__CLASS__", "".join(word.capitalize() for word in words)),
    ):
        text = text.replace(mark, value)
    return text
