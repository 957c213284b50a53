"""A polite caller, one call in flight, beside a greedy one with 256 on a connection of its own.

The polite one may wait for the batch that runs when it comes, and for a batch of its own; it may not queue
behind the greedy one's backlog.
"""

from bench.figures import Figure, at_most
from bench.inputs import Kind, pictures
from bench.load import Load, beside, drive
from bench.scale import Scale
from bench.server import Server
from bench.watch import span, wait_for
from opsin.bench.figures import figures_of
from opsin.bench.load import Recording

__all__ = ["measure"]

DEVICE = "device=echo,delay_ms=20,delay_item_ms=1,max_batch=16"
GREEDY = 256


def measure(scale: Scale) -> list[Figure]:
    """About four minutes a model."""
    with pictures() as paths:
        return [_model(spec, kind, scale) for spec, kind in ((DEVICE, Kind()), ("nanodet", Kind(paths)))]


def _model(spec: str, kind: Kind, scale: Scale) -> Figure:
    name, seconds = spec.partition("=")[0], scale.seconds(15)
    ratios: list[float] = []
    told: dict[str, list[float]] = {
        "alone_p99_ms": [],
        "beside_p99_ms": [],
        "batch_ms": [],
        "greedy_rate": [],
    }
    with Server(spec) as server:
        polite = Load(server.target, name, kind, seconds, seed=1)
        greedy = Load(server.target, name, kind, seconds + 4, callers=GREEDY, seed=2)
        for number in range(scale.rounds):
            scale.say(f"{name}, round {number + 1}")
            alone = _p99(drive(polite))
            with beside(drive, greedy) as running:
                # Its queue stands when more of its calls wait than any batch can take.
                wait_for(
                    lambda: server.counters().total("opsin_queued", model=name) > GREEDY / 2, "the queue"
                )
                with span(server) as taken:
                    crowded = _p99(drive(polite))
                if running.done():
                    raise RuntimeError(
                        "the greedy caller was done before the polite one: nothing was compared"
                    )
                others = figures_of([running.result()], GREEDY)
            batch = taken.over.batch_seconds(name) * 1000
            ratios.append(crowded / (2 * alone + batch))
            values = (alone, crowded, batch, others.rate)
            for key, value in zip(told, values, strict=True):
                told[key].append(value)
    what = f"{name}, 1 in flight beside {GREEDY}: p99 over (twice its p99 alone + one batch)"
    return Figure(what, ratios, "", at_most(1.0), told)


def _p99(recording: Recording) -> float:
    latency = figures_of([recording], 1).latency
    assert latency is not None, "no call was answered"
    return latency.p99
