"""When calls are meant to be sent, decided before the first one is: constant, Poisson, or a recorded trace.

Pure. Arrivals can be dealt to processes and streams without one of them knowing of the others: parts of a
constant rate interleave evenly, independent Poisson parts add up to Poisson, and a trace is dealt out like
cards.
"""

import csv
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any, Literal

__all__ = ["KINDS", "Arrivals", "Kind", "TraceError", "read_trace"]

Kind = Literal["poisson", "constant", "trace"]
KINDS: tuple[Kind, ...] = ("poisson", "constant", "trace")
_RUN = ("server", "callers", "offered", "round")
"""The columns that tell one run of a bench from another."""
_SEEDS = 1_000_003
"""Apart from each other by a prime, so that parts of parts have seeds of their own."""


class TraceError(ValueError):
    """A trace that cannot be read; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """An arrival process. JSON-ready by `asdict`.

    rate: a second, on average. first: seconds before the first of a constant rate. times: of a trace, in
    seconds from its start, ascending. seed: of Poisson.
    """

    kind: Kind
    rate: float
    first: float = 0.0
    times: tuple[float, ...] = ()
    seed: int = 1

    @classmethod
    def of_trace(cls, times: Iterable[float], rate: float | None = None) -> "Arrivals":
        """A trace from any ascending times; its first is 0. rate: stretch it to this mean rate.

        Raises ValueError for fewer than one time.
        """
        read = sorted(times)
        if not read:
            raise ValueError("the trace is empty")
        span = read[-1] - read[0]
        own = (len(read) - 1) / span if span else math.inf
        scale = own / rate if rate is not None and math.isfinite(own) else 1.0
        moved = tuple((time - read[0]) * scale for time in read)
        return cls("trace", rate if rate is not None and math.isfinite(own) else own, times=moved)

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> "Arrivals":
        """The inverse of `asdict`."""
        return cls(**{**told, "times": tuple(told["times"])})

    def part(self, at: int, parts: int) -> "Arrivals":
        """What the part of number `at` (from 0) of so many parts sends."""
        match self.kind:
            case "constant":
                return replace(self, rate=self.rate / parts, first=self.first + at / self.rate)
            case "poisson":
                return replace(self, rate=self.rate / parts, seed=self.seed * _SEEDS + at)
            case "trace":
                return replace(self, rate=self.rate / parts, times=self.times[at::parts])

    def again(self, number: int) -> "Arrivals":
        """The same process in another round: a random one draws anew."""
        return replace(self, seed=self.seed + 7919 * number)

    def offsets(self, *, total: int | None = None, duration: float | None = None) -> Iterator[float]:
        """Seconds from the start, ascending: `total` of them, or those before `duration`, or all."""
        found = self._offsets()
        if duration is not None:
            found = takewhile(lambda offset: offset < duration, found)
        return found if total is None else islice(found, total)

    def _offsets(self) -> Iterator[float]:
        match self.kind:
            case "constant":
                return (self.first + number / self.rate for number in count())
            case "poisson":
                return _poisson(self.rate, self.seed)
            case "trace":
                return iter(self.times)


def _poisson(rate: float, seed: int) -> Iterator[float]:
    chance, now = random.Random(seed), 0.0  # noqa: S311
    while True:
        now += chance.expovariate(rate)
        yield now


def read_trace(path: Path) -> tuple[float, ...]:
    """Times in seconds from a file: a number a line, CSV with a column `at`, or JSON lines with `at`.

    The JSON lines are those of `opsin simulate --trace` and of the server's `scheduler.trace`; what they say
    besides is left aside. Of a CSV with several runs of a bench the first is read. Raises `TraceError`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        why = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
        raise TraceError(f"{path} cannot be read: {why}") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise TraceError(f"{path} is empty")
    first = lines[0][1]
    if first.lstrip().startswith("{"):
        return _times(path, lines, lambda line: json.loads(line)["at"])
    if _is_number(first.split(",")[0]):
        return _times(path, lines, lambda line: line.split(",")[0])
    return _times(path, _first_run(first, lines[1:]), _column(path, first))


def _first_run(header: str, lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Of the samples of several runs, which `opsin bench -o samples.csv` writes and which all begin at 0."""
    places = [place for place, name in enumerate(next(csv.reader([header]))) if name in _RUN]

    def run(line: str) -> list[str]:
        row = next(csv.reader([line]))
        return [row[place] for place in places if place < len(row)]

    return [line for line in lines if run(line[1]) == run(lines[0][1])]


def _column(path: Path, header: str) -> Callable[[str], str]:
    names = next(csv.reader([header]))
    if "at" not in names:
        raise TraceError(f"{path} has no column 'at'; a trace is seconds, one a line, or has such a column")
    place = names.index("at")
    return lambda line: next(csv.reader([line]))[place]


def _times(path: Path, lines: list[tuple[int, str]], read: Callable[[str], Any]) -> tuple[float, ...]:
    times = []
    for number, line in lines:
        try:
            times.append(_finite(read(line)))
        except (KeyError, IndexError, TypeError):
            raise TraceError(f"{path}, line {number} has no time 'at'") from None
        except ValueError as reason:
            raise TraceError(f"{path}, line {number}: {reason}") from None
    if not times:
        raise TraceError(f"{path} has no times")
    return tuple(times)


def _finite(value: Any) -> float:
    time = float(value)
    if not math.isfinite(time):
        raise ValueError(f"{value!r} is no time")
    return time


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
