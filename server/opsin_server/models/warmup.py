"""Warming a model up: which batch sizes it will run at, and what each costs.

A model serves only at sizes it has run before (its *buckets*): the first batch of a new size can cost
seconds of allocation and kernel choice. Sizes double until the detector's largest; on a CPU they end where
batching stops paying, because a larger batch at the same time per item only makes answers later. What pays
is seen on one lane here, and more of it shows when all of them are at work: so the first few sizes are warm
whatever they cost alone, and what is learnt while serving decides between them. Where the device has no
memory for a size they end before it.

Inputs of one model can have several shapes (texts by length, pictures by their proportions), and only those
of one shape share a batch. Sizes are found with the first example's; the others are run once at each size.
"""

import itertools
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass

import structlog

from opsin_detectors.api import Input, Item, Options, Prepared, Task, TextInput
from opsin_server.models.loaded import LoadedModel
from opsin_server.scheduling.batch import out_of_memory

__all__ = [
    "LONG",
    "RUNS",
    "RunAlone",
    "Warmth",
    "between",
    "candidate_sizes",
    "examples",
    "touch",
    "warm_up",
    "worth_it",
]

log = structlog.get_logger(__name__)

RUNS = 3
"""Runs of each size; the first pays for allocation, the others are the measurement."""
GAIN = 0.97
"""A doubled batch must cost less than this share of the time per item, or it is not worth its wait. Noise
between two quiet runs is 2-3 %."""
BESIDE = 0.001
"""Seconds that a batch costs a CPU beside its run: it is planned, handed to a lane and back, and by the next
what was warm for it has left the caches. nsfw, whose run takes as long for each of two pictures as for one,
costs 0.4 ms less a picture in batches of two, 0.9 in batches of four (two lanes on two cores)."""
UNPROVEN, QUICK = 4, 0.15
"""Sizes up to this one need not pay on a CPU while nobody else computes, if a batch of the size before takes
less than so many seconds. Two lanes on two cores share their caches and the way to memory: nanodet, whose
batches of four seem to save nothing alone, answers 1.06 to 1.16 times as much with them as without."""
TRIVIAL_SECONDS = 0.001
"""Batches quicker than this are dominated by what surrounds them; there a bigger batch always pays."""

LONG = 0.1
"""A run of another shape that takes so many seconds is its last: the first run's toll is hundredths, and the
server shall come up."""


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
    """Whether batches of `size` bring more items a second on a CPU than batches of `before`."""
    each, each_before = (seconds + BESIDE) / size, (before_seconds + BESIDE) / before
    return seconds < TRIVIAL_SECONDS or each < GAIN * each_before


def examples(model: LoadedModel, task: Task) -> list[tuple[Prepared, Item]]:
    """Prepared inputs of the model's own choosing, one of each shape; at least one.

    Runs `prepare`: not for the event loop.
    """
    offered = getattr(model.detector, "examples", None)  # it came later than `example`
    sources = offered(task) if offered else (model.detector.example(task),)
    found: dict[Hashable, tuple[Prepared, Item]] = {}
    for source in sources:
        pair = _ready(model, source, task)
        found.setdefault(pair[0].shape, pair)
    return list(found.values())


def _ready(model: LoadedModel, source: Input, task: Task) -> tuple[Prepared, Item]:
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
            if size > UNPROVEN or last[1] > QUICK:
                del measured[size]
                break
            if size == UNPROVEN:
                break
        last = (size, seconds)
    for size in between(list(measured)):
        await measure(size)
    return Warmth(dict(sorted(measured.items())), largest)


async def touch(model: LoadedModel, pair: tuple[Prepared, Item], run: RunAlone, sizes: Sequence[int]) -> int:
    """Run another shape once at each size, ascending, as long as that is quick.

    Gives the largest size that there is memory for; the last one where nothing says otherwise, and the first
    at least: an input that does not fit alone fails alone.
    """
    fits = sizes[0]
    for size in sizes:
        try:
            seconds = await run([pair] * size)
        except Exception as error:
            if not out_of_memory(error):
                raise
            log.warning("batch_size_does_not_fit", model=model.key, size=size, fits=fits, shape=pair[0].shape)
            return fits
        fits = size
        if seconds > LONG:
            break
    return sizes[-1]
