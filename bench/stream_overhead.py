"""The server's own CPU time for a streamed frame of 1 kB on `echo`, beside a handler that does nothing."""

from bench.figures import Figure, at_most
from bench.frames import Cameras, drive
from bench.inputs import Kind
from bench.scale import Scale
from bench.server import Process, Server, null_server

__all__ = ["measure"]

TARGETS = {1: at_most(160), 8: at_most(120)}


def measure(scale: Scale) -> list[Figure]:
    """About two minutes."""
    figures = []
    with Server("echo") as ours, null_server() as floor:
        for streams, target in TARGETS.items():
            cost: list[float] = []
            rates: list[float] = []
            least: list[float] = []
            for number in range(scale.rounds + 1):
                cameras = Cameras("", "echo", Kind(), scale.seconds(5), streams, seed=number)
                found, rate = _cost(ours, cameras)
                under, _ = _cost(floor, cameras)
                if number:  # the first round is for warming up
                    cost.append(found)
                    rates.append(rate)
                    least.append(under)
            beside = {"frames_per_second": rates, "null_cpu_us": least}
            what = f"echo, 1 kB frames, streams: {streams}: server CPU a frame"
            figures.append(Figure(what, cost, "µs", target, beside))
    return figures


def _cost(server: Process, cameras: Cameras) -> tuple[float, float]:
    """Microseconds a frame, and frames a second."""
    before = server.cpu_seconds()
    reels = drive(_at(cameras, server.target))
    used = server.cpu_seconds() - before
    broken = [reel.error for reel in reels if reel.error or reel.astray]
    if broken:
        raise RuntimeError(f"streams broke: {broken}")
    answered = sum(reel.results for reel in reels)
    return used / answered * 1e6, answered / max(reel.seconds for reel in reels)


def _at(cameras: Cameras, target: str) -> Cameras:
    return Cameras(target, cameras.model, cameras.kind, cameras.seconds, cameras.streams, seed=cameras.seed)
