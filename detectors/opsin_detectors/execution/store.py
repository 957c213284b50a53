"""Choices kept on disk, so that only the first start on a machine measures.

One folder for each network on each kind of machine: `choice.json`, and the graphs that were exported for it.
The folder's name is a digest of all that the choice depends on: whatever changes, there is no choice yet.
A folder that cannot be written, or holds nonsense, costs the measuring again and nothing else.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsin_detectors.api import Trial
from opsin_detectors.execution.plan import DTYPES, RUNTIMES, Plan

__all__ = ["Choice", "Store", "key_of"]

_FORMAT = 1
_FILE = "choice.json"


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan, and what was found on the way to it."""

    plan: Plan
    trials: tuple[Trial, ...] = ()


def key_of(facts: Mapping[str, Any]) -> str:
    """A folder's name for all that a choice depends on; values that JSON can write."""
    text = json.dumps({"format": _FORMAT, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Store:
    """The folder of one network. None: nothing is kept, and graphs go to a temporary folder."""

    def __init__(self, root: Path | None, key: str) -> None:
        self._folder = None if root is None else root / "runtimes" / key
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def path(self, name: str) -> Path:
        """Where a file of this network lies, or is to be written."""
        return self._writable() / name

    def has(self, name: str) -> bool:
        """Whether such a file was kept."""
        return self._folder is not None and (self._folder / name).is_file()

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A path to write to; what was written has its name all at once, or not at all.

        OpenVINO writes weights to a file of the same name that ends in `.bin`: that goes along.
        """
        final = self.path(name)
        scratch = final.with_name(f"{os.getpid()}-{final.name}")
        beside = scratch.with_suffix(".bin")
        try:
            yield scratch
            if beside.exists():
                beside.replace(final.with_suffix(".bin"))
            scratch.replace(final)
        finally:
            scratch.unlink(missing_ok=True)
            beside.unlink(missing_ok=True)

    def read(self) -> Choice | None:
        """What was chosen before, if anything."""
        if self._folder is None:
            return None
        try:
            return _parsed(json.loads((self._folder / _FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, choice: Choice) -> None:
        """Remember a choice, where that is possible."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError), self.writing(_FILE) as scratch:
            scratch.write_text(json.dumps(_written(choice), indent=1), encoding="utf-8")

    def close(self) -> None:
        """Remove what was temporary. Runtimes have read their graphs by then."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _writable(self) -> Path:
        if self._folder is not None and self._temporary is None:
            with contextlib.suppress(OSError):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if os.access(self._folder, os.W_OK):
                    return self._folder
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="opsin-")
        return Path(self._temporary.name)


def _written(choice: Choice) -> dict[str, Any]:
    return {
        "runtime": choice.plan.runtime,
        "dtype": choice.plan.dtype,
        "trials": [
            {"runtime": t.runtime, "dtype": t.dtype, "seconds": t.seconds, "verdict": t.verdict}
            for t in choice.trials
        ],
    }


def _parsed(told: Mapping[str, Any]) -> Choice:
    """Raises ValueError, KeyError or TypeError for what nobody here wrote."""
    plan = Plan(told["runtime"], told["dtype"])
    if plan.runtime not in RUNTIMES or plan.dtype not in DTYPES:
        raise ValueError(str(plan))
    return Choice(plan, tuple(_trial(one) for one in told["trials"]))


def _trial(told: Mapping[str, Any]) -> Trial:
    seconds: Sequence[tuple[int, float]] = told["seconds"]
    return Trial(
        str(told["runtime"]),
        str(told["dtype"]),
        tuple((int(size), float(median)) for size, median in seconds),
        str(told["verdict"]),
    )
