"""The bare model, kept warm in processes of its own, for rounds that take turns with the server's.

`Bare` starts them; each is `python -m bench.bare`, which loads the model once and then, for every line it is
told, runs some seconds of decode, prepare, stack, infer, finish in as many threads as it has lanes: the
server's own decoder and the detector's own code, no queue, no wire, no check of the answers. One process of
several lanes is the server's own kind; several processes of one lane are what needs no interpreter lock.

What users compare with, `opsin_server.bare`, runs batches as a lane does, staged and checked; this is the
harder yardstick, of the detector alone. Loading, decoding and preparing are the same.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np

import opsin
from bench.server import environment
from opsin_detectors.api import Detector
from opsin_server.bare import loaded, ready, task_of

__all__ = ["Alone", "Bare", "Round", "hear", "main", "stacked"]

WARM_BATCHES = 3


@dataclass(frozen=True, slots=True)
class Round:
    """rate: pictures a second over all lanes. p50: the median batch, in milliseconds, decoding included."""

    rate: float
    p50: float


class Bare:
    """processes x lanes loops over one model; use as a context.

    like: the model as the server tells of it, to run the network as it does there: same runtime, same number
    type. None: as the detector has it by default.
    """

    def __init__(
        self,
        model: str,
        pictures: Sequence[str],
        *,
        processes: int = 1,
        lanes: int = 1,
        width: int = 1,
        like: opsin.Model | None = None,
    ) -> None:
        command = [
            sys.executable,
            "-m",
            "bench.bare",
            f"--model={model}",
            f"--lanes={lanes}",
            f"--width={width}",
        ]
        if like is not None:
            command += [f"--runtime={like.runtime or 'eager'}", f"--dtype={like.dtype or 'auto'}"]
        self._processes = [
            subprocess.Popen(
                [*command, *pictures],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
            )
            for _ in range(processes)
        ]

    def __enter__(self) -> Self:
        for process in self._processes:
            hear(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.communicate()

    def round(self, batch: int, seconds: float) -> Round:
        """Some seconds of it."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{batch} {seconds}\n")
            process.stdin.flush()
        told = [json.loads(hear(process)) for process in self._processes]
        return Round(sum(one["rate"] for one in told), median(one["p50"] for one in told))


class Alone:
    """One picture at a time as quickly as it goes: with one thread and with as many as there are cores.

    A lane that is alone takes the width that suits its model; so does this yardstick. Use as a context.
    """

    def __init__(self, model: str, pictures: Sequence[str], *, like: opsin.Model) -> None:
        self._loops = [
            Bare(model, pictures, width=width, like=like)
            for width in sorted({1, len(os.sched_getaffinity(0))})
        ]
        self._entered = ExitStack()

    def __enter__(self) -> Self:
        for loop in self._loops:
            self._entered.enter_context(loop)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    def p50(self, seconds: float) -> float:
        """Milliseconds, of the better width; `seconds` of each."""
        return min(loop.round(1, seconds).p50 for loop in self._loops)


def hear(process: "subprocess.Popen[str]") -> str:
    """The next line it says. Raises RuntimeError when it has ended."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the bare model ended by itself; its reason is above")
    return line


# --- in the other process ---------------------------------------------------------------------------------


def _run(model: Detector, pictures: Sequence[bytes]) -> None:
    """The whole path of a batch."""
    pairs = [ready(model, task_of(model), data) for data in pictures]
    data = [prepared.data for prepared, _ in pairs]
    outputs = model.infer(data if model.info.input is None else stacked(data, model.info.input.framework))
    model.finish(outputs, [item for _, item in pairs])


def stacked(data: Sequence[Any], framework: str) -> Any:
    """One batch of the arrays that `prepare` gave."""
    stacked = np.stack(data)
    if framework == "numpy":
        return stacked
    import torch

    return torch.from_numpy(stacked)


def _batches(pictures: Sequence[bytes], size: int, start: int) -> Iterator[tuple[bytes, ...]]:
    turn = itertools.islice(itertools.cycle(pictures), start, None)
    while True:
        yield tuple(itertools.islice(turn, size))


def _be_wide(width: int) -> None:
    """So many torch threads for the calling thread."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(width)


def _round(model: Detector, pictures: Sequence[bytes], lanes: int, width: int, told: str) -> Round:
    size, seconds = int(told.split(maxsplit=1)[0]), float(told.split()[1])
    times: list[float] = []
    _be_wide(width)
    _run(model, next(_batches(pictures, size, 0)))  # a size that is new may be compiled first
    begun = time.perf_counter()

    def lane(number: int) -> None:
        _be_wide(width)
        last = time.perf_counter()
        for batch in _batches(pictures, size, number * 7):
            _run(model, batch)
            now = time.perf_counter()
            times.append(now - last)
            last = now
            if now - begun >= seconds:
                return

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Round(len(times) * size / (time.perf_counter() - begun), median(times) * 1000)


def main() -> None:
    """Load, say so, then a round for every line of standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--width", type=int, default=1)
    parser.add_argument("--runtime", default="eager")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("pictures", nargs="+")
    asked = parser.parse_args()
    model = loaded(asked.model, runtime=asked.runtime, dtype=asked.dtype, threads=asked.width)
    pictures = [Path(path).read_bytes() for path in asked.pictures]
    for batch in itertools.islice(_batches(pictures, 2, 0), WARM_BATCHES):
        _run(model, batch)
    print("ready", flush=True)
    for line in sys.stdin:
        done = _round(model, pictures, asked.lanes, asked.width, line)
        print(json.dumps({"rate": done.rate, "p50": done.p50}), flush=True)


if __name__ == "__main__":
    main()
