"""The policy on a virtual clock: traces, rivals, figures and pictures.

    from opsin_server.scheduling.simulator import Cost, Open, Ours, Source, learnt, poisson, simulate

The same `plan`, `Queues` and `Profile` that drive the server run here against simulated devices, a million
requests in about a minute.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opsin_server.scheduling.simulator.batchers import Batcher, Ours, Window, no_batching, pull
    from opsin_server.scheduling.simulator.engine import Cost, learnt, simulate
    from opsin_server.scheduling.simulator.result import Result, Tally
    from opsin_server.scheduling.simulator.traces import (
        Closed,
        Open,
        Recorded,
        Request,
        Source,
        Trace,
        bursty,
        diurnal,
        poisson,
    )

__all__ = [
    "Batcher",
    "Closed",
    "Cost",
    "Open",
    "Ours",
    "Recorded",
    "Request",
    "Result",
    "Source",
    "Tally",
    "Trace",
    "Window",
    "bursty",
    "diurnal",
    "learnt",
    "no_batching",
    "poisson",
    "pull",
    "simulate",
]

_WHERE = {
    "batchers": ("Batcher", "Ours", "Window", "no_batching", "pull"),
    "engine": ("Cost", "learnt", "simulate"),
    "result": ("Result", "Tally"),
}


def __getattr__(name: str) -> object:
    """Imported when asked for: every start of the command line imports this package, for its options."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    place = next((module for module, names in _WHERE.items() if name in names), "traces")
    return getattr(import_module(f"{__name__}.{place}"), name)
