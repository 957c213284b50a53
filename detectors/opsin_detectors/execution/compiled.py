"""Compiled graphs of one network, kept beside what they were compiled from: quicker to read than to compile.

Each begins with a tag of all that it was compiled from and for that its folder's name does not tell: another
tag, and it is made anew. Files are whole or not there (`kept.py`). What cannot be written is not kept, and
costs compiling at the next start. Knows no runtime, and nothing of what a blob holds.
"""

import hashlib
import logging
from pathlib import Path

from opsin_detectors.execution import kept

__all__ = ["Compiled"]

log = logging.getLogger(__name__)

_TAG = hashlib.sha256().digest_size


class Compiled:
    """The compiled graphs of one way to run a network. Several threads and servers may use them at once.

    folder: the network's, which whoever made this sees to it that nobody takes away. way: sets those of one
    plan apart from those of another.
    """

    def __init__(self, folder: Path, way: str) -> None:
        self._folder = folder
        self._way = way

    def read(self, name: str, tag: str) -> bytes | None:
        """What was kept by this name and with this tag, as it was written."""
        path = kept.found(self._folder, self._file(name))
        try:
            written = path.read_bytes() if path is not None else b""
        except OSError:
            return None
        return written[_TAG:] if written[:_TAG] == _digest(tag) else None

    def write(self, name: str, tag: str, blob: bytes) -> None:
        """Keep it, in the place of what was kept by this name, where that is possible."""
        try:
            with kept.writing(self._folder, self._file(name)) as scratch:
                scratch.write_bytes(_digest(tag) + blob)
        except OSError as error:
            log.info("a compiled graph is not kept: %s", error)

    def _file(self, name: str) -> str:
        return f"{self._way}-{name}.blob"


def _digest(tag: str) -> bytes:
    return hashlib.sha256(tag.encode()).digest()
