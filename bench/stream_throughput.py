"""Eight streams, every frame, against the bare model in a loop: same batch size, cores, kind of lane."""

from collections.abc import Callable

from bench.figures import Figure, at_least
from bench.frames import Cameras, drive
from bench.inputs import Kind, pictures
from bench.scale import Scale
from bench.server import Server
from bench.stream_latest import rate_of
from bench.throughput import MODELS, contest

__all__ = ["measure"]

STREAMS = 8


def measure(scale: Scale) -> list[Figure]:
    """About three minutes a model."""
    figures = []
    with pictures() as paths:
        for model in MODELS:
            scale.say(model)
            with Server(model) as server:
                run = _cameras(server.target, model, paths)
                held = contest(server, model, paths, scale, run)
            figures += held.figures(f"{model}, {STREAMS} streams EVERY_FRAME", at_least(0.95))
    return figures


def _cameras(target: str, model: str, paths: tuple[str, ...]) -> Callable[[float], float]:
    def run(seconds: float) -> float:
        reels = drive(Cameras(target, model, Kind(paths), seconds, STREAMS))
        if broken := [reel.error for reel in reels if reel.error]:
            raise RuntimeError(f"streams broke: {broken}")
        return rate_of(reels)

    return run
