"""A detector on trial: its batches put together, staged and collected as the server does it for calls.

What `opsin check-detector` gives to the rules of `opsin_detectors.testing`, so that what passes there is what
runs here. Knows no rule.
"""

from collections.abc import Sequence
from typing import Any

from opsin_detectors.api import Detector, Prepared
from opsin_detectors.testing import Lane
from opsin_server.models.loaded import LoadedModel
from opsin_server.models.warmup import between, candidate_sizes

__all__ = ["ServerHarness"]


class ServerHarness:
    """Lanes with the server's staging buffers, and the batch sizes that it warms models up at."""

    def lane(self, detector: Detector) -> Lane:
        """A lane with staging buffers of its own."""
        return _StagedLane(LoadedModel("trial", 1, detector))

    def sizes(self, largest: int) -> Sequence[int]:
        """1, 2, 3, 4, 6, 8 ... and the largest."""
        sizes = candidate_sizes(largest)
        return sorted({*sizes, *between(sizes)})


class _StagedLane:
    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._local: dict[str, object] = {}

    def infer(self, prepared: Sequence[Prepared]) -> Any:
        return self._model.collect(self._model.launch(prepared, self._local), self._local)
