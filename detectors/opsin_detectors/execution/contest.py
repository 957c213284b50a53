"""Whether a network is run quicker by lanes that compute, or by lanes that wait for processes.

As many callers as there are lanes run the same batches at once, first one way, then the other, in rounds that
take turns. What lanes lose to each other is what counts, so a single caller says nothing.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from opsin_detectors.api import Trial
from opsin_detectors.execution.network import Program
from opsin_detectors.execution.plan import GAIN, Plan

__all__ = ["BUDGET", "Race", "race", "verdicts"]

ROUNDS = 5
BUDGET = 3.0
"""Seconds for all rounds; two of each size are run whatever they take."""
_ROUND = 0.08
"""Seconds that a round of one way takes at least: one batch of a small network is soon over."""

Times = dict[int, float]
"""Batch size -> median seconds of a batch while all lanes run one."""
Race = Callable[[Program, Program, Sequence[Any], int, int], tuple[Times, Times]]


def race(
    threads: Program,
    processes: Program,
    batches: Sequence[torch.Tensor],
    lanes: int,
    width: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Times, Times]:
    """Both ways' times, on batches of several sizes. width: torch threads of a lane.

    Raises what a run does.
    """
    ends = clock() + BUDGET
    found: tuple[Times, Times] = ({}, {})
    for batch in batches:
        ways = [_Lanes(program, batch, lanes, width, clock) for program in (threads, processes)]
        # The first runs pay for memory; the second tell how many make a round.
        warm = [max(way.seconds(1) for way in ways) for _ in range(2)]
        runs = max(1, round(_ROUND / max(warm[-1], 1e-6)))
        rounds: tuple[list[float], list[float]] = ([], [])
        for turn in range(ROUNDS):
            if turn >= 2 and clock() >= ends:
                break
            for way, seconds in zip(ways, rounds, strict=True):
                seconds.append(way.seconds(runs))
        for times, seconds in zip(found, rounds, strict=True):
            times[len(batch)] = median(seconds)
    return found


def verdicts(plan: Plan, threads: Times, processes: Times) -> tuple[bool, tuple[Trial, Trial]]:
    """Whether to take the processes, and what is told of both."""
    share = sum(processes[size] / threads[size] for size in threads) / len(threads)
    taken = share <= GAIN
    told = f"{abs(1 - share):.0%} {'less' if share < 1 else 'more'} time than threads"
    words = ("slower", f"chosen: {told}") if taken else ("chosen", told)
    trials = [
        Trial(plan.runtime, plan.dtype, tuple(times.items()), word, kind)
        for times, word, kind in zip((threads, processes), words, ("threads", "processes"), strict=True)
    ]
    return taken, (trials[0], trials[1])


@dataclass(frozen=True, slots=True)
class _Lanes:
    """So many callers of one program, each with threads of torch of its own."""

    program: Program
    batch: torch.Tensor
    lanes: int
    width: int
    clock: Callable[[], float]

    def seconds(self, runs: int) -> float:
        """Of a batch, while all of them run some. Raises what one of them raised."""
        begun = self.clock()
        with ThreadPoolExecutor(self.lanes) as pool:
            for lane in [pool.submit(self._run, runs) for _ in range(self.lanes)]:
                lane.result()
        return (self.clock() - begun) / runs

    @torch.inference_mode()
    def _run(self, runs: int) -> None:
        torch.set_num_threads(self.width)
        for _ in range(runs):
            self.program(self.batch)
