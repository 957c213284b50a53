"""Warming a model up: which batch sizes it will run at, and what each costs.

A model serves only at sizes it has run before (its *buckets*): the first batch of a new size can cost
seconds of allocation and kernel choice. Sizes double until the detector's largest; on a CPU they end where
batching stops paying, because a larger batch at the same time per item only makes answers later. Where the
device has no memory for a size they end before it.
"""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from opsin_detectors.api import Item, Options, Prepared, Task, TextInput
from opsin_server.models.loaded import LoadedModel
from opsin_server.scheduling.batch import out_of_memory

__all__ = ["RUNS", "Warmth", "between", "candidate_sizes", "example", "warm_up", "worth_it"]

log = structlog.get_logger(__name__)

RUNS = 3
"""Runs of each size; the first pays for allocation, the others are the measurement."""
GAIN = 0.97
"""A doubled batch must cost less than this share of the time per item, or it is not worth its wait. Noise
between two quiet runs is 2-3 %."""
TRIVIAL_SECONDS = 0.001
"""Batches quicker than this are dominated by what surrounds them; there a bigger batch always pays."""


@dataclass(frozen=True, slots=True)
class Warmth:
    """What warming up found.

    seconds: of the runs of each batch size, sizes ascending. fits: no larger size may be run.
    """

    seconds: dict[int, list[float]]
    fits: int


RunAlone = Callable[[Sequence[tuple[Prepared, Item]]], Awaitable[float]]
"""Runs one batch on a lane and gives its seconds."""


def candidate_sizes(largest: int) -> list[int]:
    """1, 2, 4 ... and `largest` itself."""
    sizes = [1]
    while sizes[-1] * 2 <= largest:
        sizes.append(sizes[-1] * 2)
    if sizes[-1] != largest:
        sizes.append(largest)
    return sizes


def between(sizes: Sequence[int]) -> list[int]:
    """3, 6, 12 ...: a size in the middle of each doubling, so that what waits is left over less often."""
    return [low + low // 2 for low, high in itertools.pairwise(sizes) if low > 1 and high == 2 * low]


def worth_it(size: int, seconds: float, before: int, before_seconds: float) -> bool:
    """Whether batches of `size` bring more items a second than batches of `before`."""
    return seconds < TRIVIAL_SECONDS or seconds / size < GAIN * before_seconds / before


def example(model: LoadedModel, task: Task) -> tuple[Prepared, Item]:
    """A prepared input of the model's own choosing. Runs `prepare`: not for the event loop."""
    source = model.detector.example(task)
    options = Options(candidate_labels=("a cat", "a dog")) if task is Task.ZERO_SHOT else model.info.defaults
    prepared = model.detector.prepare(source, task, options)
    width, height = (0, 0) if isinstance(source, TextInput) else (source.width, source.height)
    return prepared, Item(task, options, prepared.state, width, height)


async def warm_up(model: LoadedModel, pair: tuple[Prepared, Item], run: RunAlone, *, largest: int) -> Warmth:
    """Run every bucket up to `largest`, or to the last there is memory for.

    Raises what a run raises, want of memory included when there is not enough for a single input.
    """
    on_cpu = model.info.device == "cpu"
    measured: dict[int, list[float]] = {}

    async def measure(size: int) -> float | None:
        try:
            runs = [await run([pair] * size) for _ in range(RUNS)]
        except Exception as error:
            if not measured or not out_of_memory(error):
                raise
            log.warning("batch_size_does_not_fit", model=model.key, size=size, fits=max(measured))
            return None
        measured[size] = runs[1:]
        return min(runs[1:])

    last: tuple[int, float] | None = None
    for size in candidate_sizes(largest):
        seconds = await measure(size)
        if seconds is None:
            largest = max(measured)
            break
        if on_cpu and last is not None and not worth_it(size, seconds, *last):
            del measured[size]
            break
        last = (size, seconds)
    for size in between(list(measured)):
        await measure(size)
    return Warmth(dict(sorted(measured.items())), largest)
