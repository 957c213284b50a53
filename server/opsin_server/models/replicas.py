"""One model on each of several devices: loading it there, and warming it up where it is not warm yet.

What is warm on the first device is run on the others too, at the same sizes. Lanes of all devices take from
one queue by one profile, so devices are meant to be alike; where they are not, the log says so.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import structlog

from opsin_detectors.api import Detector, Item, LoadContext, Prepared
from opsin_detectors.finder import Found
from opsin_detectors.finder import load as load_detector
from opsin_server.models import memory
from opsin_server.models.devices import current, place_of
from opsin_server.models.loaded import LoadedModel, let_go
from opsin_server.models.warmup import RUNS, RunAlone
from opsin_server.scheduling.batch import out_of_memory

__all__ = ["bytes_taken", "load_on_each", "warm_as"]

log = structlog.get_logger(__name__)

UNLIKE = 1.25
"""Devices that run a batch in times so far apart are told of."""


def load_on_each(found: Found, context: LoadContext, devices: Sequence[str]) -> dict[str, Detector]:
    """The detector on every device, one after the other; all of them or, with what is raised, none."""
    on: dict[str, Detector] = {}
    with ExitStack() as undo:
        for device in devices:
            with current(device):
                on[device] = load_detector(found, replace(context, device=place_of(device)))
            undo.callback(let_go, on[device])
        undo.pop_all()
    return on


async def warm_as(
    first: Mapping[int, Sequence[float]],
    model: LoadedModel,
    pair: tuple[Prepared, Item],
    run: RunAlone,
    device: str,
) -> int:
    """Run on `device` every size that was warmed up on the first one; the largest that fits there.

    first: seconds by size, ascending. Raises what a run raises, want of memory for a single input included.
    """
    fits, here = 0, 0.0
    for size in first:
        try:
            here = min([await run([pair] * size) for _ in range(RUNS)][1:])
        except Exception as error:
            if not fits or not out_of_memory(error):
                raise
            log.warning("batch_size_does_not_fit", model=model.key, device=device, size=size, fits=fits)
            return fits
        fits = size
    usual = min(first[fits])
    if max(usual, here) > UNLIKE * min(usual, here):
        log.warning("devices_differ", model=model.key, device=device, seconds=here, first=usual)
    return fits


def bytes_taken(model: LoadedModel) -> int:
    """Bytes that this process holds now on all devices of a model."""
    return sum(memory.taken(place) for place in {place_of(one) for one in model.device.split("+")})
