"""A record of what a live server was asked, for `opsin simulate --trace FILE`.

One JSON object a line for each input that entered the scheduler: `at` (seconds since the first), `model`,
`flow` (a hash under a key that dies with the process: no address or tenant leaves the server), `priority`,
and `within` (seconds to the deadline) where there was one; nothing of the input itself. Lines are written by
a thread of their own, behind a bounded queue; what the disk cannot take in time is left out and counted.
"""

import hashlib
import json
import math
import secrets
import threading
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

import structlog

from opsin_server.scheduling.ticket import Ticket

__all__ = ["TraceWriter"]

log = structlog.get_logger(__name__)

WAITING_LINES = 65_536
"""About ten seconds of what one process can take in; 10 MB at most."""
PATIENCE = 5.0
"""Seconds that closing waits for the disk, twice at most."""
FLOW_BYTES = 6
"""Of a flow's hash: among a million flows two share a name once in 500 recordings."""


class TraceWriter:
    """Writes one file until `close`. Raises OSError when it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._key = secrets.token_bytes(16)
        self._begun: float | None = None
        self._lost = 0
        self._lines: Queue[dict[str, Any] | None] = Queue(WAITING_LINES)
        self._thread = threading.Thread(target=self._write, name="trace", daemon=True)
        self._thread.start()

    def arrived(self, ticket: Ticket) -> None:
        """Take note of an input; costs a microsecond or two."""
        if self._begun is None:
            self._begun = ticket.arrived
        row: dict[str, Any] = {
            "at": round(ticket.arrived - self._begun, 6),
            "model": ticket.model,
            "flow": self._name(ticket.flow),
            "priority": ticket.priority.name.lower(),
        }
        if ticket.deadline < math.inf:
            row["within"] = round(ticket.deadline - ticket.arrived, 6)
        try:
            self._lines.put_nowait(row)
        except Full:
            self._lost += 1

    def _name(self, flow: str) -> str:
        data = flow.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, digest_size=FLOW_BYTES, key=self._key).hexdigest()

    def close(self) -> None:
        """Write what waits, and close the file. Blocks for at most a few seconds."""
        try:
            self._lines.put(None, timeout=PATIENCE)
        except Full:  # the disk hangs, and its thread with it
            self._lost += 1
        self._thread.join(PATIENCE)
        if self._lost:
            log.warning("trace_incomplete", lost=self._lost)

    def _write(self) -> None:
        try:
            with self._file:
                while (row := self._next()) is not None:
                    self._file.write(json.dumps(row, separators=(",", ":")) + "\n")
        except OSError as error:
            log.warning("trace_broken", file=self._file.name, why=error.strerror or str(error))
            while self._lines.get() is not None:  # nobody waits for room in a queue that is full
                self._lost += 1

    def _next(self) -> dict[str, Any] | None:
        """The next row; what was written is pushed to the disk whenever there is a pause."""
        try:
            return self._lines.get(timeout=0.5)
        except Empty:
            self._file.flush()
            return self._lines.get()
