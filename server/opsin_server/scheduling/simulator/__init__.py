"""The policy on a virtual clock: traces, rivals, figures and pictures.

    from opsin_server.scheduling.simulator import Cost, Open, Ours, Source, learnt, poisson, simulate

The same `plan`, `Queues` and `Profile` that drive the server run here against simulated devices, a million
requests in about a minute.
"""

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
