"""What the check of a detector says: a finding for each rule, and where in the author's code it arose.

Knows nothing of the rules themselves, nor of how findings are shown.
"""

import inspect
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

__all__ = ["Broken", "Finding", "Skipped", "Status", "blaming", "defined", "roots_of", "where"]


class Status(StrEnum):
    """How a rule stands. SKIPPED: it has nothing to say here, or something before it failed."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule's outcome.

    seen: what was seen, in words. right, where (FAILED only): what would be right, and `file:line` of the
    author's code. task: the task it was seen with, where it matters.
    """

    rule: str
    status: Status
    seen: str
    right: str = ""
    where: str = ""
    task: str = ""

    def __str__(self) -> str:
        """One line: what was seen, what would be right, where."""
        task = f"{self.task}: " if self.task else ""
        right = f"; {self.right}" if self.right else ""
        place = f" [{self.where}]" if self.where else ""
        return f"{task}{self.seen}{right}{place}"

    def of_task(self, task: str) -> "Finding":
        """The same, seen with a task."""
        return replace(self, task=task)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


class Broken(Exception):  # noqa: N818  a verdict, not a fault of this program
    """A rule was broken."""

    def __init__(self, rule: str, seen: str, right: str, where: str = "") -> None:
        super().__init__(seen)
        self.finding = Finding(rule, Status.FAILED, seen, right, where)


class Skipped(Exception):  # noqa: N818  likewise
    """A rule cannot be checked, or says nothing about this detector; the message says why."""


@contextmanager
def blaming(rule: str, roots: tuple[Path, ...], doing: str, right: str) -> Iterator[None]:
    """Turn whatever the author's code raises inside into a broken rule."""
    try:
        yield
    except (Broken, Skipped):
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        seen = f"{doing} raised {type(error).__name__}{f': {said}' if said else ''}"
        raise Broken(rule, seen, right, where(error, roots)) from error


def where(error: BaseException, roots: tuple[Path, ...]) -> str:
    """`file:line in function` of the innermost of the author's lines that an exception passed; or ""."""
    for one in _chain(error):
        if isinstance(one, SyntaxError) and one.filename:
            return f"{_short(one.filename)}:{one.lineno}"
        frames = [f for f in traceback.extract_tb(one.__traceback__) if _theirs(f.filename, roots)]
        if frames:
            return f"{_short(frames[-1].filename)}:{frames[-1].lineno} in {frames[-1].name}"
    return ""


def defined(method: Any) -> str:
    """`file:line in name` where a method is written; "" when that cannot be told."""
    try:
        return f"{_short(inspect.getfile(method))}:{inspect.getsourcelines(method)[1]} in {method.__name__}"
    except (TypeError, OSError):
        return ""


def roots_of(detector: object) -> tuple[Path, ...]:
    """The folder of the file that a detector's class is written in."""
    try:
        return (Path(inspect.getfile(type(detector))).resolve().parent,)
    except (TypeError, OSError):
        return ()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception's cause before itself: the cause is where it began."""
    if error.__cause__ is not None:
        yield from _chain(error.__cause__)
    yield error


def _theirs(file: str, roots: tuple[Path, ...]) -> bool:
    path = Path(file)
    return any(path.is_relative_to(root) for root in roots)


def _short(file: str) -> str:
    """Relative to the working directory where it lies below that."""
    path = Path(file)
    here = Path.cwd()
    return os.fspath(path.relative_to(here)) if path.is_relative_to(here) else file
