"""The lifecycle as `rpc/` sees it: the same acts, answered with how the versions stand afterwards."""

from collections.abc import Sequence

from opsin_server.models.lifecycle import Lifecycle, LoadAsk, TrafficAsk
from opsin_server.models.status import ModelStatus
from opsin_server.models.view import Catalog

__all__ = ["Operator"]


class Operator:
    """See `rpc/seam.py`."""

    def __init__(self, lifecycle: Lifecycle, catalog: Catalog) -> None:
        self._lifecycle = lifecycle
        self._catalog = catalog

    async def load(self, ask: LoadAsk) -> ModelStatus:
        """Load a version; how it stands. Raises Failure."""
        return self._catalog.describe(await self._lifecycle.load(ask))

    async def unload(self, name: str, number: int) -> ModelStatus:
        """Take a version away (0: the only one); how it stands. Raises Failure."""
        return self._catalog.describe(await self._lifecycle.unload(name, number))

    async def set_traffic(self, ask: TrafficAsk) -> Sequence[ModelStatus]:
        """Share traffic out anew; every version of the name. Raises Failure."""
        return [self._catalog.describe(version) for version in self._lifecycle.set_traffic(ask)]
