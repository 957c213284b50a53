"""Three models with shares 1:1:2 of one device, all with more work than they get: who got how much time.

Their batches take different times, so that equal numbers of batches or of answers would not do.
"""

from bench.figures import Figure, at_most
from bench.inputs import Kind
from bench.load import Load, drive
from bench.scale import Scale
from bench.server import Server
from bench.watch import LEAD, watched

__all__ = ["deviation", "measure"]

DELAYS_MS = {"short": 20, "long": 80, "double": 40}
SHARES = {"short": 1, "long": 1, "double": 2}
CALLERS = 64


def deviation(seconds: dict[str, float], shares: dict[str, int]) -> float:
    """How far the worst served or best served is from what it ought to have, as a share of that."""
    whole, parts = sum(seconds.values()), sum(shares.values())
    return max(abs(seconds[name] / whole / (shares[name] / parts) - 1) for name in shares)


def measure(scale: Scale) -> list[Figure]:
    """About two minutes."""
    seconds = max(3.0, scale.seconds(15))
    specs = [
        f"{name}=echo,delay_ms={delay},max_batch=8,share={SHARES[name]}" for name, delay in DELAYS_MS.items()
    ]
    found: list[dict[str, float]] = []
    with Server(*specs) as server:
        loads = [
            Load(server.target, name, Kind(), seconds + 2 * LEAD + 4, callers=CALLERS, seed=number)
            for number, name in enumerate(SHARES)
        ]
        for _ in range(scale.rounds):
            taken, _ = watched(server, drive, loads, seconds, list(SHARES))
            found.append({name: taken.total("opsin_batch_seconds_sum", model=name) for name in SHARES})
    worst = [deviation(one, SHARES) for one in found]
    beside = {"device_seconds": found, "shares": SHARES, "batch_ms": DELAYS_MS}
    what = "three models, shares 1:1:2, saturated: greatest deviation of device time"
    return [Figure(what, worst, "", at_most(0.1), beside)]
