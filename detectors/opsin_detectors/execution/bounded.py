"""Folders side by side, none larger together than told: what was used longest ago goes first.

A folder that a server has in use is held by a lock, which ends with the server however it ends, and is never
taken away. Knows nothing of what the folders hold. Where there are no such locks (Windows), nothing is
removed.
"""

import contextlib
import logging
import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

from opsin_detectors.execution import kept

try:
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]

__all__ = ["Use", "bound"]

log = logging.getLogger(__name__)

_LOCK = ".lock"


class Use:
    """A folder is in use for as long as somebody holds this. Several servers may use one at once."""

    def __init__(self, folder: Path) -> None:
        with contextlib.suppress(OSError):  # a folder that may only be read is nobody's to remove
            self._lock(_beside(folder))
        with contextlib.suppress(OSError):
            os.utime(folder)  # when it was used last

    def _lock(self, path: Path) -> None:
        while fcntl is not None:
            file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
            fcntl.flock(file, fcntl.LOCK_SH)
            if _is(path, file):
                weakref.finalize(self, os.close, file)
                return
            os.close(file)  # somebody removed it meanwhile, with what it was for


def bound(parent: Path, most: int) -> None:
    """Remove what nobody uses until at most so many bytes are left, and what is half written and old.

    Never raises: what cannot be removed stays.
    """
    with contextlib.suppress(OSError):
        folders = sorted((one for one in parent.iterdir() if one.is_dir()), key=_used)
        sizes = {one: _bytes(one) for one in folders}
        for folder in folders:
            excess = sum(sizes.values()) > most
            with contextlib.suppress(OSError), _alone(folder) as alone:
                if alone and excess:
                    log.info("%s goes: it was used longest ago, and %d bytes are kept at most", folder, most)
                    shutil.rmtree(folder)
                    sizes[folder] = 0
                elif alone:
                    kept.swept(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether nobody uses the folder, nor begins to before this ends."""
    if fcntl is None:
        yield False
        return
    path = _beside(folder)
    file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = _is(path, file)
        yield mine
        if mine:
            # Only while it is held: whoever waits for it sees that, and makes another.
            path.unlink(missing_ok=True)
    except BlockingIOError:
        yield False
    finally:
        os.close(file)


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_LOCK}")


def _is(path: Path, file: int) -> bool:
    """Whether the open file is the one that has this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _used(folder: Path) -> float:
    return folder.stat().st_mtime


def _bytes(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
