"""Choices kept on disk, so that only the first start on a machine measures.

One folder for each network on each kind of machine: `choice.json`, and the graphs that were exported for it.
The folder's name is a digest of all that the choice depends on: whatever changes, there is no choice yet. A
folder that cannot be written, or a file that is not as it was written (`kept.py`), costs the measuring again
and nothing else. A folder that others can write to is neither read nor written: a graph decides answers as
the model itself does. All together are no larger than told (`bounded.py`).

Several servers may share a folder, also from containers in which all have one process number.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsin_detectors.api import Trial
from opsin_detectors.execution import kept
from opsin_detectors.execution.bounded import Use, bound
from opsin_detectors.execution.plan import DTYPES, RUNTIMES, Plan

__all__ = ["Choice", "Store", "key_of"]

log = logging.getLogger(__name__)

_FORMAT = 6
_FILE = "choice.json"


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan, and what was found on the way to it.

    lane_kind: as `ModelInfo` has it; empty: not chosen yet. lanes: how many it was chosen for.
    """

    plan: Plan
    trials: tuple[Trial, ...] = ()
    lane_kind: str = ""
    lanes: int = 0


def key_of(facts: Mapping[str, Any]) -> str:
    """A folder's name for all that a choice depends on; values that JSON can write."""
    text = json.dumps({"format": _FORMAT, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Folder:
    """A temporary folder, there as long as somebody holds this: runtimes may read their graphs again."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="opsin-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class Store:
    """The folder of one network. None: nothing is kept, and graphs go to a temporary folder.

    most: what all networks' folders together may take; 0: there is no bound. Hold on to the store as long as
    its graphs are run: others take away what nobody holds.
    """

    def __init__(self, root: Path | None, key: str, *, most: int = 0) -> None:
        self._folder = None if root is None else root / "runtimes" / key
        self._most = most
        self.use: Use | None = None
        """That the folder is in use; nobody takes it away while this is held."""
        self._proved: dict[str, Path] = {}
        """What was read through and is as it was written."""
        self.temporary: Folder | None = None

    def found(self, name: str) -> Path | None:
        """A file of this network that was written before, if it is whole and nobody else can have put it."""
        known = self._proved.get(name)
        if known is not None and known.exists():
            return known
        folders = [self.temporary.path] if self.temporary is not None else []
        if self._folder is not None and _is_ours(self._folder):
            self.use = self.use or Use(self._folder)
            folders.append(self._folder)
        path = next(filter(None, (kept.found(folder, name) for folder in folders)), None)
        if path is not None:
            self._proved[name] = path
        return path

    def writing(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A path to write to; what was written is found all at once, or not at all. Raises OSError.

        OpenVINO writes weights to a file of the same name that ends in `.bin`: that goes along.
        """
        self._proved.pop(name, None)
        return kept.writing(self._writable(), name)

    def leave(self) -> None:
        """Write to a temporary folder from now on: this one's disk is full. Raises OSError."""
        self.temporary = self.temporary or Folder()

    def read(self) -> Choice | None:
        """What was chosen before, if anything."""
        path = self.found(_FILE)
        if path is None:
            return None
        try:
            return _parsed(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, choice: Choice) -> None:
        """Remember a choice, where that is possible."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError), self.writing(_FILE) as scratch:
            scratch.write_text(json.dumps(_written(choice), indent=1), encoding="utf-8")

    def lasting(self) -> Path | None:
        """The network's folder, whose files the next start finds; it is in use from now on."""
        folder = self._folder
        if folder is None or not _is_ours(folder):
            return None
        self.use = self.use or Use(folder)
        return folder

    def tidy(self) -> None:
        """Take away what was used longest ago, until all folders together are as small as told."""
        if self._folder is not None and self._most and _is_ours(self._folder.parent):
            bound(self._folder.parent, self._most)

    def _writable(self) -> Path:
        if self._folder is not None and self.temporary is None:
            with contextlib.suppress(OSError):
                self._folder.parent.mkdir(parents=True, exist_ok=True)
                self.use = self.use or Use(self._folder)  # first: who takes the folder away now is done then
                self._folder.mkdir(mode=0o755, exist_ok=True)
                if not _is_ours(self._folder):
                    log.warning("others can write to %s: it is not used", self._folder)
                elif os.access(self._folder, os.W_OK):
                    return self._folder
        if self.temporary is None:
            self.temporary = Folder()
        return self.temporary.path


def _is_ours(folder: Path) -> bool:
    """Whether only this user, or root, can have put what is there."""
    try:
        about = folder.stat()
    except OSError:
        return False
    return about.st_uid in (0, os.geteuid()) and not about.st_mode & stat.S_IWOTH


def _written(choice: Choice) -> dict[str, Any]:
    return {
        "runtime": choice.plan.runtime,
        "dtype": choice.plan.dtype,
        "lane_kind": choice.lane_kind,
        "lanes": choice.lanes,
        "trials": [
            {
                "runtime": t.runtime,
                "dtype": t.dtype,
                "seconds": t.seconds,
                "verdict": t.verdict,
                "lane_kind": t.lane_kind,
            }
            for t in choice.trials
        ],
    }


def _parsed(told: Mapping[str, Any]) -> Choice:
    """Raises ValueError, KeyError or TypeError for what nobody here wrote."""
    plan = Plan(told["runtime"], told["dtype"])
    if plan.runtime not in RUNTIMES or plan.dtype not in DTYPES:
        raise ValueError(str(plan))
    if told["lane_kind"] not in ("", "threads", "processes"):
        raise ValueError(told["lane_kind"])
    trials = tuple(_trial(one) for one in told["trials"])
    return Choice(plan, trials, told["lane_kind"], int(told["lanes"]))


def _trial(told: Mapping[str, Any]) -> Trial:
    seconds: Sequence[tuple[int, float]] = told["seconds"]
    return Trial(
        str(told["runtime"]),
        str(told["dtype"]),
        tuple((int(size), float(median)) for size, median in seconds),
        str(told["verdict"]),
        str(told["lane_kind"]),
    )
