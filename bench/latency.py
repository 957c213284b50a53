"""What the server adds for a lone caller, over decoding and running the model in a loop.

Both medians are of wall time for one picture at batch size 1, with the lane width that suits the model; the
caller's includes the client and the wire both ways.
"""

from collections.abc import Callable

from bench.bare import Alone
from bench.figures import Figure, at_most, between
from bench.inputs import Kind, pictures
from bench.load import Load, drive
from bench.scale import Scale
from bench.server import Server
from opsin.bench.figures import figures_of

__all__ = ["MODELS", "beside_bare", "measure"]

MODELS = ("device=echo,delay_ms=10", "nanodet", "nsfw")
"""The first is a clock: its time does not depend on what else the machine does."""


def measure(scale: Scale) -> list[Figure]:
    """About two minutes a model."""
    with pictures() as paths:
        return [_model(spec, paths, scale) for spec in MODELS]


def _model(spec: str, paths: tuple[str, ...], scale: Scale) -> Figure:
    name, seconds = spec.partition("=")[0], scale.seconds(8)

    def served(server: Server, number: int) -> float:
        del number
        latency = figures_of([drive(Load(server.target, name, Kind(paths), seconds))], 1).latency
        assert latency is not None, "no call was answered"
        return latency.p50

    added, served_p50, bare_p50 = beside_bare(spec, paths, scale, served)
    beside = {"served_p50_ms": served_p50, "bare_p50_ms": bare_p50}
    return Figure(f"{name}, 1 caller: added to the median", added, "ms", at_most(2.0), beside)


def beside_bare(
    spec: str, paths: tuple[str, ...], scale: Scale, served: Callable[[Server, int], float]
) -> tuple[list[float], list[float], list[float]]:
    """What a server adds to each round, its own figures, and those of the loop before, between and after.

    All in milliseconds. served: the figure of one round, by its number.
    """
    name = spec.partition("=")[0]
    scale.say(name)
    ours: list[float] = []
    bare: list[float] = []
    with Server(spec) as server, Alone(spec, paths, like=server.model(name)) as loop:
        for number in range(scale.rounds):
            bare.append(loop.p50(scale.seconds(8)))
            ours.append(served(server, number))
        bare.append(loop.p50(scale.seconds(8)))
    return [one - two for one, two in zip(ours, between(bare), strict=True)], ours, bare
