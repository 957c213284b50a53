"""Whether there is still a server. Pure: samples and a clock in, a verdict out."""

from opsin.bench.load import Sample

__all__ = ["PATIENCE", "Presence"]

PATIENCE = 3.0
"""Seconds in which every call reaches nobody before the server is given up: a restart may take as long."""


class Presence:
    """Watches the samples of a run. Calls that time out do not count: somebody may be slow."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._missing_since: float | None = None

    def note(self, sample: Sample, now: float) -> bool:
        """Take note of a sample that came in at `now` (seconds); whether the server is to be given up."""
        if not sample.reached_nobody:
            self._missing_since = None
            return False
        if self._missing_since is None:
            self._missing_since = now
        return now - self._missing_since >= self._patience
