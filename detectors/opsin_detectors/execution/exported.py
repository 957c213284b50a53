"""The exported graph of one network: from where it is kept, made where there is none or it is broken."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opsin_detectors.api import LoadContext, LoadError
from opsin_detectors.execution import graphs
from opsin_detectors.execution.compiled import Compiled
from opsin_detectors.execution.network import Network, Program
from opsin_detectors.execution.plan import Plan
from opsin_detectors.execution.store import Store

__all__ = ["GRAPH", "Exported", "there", "writing"]

log = logging.getLogger(__name__)

GRAPH = "network.onnx"
"""The file's name in the store."""


class Exported:
    """The graph, whatever runs it."""

    def __init__(self, network: Network, context: LoadContext, store: Store) -> None:
        self._network = network
        self._context = context
        self._store = store
        self._new = False

    def program(self, plan: Plan) -> Program:
        """The graph in the plan's runtime. Raises LoadError."""
        kept = self._store.found(GRAPH)
        if kept is not None:
            try:
                return self._opened(kept, plan)
            except LoadError as error:
                if self._new:
                    raise
                log.warning("a graph of %s is made anew: %s", self._context.name, error)
        self._write()
        self._new = True
        return self._opened(there(self._store, GRAPH), plan)

    def _write(self) -> None:
        try:
            with self._store.writing(GRAPH) as scratch:
                graphs.export(self._network, scratch)
        except OSError as error:
            log.warning("a graph of %s is not kept: %s", self._context.name, error)
            with writing(self._store, GRAPH, elsewhere=True) as scratch:
                graphs.export(self._network, scratch)

    def keep(self, program: graphs.GraphProgram, plan: Plan) -> None:
        """Have what is compiled of a program that was chosen kept for the next start."""
        folder = self._store.lasting()
        if folder is not None:
            program.keep(Compiled(folder, f"{plan.runtime}-{plan.dtype}"))

    def _opened(self, path: Path, plan: Plan) -> Program:
        return graphs.graph_program(path, plan, self._context, held=self._store, used=self._store.use)


@contextmanager
def writing(store: Store, name: str, *, elsewhere: bool = False) -> Iterator[Path]:
    """As the store's. Raises LoadError where a disk is full or nothing can be written.

    elsewhere: to a temporary folder, and all that follows.
    """
    try:
        if elsewhere:
            store.leave()
        with store.writing(name) as scratch:
            yield scratch
    except OSError as error:
        raise LoadError(f"its graph cannot be written: {error}") from error


def there(store: Store, name: str) -> Path:
    """A file that was written a moment ago. Raises LoadError when somebody took it away."""
    path = store.found(name)
    if path is None:
        raise LoadError(f"{name} was taken away while it was read")
    return path
