"""Answers a second against the bare model in a loop: same batch size, precision, cores and kind of lane.

The bare model runs in threads of one process, as the server's lanes do; processes, which share no interpreter
lock, are shown beside. Its batch size is the bucket closest to what the server chose by itself.

Callers share the cores with the server, and the bare model has all of them. What that is worth is shown,
too: the share of what the bare model does on as much of the cores as the callers left.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.bare import Bare
from bench.figures import Figure, Target, at_least, turns
from bench.inputs import Kind, pictures
from bench.load import Load, drive
from bench.scale import Scale
from bench.server import Server
from bench.watch import span
from opsin.bench.figures import figures_of

__all__ = ["Contest", "contest", "measure"]

MODELS = ("nanodet", "nsfw")
TARGETS = {8: at_least(0.9), 32: at_least(0.95)}


@dataclass(slots=True)
class Contest:
    """Rates of the server's rounds, and of the bare model's before, between and after them.

    callers: share of all cores that the callers took in each of the server's rounds.
    """

    batch: int
    lanes: int
    rates: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)
    processes: list[float] = field(default_factory=list)
    callers: list[float] = field(default_factory=list)

    def figures(self, what: str, target: Target) -> list[Figure]:
        """Against threads, with the target; without: on the cores that callers left, against processes."""
        beside = {
            "rates": self.rates,
            "mean_batches": self.batches,
            "bare_threads": self.threads,
            "bare_processes": self.processes,
            "bare_batch": self.batch,
            "lanes": self.lanes,
            "callers_share_of_cores": self.callers,
        }
        shares = turns(self.rates, self.threads)
        left = [share / (1 - taken) for share, taken in zip(shares, self.callers, strict=True)]
        return [
            Figure(f"{what}, share of bare threads", shares, "", target, beside),
            Figure(f"{what}, share of bare threads on the cores that callers left", left),
            Figure(f"{what}, share of bare processes", turns(self.rates, self.processes)),
        ]


def contest(
    server: Server, model: str, paths: tuple[str, ...], scale: Scale, run: Callable[[float], float]
) -> Contest:
    """Rounds of `run(seconds) -> rate` against this server, between rounds of the bare model.

    `run` calls from this process, so that what it costs is known.
    """
    seconds = scale.seconds(10)
    with span(server) as warm:
        run(max(1.0, seconds / 3))
    lanes, size, like = server.lanes(), warm.over.mean_batch(model), server.model(model)
    batch = min(like.buckets, key=lambda bucket: abs(bucket - size))
    held = Contest(batch, lanes)
    with (
        Bare(model, paths, lanes=lanes, like=like) as threads,
        Bare(model, paths, processes=lanes, like=like) as processes,
    ):
        for number in range(scale.rounds + 1):
            held.threads.append(threads.round(batch, seconds).rate)
            held.processes.append(processes.round(batch, seconds).rate)
            if number < scale.rounds:
                with span(server) as taken:
                    spent, at = time.process_time(), time.monotonic()
                    held.rates.append(run(seconds))
                    spent, at = time.process_time() - spent, time.monotonic() - at
                held.callers.append(spent / at / len(os.sched_getaffinity(0)))
                held.batches.append(taken.over.mean_batch(model))
    return held


def measure(scale: Scale) -> list[Figure]:
    """About three minutes for each of the four contests."""
    figures = []
    with pictures() as paths:
        for model in MODELS:
            with Server(model) as server:
                for callers, target in TARGETS.items():
                    scale.say(f"{model}, {callers} callers")
                    run = _callers(server, model, paths, callers)
                    held = contest(server, model, paths, scale, run)
                    figures += held.figures(f"{model}, {callers} callers", target)
    return figures


def _callers(server: Server, model: str, paths: tuple[str, ...], callers: int) -> Callable[[float], float]:
    def run(seconds: float) -> float:
        load = Load(server.target, model, Kind(paths), seconds, callers=callers)
        return figures_of([drive(load)], callers).rate

    return run
