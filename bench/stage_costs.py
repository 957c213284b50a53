"""CPU time of each step of a picture's path, alone on a thread: `python -m bench.stage_costs`.

The server's decoder and the detector's own code, batch after batch, with one torch thread, so that all of a
step's work is charged to the thread that is watched. What they cost inside the server is in `stages`.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.bare import stacked
from opsin_detectors.api import Detector, Item
from opsin_server.bare import loaded, task_of
from opsin_server.calls import EncodedImage
from opsin_server.media.decode import decode
from opsin_server.media.header import MediaLimits

__all__ = ["STEPS", "costs", "main"]

STEPS = ("decode", "prepare", "infer", "finish")


def costs(model: Detector, pictures: Sequence[bytes], seconds: float) -> dict[str, float]:
    """Microseconds of CPU a picture in each of the `STEPS`; `pictures` is one batch."""
    spent, batches, end = dict.fromkeys(STEPS, 0.0), 0, time.monotonic() + seconds
    _batch(model, pictures, dict(spent))
    while time.monotonic() < end:
        _batch(model, pictures, spent)
        batches += 1
    return {step: spent[step] / max(1, batches * len(pictures)) * 1e6 for step in STEPS}


def _batch(model: Detector, pictures: Sequence[bytes], spent: dict[str, float]) -> None:
    task = task_of(model)
    options, last = model.info.defaults, time.thread_time()

    def charge(step: str) -> None:
        nonlocal last
        now = time.thread_time()
        spent[step] += now - last
        last = now

    images = [decode(EncodedImage(data), MediaLimits(), near=model.info.decode_size) for data in pictures]
    charge("decode")
    prepared = [model.prepare(image, task, options) for image in images]
    charge("prepare")
    data: Any = [one.data for one in prepared]
    outputs = model.infer(data if model.info.input is None else stacked(data, model.info.input.framework))
    charge("infer")
    items = [
        Item(task, options, one.state, image.width, image.height)
        for one, image in zip(prepared, images, strict=True)
    ]
    model.finish(outputs, items)
    charge("finish")


def main() -> None:
    """Say what the steps cost for every line `BATCH SECONDS` of standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--runtime", default="eager")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("pictures", nargs="+")
    asked = parser.parse_args()
    model = loaded(asked.model, runtime=asked.runtime, dtype=asked.dtype)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    pictures = [Path(path).read_bytes() for path in asked.pictures]
    print("ready", flush=True)
    for line in sys.stdin:
        size, seconds = line.split()
        batch = list(itertools.islice(itertools.cycle(pictures), int(size)))
        print(json.dumps(costs(model, batch, float(seconds))), flush=True)


if __name__ == "__main__":
    main()
