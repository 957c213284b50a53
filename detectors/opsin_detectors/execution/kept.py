"""Files of one folder that are whole, or not there: each has a note of its size and digest, written last.

A note names its files by names of their own, that nobody else writes: two servers that make the same graph
at once keep both, and the note that was written last says which counts. So a graph is never read with
weights that came from elsewhere. What no note names was left by somebody who was killed or came second; it
goes after a day.
"""

import contextlib
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["found", "swept", "writing"]

log = logging.getLogger(__name__)

_NOTE = ".kept"
_STALE = 86400.0
"""Seconds after which a file that no note names belongs to nobody."""

Sums = Sequence[tuple[str, int, str]]
"""Of each file its name, size and digest; the first is the one that was asked for."""


def found(folder: Path, name: str) -> Path | None:
    """The file that was written as `name`, if it is there and every byte as it was written."""
    sums = _noted(folder / f"{name}{_NOTE}")
    if not sums:
        return None
    for file, size, digest in sums:
        if not _whole(folder / file, size, digest):
            log.warning("%s is not as it was written, and is made anew", folder / file)
            return None
    return folder / sums[0][0]


@contextlib.contextmanager
def writing(folder: Path, name: str) -> Iterator[Path]:
    """A path to write to; what was written is found by its name all at once, or not at all. Raises OSError.

    OpenVINO writes weights to a file of the same name that ends in `.bin`: that goes along.
    """
    path = folder / f"{secrets.token_hex(4)}-{name}"
    beside = path.with_suffix(".bin")
    note = path.with_name(f"{path.name}{_NOTE}")
    try:
        yield path
        sums = [_sum(one) for one in dict.fromkeys((path, beside)) if one.exists()]
        note.write_text(json.dumps(sums), encoding="utf-8")
        note.replace(folder / f"{name}{_NOTE}")
    except BaseException:
        for one in (path, beside, note):
            one.unlink(missing_ok=True)
        raise


def swept(folder: Path, *, now: float | None = None) -> None:
    """Remove what no note names and is old. Nobody may run what lies in the folder."""
    named = {file for note in folder.glob(f"*{_NOTE}") for file, _, _ in _noted(note)}
    now = time.time() if now is None else now
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.name not in named and not _is_note(path) and now - path.stat().st_mtime > _STALE:
                path.unlink()


def _is_note(path: Path) -> bool:
    """One that counts: while it is written it has the name of the file that it is about."""
    return path.name.endswith(_NOTE) and not (path.with_name(path.name.removesuffix(_NOTE))).exists()


def _noted(note: Path) -> Sums:
    """Nothing for a note that is missing or that nobody here wrote."""
    try:
        told = json.loads(note.read_text(encoding="utf-8"))
        sums = [(str(file), int(size), str(digest)) for file, size, digest in told]
    except (OSError, ValueError, TypeError):
        return []
    return sums if all(Path(file).name == file for file, _, _ in sums) else []


def _sum(path: Path) -> tuple[str, int, str]:
    return path.name, path.stat().st_size, _digest(path)


def _whole(path: Path, size: int, digest: str) -> bool:
    try:
        return path.stat().st_size == size and _digest(path) == digest
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
