"""What the edge needs of the rooms behind it, and nothing more.

`pipeline.py` and `models/registry.py` follow these; tests put fakes in their place.
"""

from collections.abc import Sequence
from typing import Protocol

from opsin_server.calls import DetectAnswer, DetectCall, EmbedAnswer, EmbedCall, Watcher
from opsin_server.models.lifecycle import LoadAsk, TrafficAsk
from opsin_server.models.status import ModelStatus, ServerStatus

__all__ = ["Catalog", "Operator", "Pipeline"]


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


class Operator(Protocol):
    """Changes what is loaded, and who gets which calls. Raises `Failure`."""

    async def load(self, ask: LoadAsk) -> ModelStatus:
        """Load a version; how it stands."""
        ...

    async def unload(self, name: str, number: int) -> ModelStatus:
        """Take a version away (0: the only one); how it stands."""
        ...

    async def set_traffic(self, ask: TrafficAsk) -> Sequence[ModelStatus]:
        """Share traffic out anew; every version of the name."""
        ...
