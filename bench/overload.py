"""What is left of the peak when twice as much is asked for, each call with a second to live.

Goodput counts answers that came within the deadline. Work run in vain is what the device ran, by the server's
own count of inputs in batches, and nobody got in time: dead callers, late answers, second runs.
"""

from bench.figures import Figure, at_least, at_most
from bench.inputs import Kind, pictures
from bench.load import Load, drive
from bench.scale import Scale
from bench.server import Server
from bench.watch import span
from opsin.bench.figures import figures_of

__all__ = ["DEVICE", "measure", "peak"]

DEVICE = "device=echo,delay_ms=100,delay_item_ms=2,max_batch=16"
DEADLINE = 1.0
CALLERS = 64
"""In flight while the peak is found: enough to fill every lane's batches twice."""


def peak(server: Server, model: str, kind: Kind, seconds: float) -> float:
    """Answers a second when callers wait for each other and nobody is in a hurry."""
    return figures_of([drive(Load(server.target, model, kind, seconds, callers=CALLERS))], CALLERS).rate


def measure(scale: Scale) -> list[Figure]:
    """About three minutes a model."""
    with pictures() as paths:
        figures = []
        for spec, kind in ((DEVICE, Kind()), ("nanodet", Kind(paths))):
            figures += _model(spec, kind, scale)
        return figures


def _model(spec: str, kind: Kind, scale: Scale) -> list[Figure]:
    name, seconds = spec.partition("=")[0], scale.seconds(15)
    peaks: list[float] = []
    goodputs: list[float] = []
    vain: list[float] = []
    errors: dict[str, int] = {}
    with Server(spec) as server:
        for number in range(scale.rounds):
            scale.say(f"{name}, round {number + 1}")
            peaks.append(peak(server, name, kind, seconds))
            load = Load(
                server.target, name, kind, seconds, rate=2 * peaks[-1], deadline=DEADLINE, seed=number + 1
            )
            with span(server) as taken:
                told = figures_of([drive(load)], 0)
            goodputs.append(told.rate)
            ran = taken.over.total("opsin_batch_size_sum", model=name)
            vain.append(max(0.0, ran - told.answered) / ran if ran else 0.0)
            errors = {code: errors.get(code, 0) + told.errors.get(code, 0) for code in errors | told.errors}
    shares = [good / top for good, top in zip(goodputs, peaks, strict=True)]
    beside = {"peaks": peaks, "goodputs": goodputs, "errors": errors, "deadline_s": DEADLINE}
    return [
        Figure(f"{name}, twice the peak: goodput over the peak", shares, "", at_least(0.9), beside),
        Figure(f"{name}, twice the peak: share of work run in vain", vain, "", at_most(0.02)),
    ]
