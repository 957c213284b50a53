"""Eight cameras with LATEST, together pushed at twice what the device does; the rate is measured just before.

The second server has no window to speak of and reads far ahead: what streams look like without bounds on what
waits. A batch time is what a batch of the model took on average in the same span.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.figures import Figure, at_least, at_most, jain
from bench.frames import Cameras, Reel, drive
from bench.inputs import Kind, pictures
from bench.scale import Scale
from bench.server import Server
from bench.watch import LEAD, Span, watched
from opsin.bench.figures import percentile

__all__ = ["measure", "rate_of"]

MODEL, STREAMS = "nanodet", 8
UNBOUNDED = {"STREAMS__MAX_IN_FLIGHT": "1024", "SERVER__LOOKAHEAD_BYTES": str(64 << 20)}


@dataclass(slots=True)
class _Rounds:
    ages: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    astray: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    fairness: list[float] = field(default_factory=list)
    device_rates: list[float] = field(default_factory=list)
    batch_ms: list[float] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)


def rate_of(reels: list[Reel]) -> float:
    """Results a second over all cameras."""
    return sum(reel.results for reel in reels) / max(reel.seconds for reel in reels)


def measure(scale: Scale) -> list[Figure]:
    """About seven minutes."""
    with pictures() as paths:
        bounded = _serve(Kind(paths), scale, {})
        unbounded = _serve(Kind(paths), scale, UNBOUNDED)
    what = f"{MODEL}, {STREAMS} streams LATEST at twice the device"
    beside = {
        "device_rates": bounded.device_rates,
        "batch_ms": bounded.batch_ms,
        "p99_delay_in_batch_times": bounded.delays,
        "frames": bounded.counts,
    }
    return [
        Figure(f"{what}: frames not answered once, in order", bounded.astray, "", at_most(0), beside),
        Figure(f"{what}: p99 age in batch times", bounded.ages, "", at_most(3)),
        Figure(f"{what}: device busy", bounded.busy, "", at_least(0.95)),
        Figure(f"{what}: Jain's index of results", bounded.fairness, "", at_least(0.99)),
        Figure("the same without a window: p99 age in batch times", unbounded.ages),
        Figure("the same without a window: device busy", unbounded.busy),
    ]


def _serve(kind: Kind, scale: Scale, settings: Mapping[str, str]) -> _Rounds:
    rounds, seconds = _Rounds(), scale.seconds(12)
    with Server(MODEL, settings=settings) as server:
        lanes = server.lanes()
        for number in range(scale.rounds):
            scale.say(f"round {number + 1}{', without a window' if settings else ''}")
            # The window is the client's here, so that the server without one is measured by the same load.
            full = Cameras(server.target, MODEL, kind, seconds / 2, STREAMS, window=8, seed=2 * number)
            rounds.device_rates.append(rate_of(drive(full)))
            pushed = Cameras(
                server.target,
                MODEL,
                kind,
                seconds + 2 * LEAD,
                STREAMS,
                rate=2 * rounds.device_rates[-1] / STREAMS,
                freshness="LATEST",
                seed=2 * number + 1,
            )
            taken, (reels,) = watched(server, drive, [pushed], seconds, [MODEL])
            _note(rounds, taken, reels, lanes)
    return rounds


def _note(rounds: _Rounds, taken: Span, reels: list[Reel], lanes: int) -> None:
    if broken := [reel.error for reel in reels if reel.error]:
        raise RuntimeError(f"streams broke: {broken}")
    batch = taken.batch_seconds(MODEL)
    rounds.ages.append(percentile(sorted(age for reel in reels for age in reel.ages), 0.99) / batch)
    rounds.delays.append(percentile(sorted(one for reel in reels for one in reel.delays), 0.99) / batch)
    rounds.astray.append(sum(reel.astray for reel in reels))
    rounds.busy.append(taken.busy(lanes))
    rounds.fairness.append(jain([reel.results for reel in reels]))
    rounds.batch_ms.append(batch * 1000)
    dropped = sum(sum(reel.dropped.values()) for reel in reels)
    rounds.counts.append(
        {
            "sent": sum(reel.sent for reel in reels),
            "results": sum(reel.results for reel in reels),
            "dropped": dropped,
        }
    )
