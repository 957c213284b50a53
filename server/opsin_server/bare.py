"""A model without a server: the yardstick that `opsin bench --against bare` measures a server with.

    python -m opsin_server.bare --model nanodet --seconds 4 --processes 2 --batch 4 photos/*.jpg

Each process loads the model, keeps to one torch thread unless told otherwise, and does in a plain loop what
the server does for a picture: decode, prepare, infer (in batches), finish, with the server's own decoder and
the detector's own code. No queue, no wire, no waiting. All processes begin together once all are warm. Prints
one JSON line: `rate` is pictures a second over all processes. It knows nothing of the scheduler and of gRPC.
"""

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

from opsin_detectors.api import Detector, Item, LoadContext, LoadError, Prepared, Task
from opsin_detectors.finder import find, load
from opsin_detectors.sources import parse, resolve
from opsin_server.calls import EncodedImage
from opsin_server.errors import Failure
from opsin_server.media.decode import decode
from opsin_server.media.header import MediaLimits
from opsin_server.models.loaded import LoadedModel

__all__ = ["Round", "Work", "loaded", "main", "measure", "ready", "task_of"]

WARM_BATCHES = 3
PATIENCE = 300.0
"""Seconds to wait for the slowest process to have loaded its model."""
_TASKS = (Task.DETECT, Task.CLASSIFY_IMAGE, Task.EMBED_IMAGE, Task.READ_TEXT)


@dataclass(frozen=True, slots=True)
class Work:
    """What each process does."""

    model: str
    paths: tuple[str, ...]
    seconds: float
    batch: int
    threads: int = 1
    """Torch threads of each process."""
    device: str = "cpu"
    dtype: str = "auto"
    runtime: str = "channels_last"
    detectors_dirs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Round:
    """What came of it: pictures a second over all processes, and in each."""

    rate: float
    rates: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"rate": self.rate, "rates": list(self.rates)}


def measure(work: Work, processes: int) -> Round:
    """Run the work in so many processes at once. Raises LoadError, and what the detector raises."""
    # Fresh interpreters, not forks: torch's threads do not survive a fork.
    context = get_context("spawn")
    with context.Manager() as manager:
        start = manager.Barrier(processes)
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            # Nobody passes the barrier alone, so each process gets exactly one of these.
            runs = [pool.submit(_process, work, start) for _ in range(processes)]
            rates = tuple(run.result() for run in _culprits_first(runs))
    return Round(sum(rates), rates)


def _culprits_first(runs: Sequence[Any]) -> list[Any]:
    """The one that failed by itself before those that only waited for it, so that its reason is told."""
    return sorted(runs, key=lambda run: isinstance(run.exception(), BrokenBarrierError))


def _process(work: Work, start: Any) -> float:
    try:
        model = _load(work)
        _set_threads(work.threads)
        batches = _batches(work)
        task = task_of(model.detector)
        for _ in range(WARM_BATCHES):
            run_batch(model, task, next(batches), {})
    except Failure as failure:
        start.abort()
        # Only what pickles reaches the other process.
        raise LoadError(failure.message) from None
    except BaseException:
        start.abort()
        raise
    start.wait(PATIENCE)
    return _timed(model, task, batches, work.seconds)


def _timed(model: LoadedModel, task: Task, batches: Iterable[Sequence[bytes]], seconds: float) -> float:
    done, begun = 0, time.perf_counter()
    local: dict[str, object] = {}
    for batch in batches:
        run_batch(model, task, batch, local)
        done += len(batch)
        if time.perf_counter() - begun >= seconds:
            break
    return done / (time.perf_counter() - begun)


def run_batch(model: LoadedModel, task: Task, pictures: Sequence[bytes], local: dict[str, object]) -> None:
    """The whole path of a batch, staged as a lane would; `local` is kept from one batch to the next.

    Raises Failure for a picture that is none.
    """
    pairs = [ready(model.detector, task, data) for data in pictures]
    launched = model.launch([prepared for prepared, _ in pairs], local)
    model.finish(model.collect(launched, local), [item for _, item in pairs])


def ready(detector: Detector, task: Task, data: bytes) -> tuple[Prepared, Item]:
    """A picture, decoded and prepared as the server does it. Raises Failure for one that is none."""
    options = detector.info.defaults
    image = decode(EncodedImage(data), MediaLimits(), near=detector.info.decode_size)
    prepared = detector.prepare(image, task, options)
    return prepared, Item(task, options, prepared.state, image.width, image.height)


def _batches(work: Work) -> "itertools.cycle[tuple[bytes, ...]]":
    """Batches of the pictures in turn, for ever. All of them are in memory before anything is timed."""
    pictures = [Path(path).read_bytes() for path in work.paths]
    # A whole number of batches, so that every round of the cycle is the same.
    turn = pictures * (math.lcm(len(pictures), work.batch) // len(pictures))
    return itertools.cycle(tuple(turn[at : at + work.batch]) for at in range(0, len(turn), work.batch))


def _load(work: Work) -> LoadedModel:
    detector = loaded(
        work.model,
        dirs=work.detectors_dirs,
        device=work.device,
        dtype=work.dtype,
        runtime=work.runtime,
        threads=work.threads,
    )
    return LoadedModel(parse(work.model).name, 1, detector)


def loaded(written: str, *, dirs: Sequence[str] = (), **terms: Any) -> Detector:
    """A model as `--model` writes it. terms: as of `LoadContext`. Raises LoadError."""
    spec = parse(written)
    resolved = resolve(spec, find(dirs))
    context = LoadContext(name=spec.name, source=resolved.source, settings=resolved.settings, **terms)
    return load(resolved.found, context)


def task_of(detector: Detector) -> Task:
    """What it does with a picture. Raises LoadError where that is nothing."""
    for task in _TASKS:
        if task in detector.info.tasks:
            return task
    raise LoadError("it looks at no pictures; the bare loop runs on pictures only")


def _set_threads(threads: int) -> None:
    # A detector that has no use for torch has not loaded it, and is not made to.
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m opsin_server.bare", description="A model without a server."
    )
    parser.add_argument("--model", default="nanodet", help="as `opsin serve --model` takes it")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--runtime", default="channels_last", help="as GetModel tells it")
    parser.add_argument("--detectors-dir", action="append", default=[])
    parser.add_argument("pictures", nargs="+")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the command line says; print one JSON line, or say on stderr why not."""
    told = _arguments(sys.argv[1:] if argv is None else argv)
    work = Work(
        told.model,
        tuple(told.pictures),
        told.seconds,
        told.batch,
        told.threads,
        told.device,
        told.dtype,
        told.runtime,
        tuple(told.detectors_dir),
    )
    try:
        answer = measure(work, told.processes)
    except (LoadError, OSError) as error:
        print(f"opsin: the bare model cannot be run: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer.to_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
