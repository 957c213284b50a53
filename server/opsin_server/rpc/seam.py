"""What the edge needs of the rooms behind it, and nothing more.

`pipeline.py` and `models/registry.py` follow these; tests put fakes in their place.
"""

from collections.abc import Sequence
from typing import Protocol

from opsin_server.calls import DetectAnswer, DetectCall, EmbedAnswer, EmbedCall, Watcher
from opsin_server.models.status import ModelStatus, ServerStatus

__all__ = ["Catalog", "Pipeline"]


class Pipeline(Protocol):
    """Answers calls. Raises `Failure`; cancelling the await gives the work up."""

    async def detect(self, call: DetectCall, watcher: Watcher | None = None) -> DetectAnswer:
        """Look at one input. watcher: is told how far it has got."""
        ...

    async def embed(self, call: EmbedCall) -> EmbedAnswer:
        """Embed one input."""
        ...


class Catalog(Protocol):
    """Knows what is loaded."""

    def list(self) -> Sequence[ModelStatus]:
        """Every version of every model, by name and version."""
        ...

    def get(self, name: str) -> Sequence[ModelStatus]:
        """The versions of a bare name, or of the default for Detect when it is empty.

        Raises `Failure` MODEL_NOT_FOUND, with the nearest name as metadata.
        """
        ...

    def server(self) -> ServerStatus:
        """The devices, and which models the empty name means."""
        ...
