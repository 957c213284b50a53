"""What one stream adds to a frame, over decoding and running the model in a loop: one frame at a time."""

from statistics import median

from bench.bare import Alone
from bench.figures import Figure, at_most, between
from bench.frames import Cameras, drive
from bench.inputs import Kind, pictures
from bench.latency import MODELS
from bench.scale import Scale
from bench.server import Server

__all__ = ["measure"]


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
        for number in range(scale.rounds):
            bare.append(loop.p50(seconds))
            (reel,) = drive(Cameras(server.target, name, Kind(paths), seconds, window=1, seed=number))
            if reel.error:
                raise RuntimeError(f"the stream broke: {reel.error}")
            served.append(median(reel.delays) * 1000)
        bare.append(loop.p50(seconds))
    added = [one - two for one, two in zip(served, between(bare), strict=True)]
    beside = {"streamed_p50_ms": served, "bare_p50_ms": bare}
    return Figure(f"{name}, 1 stream: added to the median frame", added, "ms", at_most(1.5), beside)
