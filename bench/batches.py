"""How full batches are when 32 callers keep the device busy, against the largest bucket.

By the server's own count, over the middle of the run: inputs that ran, over batches. For a device whose time
hardly grows with the batch (`echo` with a fixed delay) a full batch is right; for one that gains nothing past
some size, the size with the best throughput by the learnt profile is told beside.
"""

from bench.figures import Figure, at_least
from bench.inputs import Kind, pictures
from bench.load import Load, drive
from bench.scale import Scale
from bench.server import Server
from bench.watch import LEAD, watched
from opsin import Model

__all__ = ["measure"]

CALLERS = 32
DEVICE = "device=echo,delay_ms=20,delay_item_ms=1,max_batch=16"
"""Two lanes of 16 are what 32 callers can fill."""


def measure(scale: Scale) -> list[Figure]:
    """Under two minutes for each model."""
    with pictures() as paths:
        return [_model(spec, kind, scale) for spec, kind in ((DEVICE, Kind()), ("nanodet", Kind(paths)))]


def _model(spec: str, kind: Kind, scale: Scale) -> Figure:
    name = spec.partition("=")[0]
    seconds = scale.seconds(12)
    with Server(spec) as server:
        load = Load(server.target, name, kind, seconds + 2 * LEAD + 1, callers=CALLERS)
        means = [
            watched(server, drive, [load], seconds, [name])[0].mean_batch(name) for _ in range(scale.rounds)
        ]
        model = server.model(name)
    largest = model.buckets[-1]
    beside = {"mean_batches": means, "buckets": list(model.buckets), "best_by_profile": _best(model)}
    what = f"{name}, {CALLERS} callers: mean batch over the largest bucket ({largest})"
    return Figure(what, [mean / largest for mean in means], "", at_least(0.8), beside)


def _best(model: Model) -> int:
    """The least batch size with a throughput within 2 % of the best, by the profile."""
    rates = {one.batch_size: one.batch_size / one.median_us for one in model.profile if one.median_us}
    good = [size for size, rate in rates.items() if rate >= 0.98 * max(rates.values())]
    return min(good, default=0)
