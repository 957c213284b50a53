"""CPU time for a call by stage: where the next microsecond is to be found.

Twice, in the same rounds: what the steps cost alone on a thread (`stage_costs`), and what the server's
threads were charged while callers kept it busy, over the calls answered. The difference is what moving a
picture from one stage to the next costs, and what stages cost each other by sharing caches and the
interpreter's lock.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import opsin
from bench.bare import hear
from bench.figures import Figure
from bench.frames import Cameras
from bench.frames import drive as drive_frames
from bench.inputs import Kind
from bench.load import Load, drive
from bench.scale import Scale
from bench.server import Server, environment
from bench.threads import ROLES, cpu_by_thread, names, shares
from bench.vit import random_vit
from opsin.bench.payloads import make_pictures

__all__ = ["measure"]

SIZES = {"VGA": (640, 480), "1080p": (1920, 1080)}
CALLERS = 32
POOL = 16


@dataclass(slots=True)
class _Found:
    """alone: by step, microseconds a picture. served: by role, microseconds a call. A value a round."""

    alone: list[dict[str, float]] = field(default_factory=list)
    served: list[dict[str, float]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


def measure(scale: Scale) -> list[Figure]:
    """About a minute for each of the four models and two sizes, and for frames."""
    figures = []
    with TemporaryDirectory(prefix="opsin-stages-") as folder:
        pictures = {size: _pictures(Path(folder) / size, *SIZES[size]) for size in SIZES}
        vit = f"vit={random_vit(Path(folder) / 'vit')}"
        for spec in ("echo", "nanodet", "nsfw", vit):
            with Server(spec) as server:
                for size, paths in pictures.items():
                    figures += _model(server, spec, size, paths, scale)
    return figures


def _pictures(folder: Path, width: int, height: int) -> tuple[str, ...]:
    folder.mkdir()
    return make_pictures(folder, width, height, POOL)


def _model(server: Server, spec: str, size: str, paths: Sequence[str], scale: Scale) -> list[Figure]:
    name, kind = spec.partition("=")[0], Kind(tuple(paths))
    seconds = scale.seconds(5)

    def calls(number: int) -> tuple[int, float]:
        load = Load(server.target, name, kind, seconds, CALLERS, warmup=0, seed=number)
        recording = drive(load)
        return sum(sample.answered for sample in recording.samples), recording.seconds

    def frames(number: int) -> tuple[int, float]:
        cameras = Cameras(server.target, name, kind, seconds, 8, seed=number)
        reels = drive_frames(cameras)
        return sum(reel.results for reel in reels), max(reel.seconds for reel in reels)

    figures = []
    with _alone(spec, paths, server.model(name)) as cost:
        for what, run in (("call", calls), ("frame", frames)):
            scale.say(f"{name}, {size}, {what}s")
            found = _rounds(server, run, cost, scale, seconds)
            figures += _figures(f"{name}, {size}, CPU a {what}", found)
    return figures


def _rounds(
    server: Server,
    run: Callable[[int], tuple[int, float]],
    cost: Callable[[int, float], dict[str, float]],
    scale: Scale,
    seconds: float,
) -> _Found:
    found = _Found()
    run(0)
    called = names(server.pid)
    for number in range(1, scale.rounds + 1):
        found.alone.append(cost(4, seconds / 2))
        before = cpu_by_thread(server.pid)
        answered, took = run(number)
        spent = shares(before, cpu_by_thread(server.pid), called)
        found.served.append({what: spent[what] / max(1, answered) * 1e6 for what in ROLES})
        found.rates.append(answered / took)
    return found


def _figures(what: str, found: _Found) -> list[Figure]:
    alone = {step: median(one[step] for one in found.alone) for step in found.alone[0]}
    totals = [sum(one.values()) for one in found.served]
    beside = {"a_second": found.rates, "alone_us": alone, "alone_rounds": found.alone}
    rows = [Figure(what, totals, "µs", None, beside)]
    steps = {
        "decode and prepare": alone["decode"] + alone["prepare"],
        "infer": alone["infer"],
        "finish": alone["finish"],
    }
    for role in ROLES:
        told = f" (alone {steps[role]:,.0f} µs)".replace(",", " ") if role in steps else ""
        rows.append(Figure(f"{what}: {role}{told}", [one[role] for one in found.served], "µs"))
    return rows


@contextmanager
def _alone(
    spec: str, paths: Sequence[str], like: opsin.Model
) -> Iterator[Callable[[int, float], dict[str, float]]]:
    """A function from batch size and seconds to what the steps cost alone, in a process of its own."""
    command = [sys.executable, "-m", "bench.stage_costs", f"--model={spec}"]
    command += [f"--runtime={like.runtime or 'eager'}", f"--dtype={like.dtype or 'auto'}", *paths]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )

    def cost(batch: int, seconds: float) -> dict[str, float]:
        assert process.stdin is not None
        process.stdin.write(f"{batch} {seconds}\n")
        process.stdin.flush()
        found: dict[str, float] = json.loads(hear(process))
        return found

    try:
        hear(process)
        yield cost
    finally:
        process.terminate()
        process.communicate()
