"""The server's resident memory while, for minutes, twice as much is asked for as it can do."""

import time

from bench.figures import Figure, at_most, slope
from bench.inputs import Kind, pictures
from bench.load import Load, beside, drive
from bench.overload import DEVICE, peak
from bench.scale import Scale
from bench.server import Server

__all__ = ["measure", "rise"]

SETTLED = 0.2
"""The share of the run after which memory ought to have stopped growing: pools and caches are full."""
QUICK_SECONDS = 20.0
MIB = 1 << 20


def rise(points: list[tuple[float, float]]) -> float:
    """MiB a minute, over what follows once it has settled. points: (seconds, bytes)."""
    begin = points[0][0] + SETTLED * (points[-1][0] - points[0][0])
    return slope([(at / 60, size / MIB) for at, size in points if at >= begin])


def measure(scale: Scale) -> list[Figure]:
    """`--minutes` for each of the two models."""
    with pictures() as paths:
        figures = []
        for spec, kind in ((DEVICE, Kind(size=50_000)), ("nanodet", Kind(paths))):
            figures += _model(spec, kind, scale)
        return figures


def _model(spec: str, kind: Kind, scale: Scale) -> list[Figure]:
    name = spec.partition("=")[0]
    seconds = QUICK_SECONDS if scale.quick else scale.minutes * 60
    with Server(spec) as server:
        rate = 2 * peak(server, name, kind, scale.seconds(10))
        load = Load(server.target, name, kind, seconds, rate=rate, deadline=1.0, seed=1)
        points: list[tuple[float, float]] = []
        scale.say(f"{name}: {rate:.0f} calls a second for {seconds:.0f} s")
        with beside(drive, load) as running:
            while not running.done():
                points.append((time.monotonic(), server.memory_bytes()))
                time.sleep(1.0)
            recording = running.result()
    sizes = [size / MIB for _, size in points]
    told = {
        "calls": len(recording.samples),
        "answered": sum(sample.answered for sample in recording.samples),
        "start_mib": sizes[0],
        "end_mib": sizes[-1],
        "max_mib": max(sizes),
        "minutes": seconds / 60,
        "every_ten_seconds_mib": [round(size, 1) for size in sizes[::10]],
    }
    settled = sizes[int(SETTLED * len(sizes))]
    minutes = f"{seconds / 60:.3g} min of twice the peak"
    return [
        Figure(f"{name}, {minutes}: memory grows by", [rise(points)], "MiB/min", at_most(1.0), told),
        Figure(f"{name}, {minutes}: end over settled", [sizes[-1] / settled], "", at_most(1.05)),
    ]
