"""Thirty-two cameras of different rates and sizes on one device, and a caller beside them.

Every camera pushes more than an equal share of the device, some nine times as much; LATEST. Shares are
results by camera. The caller has one interactive call in flight: as beside a greedy caller, it may wait for
the batch that runs when it comes and for a batch of its own, and not for the streams.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.figures import Figure, at_least, at_most
from bench.frames import Cameras, Reel, drive, drive_all
from bench.inputs import Kind, pictures
from bench.load import Load, beside
from bench.load import drive as call
from bench.scale import Scale
from bench.server import Server
from bench.stream_latest import rate_of
from bench.watch import span, wait_for
from opsin.bench.figures import figures_of
from opsin.bench.intervals import jain
from opsin.bench.payloads import make_pictures

__all__ = ["measure", "worst"]

DEVICE = "device=echo,delay_ms=100,delay_item_ms=10,max_batch=16"
"""Slow, so that one process can push several times what it does."""
TIMES = (1.5, 2.0, 4.0, 9.0)
"""How many times an equal share the cameras push; eight cameras of each."""
SIZES = ((320, 240), (640, 480), (800, 600), (1280, 720))
EACH = 2
"""Cameras of one rate and one size."""
STREAMS = len(TIMES) * len(SIZES) * EACH
RESULTS = 40
"""Of each camera: with fewer, one frame more or less is too large a part of its share."""
SHORTEST, LONGEST = 15.0, 60.0


@dataclass(slots=True)
class _Rounds:
    off: list[float] = field(default_factory=list)
    index: list[float] = field(default_factory=list)
    astray: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    device_rates: list[float] = field(default_factory=list)
    alone_p99_ms: list[float] = field(default_factory=list)
    beside_p99_ms: list[float] = field(default_factory=list)
    batch_ms: list[float] = field(default_factory=list)


def measure(scale: Scale) -> list[Figure]:
    """About three minutes a model and five a round of nanodet."""
    with pictures() as paths, _photographs() as sizes:
        raw = tuple(Kind(size=width * height // 16) for width, height in SIZES)
        return [*_model(DEVICE, Kind(), raw, scale), *_model("nanodet", Kind(paths), sizes, scale)]


def worst(shares: Sequence[float]) -> float:
    """The greatest distance of a share from the mean, as a part of the mean."""
    mean = sum(shares) / len(shares)
    return max(abs(share - mean) for share in shares) / mean if mean else 1.0


@contextmanager
def _photographs() -> Iterator[tuple[Kind, ...]]:
    """Some of each size."""
    with TemporaryDirectory(prefix="opsin-figures-") as folder:
        kinds = []
        for width, height in SIZES:
            (place := Path(folder) / str(width)).mkdir()
            kinds.append(Kind(make_pictures(place, width, height, 8)))
        yield tuple(kinds)


def _model(spec: str, plain: Kind, kinds: Sequence[Kind], scale: Scale) -> list[Figure]:
    name, rounds = spec.partition("=")[0], _Rounds()
    with Server(spec) as server:
        for number in range(scale.rounds):
            full = Cameras(server.target, name, plain, scale.seconds(6), 8, window=8, seed=number)
            rounds.device_rates.append(rate_of(drive(full)))
            _round(server, Load(server.target, name, plain, 0, seed=number), kinds, scale, rounds)
    told = {
        key: getattr(rounds, key) for key in ("device_rates", "alone_p99_ms", "beside_p99_ms", "batch_ms")
    }
    what = f"{name}, {STREAMS} streams LATEST of {len(TIMES)} rates and {len(SIZES)} sizes"
    polite = f"{name}, 1 call in flight beside them: p99 over (twice its p99 alone + one batch)"
    return [
        Figure(f"{what}: furthest share from the mean", rounds.off, "", at_most(0.1), told),
        Figure(f"{what}: Jain's index", rounds.index, "", at_least(0.99)),
        Figure(f"{what}: frames not answered once, in order", rounds.astray, "", at_most(0)),
        Figure(polite, rounds.ratios, "", at_most(1.0)),
    ]


def _round(server: Server, load: Load, kinds: Sequence[Kind], scale: Scale, rounds: _Rounds) -> None:
    share = rounds.device_rates[-1] / STREAMS
    seconds = scale.seconds(min(LONGEST, max(SHORTEST, RESULTS / share)))
    scale.say(f"{load.model}: {share:.1f} frames a second each, {seconds:.0f} s")
    load = Load(load.target, load.model, load.kind, min(seconds, SHORTEST), seed=load.seed)
    alone = _p99(load)
    with beside(drive_all, _cameras(load, kinds, share, seconds + 3)) as running:
        wait_for(lambda: _streams(server) >= STREAMS, "the streams")
        with span(server) as taken:
            crowded = _p99(load)
        reels: list[Reel] = running.result()
    if broken := [reel.error for reel in reels if reel.error]:
        raise RuntimeError(f"streams broke: {broken[:3]}")
    if (least := min(reel.sent / reel.seconds for reel in reels)) < share:
        raise RuntimeError(
            f"the cameras are too slow: {least:.1f} frames a second for a share of {share:.1f}"
        )
    shares = [float(reel.results) for reel in reels]
    rounds.off.append(worst(shares))
    rounds.index.append(jain(shares))
    rounds.astray.append(sum(reel.astray for reel in reels))
    rounds.batch_ms.append(taken.over.batch_seconds(load.model) * 1000)
    rounds.alone_p99_ms.append(alone)
    rounds.beside_p99_ms.append(crowded)
    rounds.ratios.append(crowded / (2 * alone + rounds.batch_ms[-1]))


def _cameras(load: Load, kinds: Sequence[Kind], share: float, seconds: float) -> tuple[Cameras, ...]:
    """Every rate in every size."""
    rates = [times * share for times in TIMES for _ in kinds]
    return tuple(
        Cameras(load.target, load.model, kind, seconds, EACH, rate=rate, freshness="LATEST", seed=100 + at)
        for at, (rate, kind) in enumerate(zip(rates, list(kinds) * len(TIMES), strict=True))
    )


def _p99(load: Load) -> float:
    latency = figures_of([call(load)], 1).latency
    assert latency is not None, "no call was answered"
    return latency.p99


def _streams(server: Server) -> float:
    return server.counters().total("opsin_calls_in_flight", method="StreamDetect")
