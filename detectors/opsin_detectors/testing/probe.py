"""Importing a detector's code in a process of its own, to see what that alone does: `python -m ...probe`.

Prints one line of JSON, the last on stdout: an `Imported`. Run by `rules/life.py`; loads no weights.
"""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from opsin_detectors._importing import target
from opsin_detectors._manifest import Found
from opsin_detectors.finder import find

__all__ = ["Imported", "probe"]

PATIENCE = 120.0
"""Seconds for the import."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What importing did. error: why it failed, in words. early: modules of the detector's that were imported
    when it was only looked for. threads: names of threads it started. extras: what it imported of "torch" and
    "transformers".
    """

    error: str = ""
    seconds: float = 0.0
    early: list[str] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)
    cuda: bool = False


def probe(found: Found) -> Imported:
    """Import the code of `found` in a fresh interpreter, with this one's path."""
    folder = str(found.folder) if found.folder is not None else ""
    done = subprocess.run(  # noqa: S603  this interpreter, and a module of ours
        [sys.executable, "-m", __name__, folder, found.name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return Imported(error=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return Imported(**json.loads(lines[-1]))


def named(folder: str, name: str) -> Found:
    """A detector by its folder, or by its name where it has none. A built-in one is found either way."""
    for one in find().values():
        if one.name == name and (not folder or one.folder == Path(folder)):
            return one
    return find([folder])[name]


def _main(folder: str, name: str) -> None:
    found = named(folder, name)
    inside = found.package or found.target.partition(":")[0]
    early = [one for one in sys.modules if one == inside or one.startswith(f"{inside}.")]
    begun = time.perf_counter()
    error = ""
    try:
        target(found)
    except Exception as caught:
        error = str(caught)
    print(json.dumps(asdict(_seen(error, time.perf_counter() - begun, early))), flush=True)


def _seen(error: str, seconds: float, early: list[str]) -> Imported:
    torch: Any = sys.modules.get("torch")
    others = [one.name for one in threading.enumerate() if one is not threading.main_thread()]
    extras: list[str] = [one for one in ("torch", "transformers") if one in sys.modules]
    cuda = torch is not None and torch.cuda.is_initialized()
    return Imported(error, seconds, early, others, extras, cuda)


if __name__ == "__main__":
    _main(*sys.argv[1:])
