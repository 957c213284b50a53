"""What eight busy streams lose to 200 that are open and say nothing."""

from bench.figures import Figure, at_least, turns
from bench.frames import Cameras, drive, hold
from bench.inputs import Kind, pictures
from bench.load import beside
from bench.scale import Scale
from bench.server import Server
from bench.stream_latest import rate_of
from bench.watch import wait_for

__all__ = ["measure"]

IDLE, BUSY = 200, 8
STARTING = 4.0
"""Seconds that the idle ones live longer than the busy ones film."""


def measure(scale: Scale) -> list[Figure]:
    """About two minutes a model: one fills the device; with the other, the server's own work is all."""
    with pictures() as paths:
        return [_model(name, kind, scale) for name, kind in (("nanodet", Kind(paths)), ("echo", Kind()))]


def _model(name: str, kind: Kind, scale: Scale) -> Figure:
    seconds = scale.seconds(8)
    alone: list[float] = []
    crowded: list[float] = []
    with Server(name) as server:
        busy = Cameras(server.target, name, kind, seconds, BUSY)
        idle = Cameras(server.target, name, kind, seconds + STARTING, IDLE)
        drive(busy)
        for number in range(scale.rounds):
            scale.say(f"{name}, round {number + 1}")
            alone.append(rate_of(drive(busy)))
            with beside(hold, idle) as running:
                wait_for(lambda: _streams(server) >= IDLE, "the idle streams")
                crowded.append(rate_of(drive(busy)))
                if running.result() < IDLE:
                    raise RuntimeError("not all idle streams were accepted")
            wait_for(lambda: _streams(server) == 0, "the idle streams to end")
        alone.append(rate_of(drive(busy)))
    told = {"alone": alone, "beside_idle": crowded}
    what = f"{name}, {BUSY} streams beside {IDLE} idle ones: rate over the rate alone"
    return Figure(what, turns(crowded, alone), "", at_least(0.95), told)


def _streams(server: Server) -> float:
    return server.counters().total("opsin_calls_in_flight", method="StreamDetect")
