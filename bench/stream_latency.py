"""What one stream adds to a frame, over decoding and running the model in a loop: one frame at a time."""

from statistics import median

from bench.figures import Figure, at_most
from bench.frames import Cameras, drive
from bench.inputs import Kind, pictures
from bench.latency import MODELS, beside_bare
from bench.scale import Scale
from bench.server import Server

__all__ = ["measure"]


def measure(scale: Scale) -> list[Figure]:
    """About two minutes a model."""
    with pictures() as paths:
        return [_model(spec, paths, scale) for spec in MODELS]


def _model(spec: str, paths: tuple[str, ...], scale: Scale) -> Figure:
    name, seconds = spec.partition("=")[0], scale.seconds(8)

    def streamed(server: Server, number: int) -> float:
        (reel,) = drive(Cameras(server.target, name, Kind(paths), seconds, window=1, seed=number))
        if reel.error:
            raise RuntimeError(f"the stream broke: {reel.error}")
        return median(reel.delays) * 1000

    added, streamed_p50, bare_p50 = beside_bare(spec, paths, scale, streamed)
    beside = {"streamed_p50_ms": streamed_p50, "bare_p50_ms": bare_p50}
    return Figure(f"{name}, 1 stream: added to the median frame", added, "ms", at_most(1.5), beside)
