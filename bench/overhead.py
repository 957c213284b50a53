"""The server's own CPU time for a unary call on `echo`, beside a handler that does nothing in the same run.

Also whether many callers on one connection stall: 50 kB payloads with 128 in flight against 32.
"""

from dataclasses import dataclass, field

from bench.figures import Figure, at_least, at_most
from bench.inputs import Kind
from bench.load import Load, drive
from bench.scale import Scale
from bench.server import Process, Server, null_server

__all__ = ["measure"]

RUNS = ((1000, 1), (1000, 8), (1000, 32), (1000, 128), (50_000, 32), (50_000, 128))
"""(bytes, callers on one connection)"""


@dataclass(slots=True)
class _Side:
    """What one server did in each round."""

    cpu_us: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    errors: int = 0

    def add(self, server: Process, load: Load) -> None:
        before = server.cpu_seconds()
        recording = drive(load)
        used = server.cpu_seconds() - before
        answered = sum(sample.answered for sample in recording.samples)
        self.errors += len(recording.samples) - answered
        self.cpu_us.append(used / max(1, answered) * 1e6)
        self.rates.append(answered / recording.seconds)


def measure(scale: Scale) -> list[Figure]:
    """About a minute for each of the six runs."""
    with Server("echo") as ours, null_server() as floor:
        found = _turns(ours, floor, scale)
    figures = [_cost(*run, *found[run]) for run in RUNS]
    return [*figures, *_stall(found)]


def _turns(ours: Process, floor: Process, scale: Scale) -> dict[tuple[int, int], tuple[_Side, _Side]]:
    """Every run once a round: rates at many and at few callers are compared, too."""
    found = {run: (_Side(), _Side()) for run in RUNS}
    for number in range(scale.rounds + 1):
        scale.say(f"round {number}" if number else "warming up")
        for (size, callers), sides in found.items():
            for side, server in zip(sides, (ours, floor), strict=True):
                # No warm-up inside the round: its CPU time would be counted and its calls would not.
                load = Load(
                    server.target, "echo", Kind(size=size), scale.seconds(5), callers, warmup=0, seed=number
                )
                (side if number else _Side()).add(server, load)
    return found


def _cost(size: int, callers: int, ours: _Side, floor: _Side) -> Figure:
    beside = {
        "calls_per_second": ours.rates,
        "errors": ours.errors,
        "null_cpu_us": floor.cpu_us,
        "null_calls_per_second": floor.rates,
    }
    what = f"echo, {size // 1000} kB, {callers} callers on one connection: server CPU a call"
    return Figure(what, ours.cpu_us, "µs", at_most(250) if size == 1000 else None, beside)


def _stall(found: dict[tuple[int, int], tuple[_Side, _Side]]) -> list[Figure]:
    """No collapse: at 128 callers at least nine tenths of the rate at 32."""
    figures = []
    for size in (1000, 50_000):
        for name, side in (("echo", 0), ("null handler", 1)):
            many, few = found[size, 128][side].rates, found[size, 32][side].rates
            what = f"{name}, {size // 1000} kB: rate at 128 callers over the rate at 32"
            rounds = [one / two for one, two in zip(many, few, strict=True)]
            figures.append(Figure(what, rounds, "", at_least(0.9) if side == 0 else None))
    return figures
