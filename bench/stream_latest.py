"""Eight cameras with LATEST, together pushed at twice what the device does; the rate is measured just before.

The second server has gRPC's own options and no window to speak of: what streams look like without bounds on
what waits. There LATEST alone still bounds what waits behind the device, so both servers are also pushed by
cameras whose every frame counts (EVERY_FRAME), as by any client of a server that has no rule for old frames:
what differs then is where the frames wait. A batch time is what a batch of the model took on average in the
same span.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bench.figures import Figure, at_least, at_most
from bench.frames import Cameras, Reel, drive
from bench.inputs import Kind, pictures
from bench.scale import Scale
from bench.server import Server
from bench.watch import LEAD, Span, watched
from opsin.bench.figures import percentile
from opsin.bench.intervals import jain

__all__ = ["measure", "rate_of"]

MODEL, STREAMS = "nanodet", 8
UNBOUNDED = {"STREAMS__MAX_IN_FLIGHT": "1024", "SERVER__LOOKAHEAD_BYTES": "0"}


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
    memory: list[float] = field(default_factory=list)

    def beside(self) -> dict[str, object]:
        """What a reader needs to judge the figures by."""
        return {"device_rates": self.device_rates, "batch_ms": self.batch_ms, "frames": self.counts}


def rate_of(reels: list[Reel]) -> float:
    """Results a second over all cameras."""
    return sum(reel.results for reel in reels) / max(reel.seconds for reel in reels)


def measure(scale: Scale) -> list[Figure]:
    """About seven minutes."""
    with pictures() as paths:
        bounded = _serve(Kind(paths), scale, {})
        unbounded = _serve(Kind(paths), scale, UNBOUNDED)
    latest, loose = bounded["LATEST"], unbounded["LATEST"]
    every, late = bounded["EVERY_FRAME"], unbounded["EVERY_FRAME"]
    what = f"{MODEL}, {STREAMS} streams LATEST at twice the device"
    default = "the same with gRPC's options and no window"
    return [
        Figure(f"{what}: frames not answered once, in order", latest.astray, "", at_most(0), latest.beside()),
        Figure(f"{what}: p99 age in batch times", latest.ages, "", at_most(3)),
        Figure(f"{what}: p99 from capture to reply in batch times", latest.delays),
        Figure(f"{what}: device busy", latest.busy, "", at_least(0.95)),
        Figure(f"{what}: Jain's index of results", latest.fairness, "", at_least(0.99)),
        Figure(f"{default}: p99 age in batch times", loose.ages, "", None, loose.beside()),
        Figure(f"{default}: p99 from capture to reply in batch times", loose.delays),
        Figure(f"{default}: device busy", loose.busy),
        Figure("EVERY_FRAME, pushed alike: p99 from capture to reply in batch times", every.delays),
        Figure(f"{default}, EVERY_FRAME: p99 from capture to reply in batch times", late.delays),
        Figure("EVERY_FRAME, pushed alike: most memory of the server", every.memory, "MiB"),
        Figure(f"{default}, EVERY_FRAME: most memory of the server", late.memory, "MiB"),
    ]


def _serve(kind: Kind, scale: Scale, settings: Mapping[str, str]) -> dict[str, _Rounds]:
    rounds: dict[str, _Rounds] = {"LATEST": _Rounds(), "EVERY_FRAME": _Rounds()}
    with Server(MODEL, settings=settings) as server:
        for number in range(scale.rounds):
            scale.say(f"round {number + 1}{', without bounds' if settings else ''}")
            # The window is the client's here, so that the server without one is measured by the same load.
            full = Cameras(server.target, MODEL, kind, scale.seconds(6), STREAMS, window=8, seed=3 * number)
            device = rate_of(drive(full))
            # Shorter for those that wait: without bounds, that takes as long again to be answered.
            for mode, seconds in (("LATEST", 12.0), ("EVERY_FRAME", 6.0)):
                pushed = replace(full, rate=2 * device / STREAMS, freshness=mode, seed=full.seed + 1)
                rounds[mode].device_rates.append(device)
                _push(server, pushed, scale.seconds(seconds), rounds[mode])
    return rounds


def _push(server: Server, pushed: Cameras, seconds: float, rounds: _Rounds) -> None:
    pushed = replace(pushed, seconds=seconds + 2 * LEAD)
    taken, (reels,) = watched(server, drive, [pushed], seconds, [MODEL])
    rounds.memory.append(server.memory_bytes() / (1 << 20))
    _note(rounds, taken, reels, server.lanes())


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
