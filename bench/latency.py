"""What the server adds for a lone caller, over decoding and running the model in a loop.

Both medians are of wall time for one picture at batch size 1, with the lane width that suits the model; the
caller's includes the client and the wire both ways.
"""

from bench.bare import Alone
from bench.figures import Figure, at_most, between
from bench.inputs import Kind, pictures
from bench.load import Load, drive
from bench.scale import Scale
from bench.server import Server
from opsin.bench.figures import figures_of

__all__ = ["MODELS", "measure"]

MODELS = ("device=echo,delay_ms=10", "nanodet", "nsfw")
"""The first is a clock: its time does not depend on what else the machine does."""


def measure(scale: Scale) -> list[Figure]:
    """About two minutes a model."""
    with pictures() as paths:
        return [_model(spec, paths, scale) for spec in MODELS]


def _model(spec: str, paths: tuple[str, ...], scale: Scale) -> Figure:
    name, seconds = spec.partition("=")[0], scale.seconds(8)
    scale.say(name)
    bare: list[float] = []
    served: list[float] = []
    with Server(spec) as server, Alone(spec, paths, like=server.model(name)) as loop:
        load = Load(server.target, name, Kind(paths), seconds)
        for _ in range(scale.rounds):
            bare.append(loop.p50(seconds))
            latency = figures_of([drive(load)], 1).latency
            assert latency is not None, "no call was answered"
            served.append(latency.p50)
        bare.append(loop.p50(seconds))
    added = [one - two for one, two in zip(served, between(bare), strict=True)]
    beside = {"served_p50_ms": served, "bare_p50_ms": bare}
    return Figure(f"{name}, 1 caller: added to the median", added, "ms", at_most(2.0), beside)
