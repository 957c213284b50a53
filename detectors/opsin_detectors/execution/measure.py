"""How long each way takes, in rounds that take turns, so that a machine that slows down is fair to all.

Owns the order of the runs and when to stop; the clock and the runs are given. Knows no torch.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from opsin_detectors.execution.plan import BASELINE, NEVER_WORSE, Plan

__all__ = ["BUDGET", "ROUNDS", "measure"]

ROUNDS = 5
"""Of each size, the first run of each way, which pays for allocation and compiling, not counted."""
BUDGET = 6.0
"""Seconds for all of it; two rounds are run whatever they take."""

Run = Callable[[int], None]
"""Runs a batch of so many inputs to its end."""


def measure(
    runs: Mapping[Plan, Run],
    sizes: Sequence[int],
    *,
    clock: Callable[[], float] = time.perf_counter,
    rounds: int = ROUNDS,
    budget: float = BUDGET,
) -> dict[Plan, dict[int, float]]:
    """Median seconds of a batch, by plan and batch size.

    A size after the first is left out when there is no time for it. What is slower than the baseline at one
    size is not run at the next, as it cannot be chosen; what is only slower than another way may be, where
    that one's answers turn out to be others. A way that raises is left out altogether, and its run is to
    remember why. Raises what the baseline does.
    """
    ends = clock() + budget
    times: dict[Plan, dict[int, float]] = {plan: {} for plan in runs}
    left = list(runs)
    for size in sizes:
        if size != sizes[0] and clock() >= ends:
            break
        found = _rounds({plan: runs[plan] for plan in left}, size, clock, rounds, ends)
        for broken in [plan for plan in left if plan not in found]:
            del times[broken]
            left.remove(broken)
        for plan, seconds in found.items():
            times[plan][size] = median(seconds)
        left = [plan for plan in left if times[plan][size] <= NEVER_WORSE * times[BASELINE][size]]
    return times


def _rounds(
    runs: Mapping[Plan, Run], size: int, clock: Callable[[], float], rounds: int, ends: float
) -> dict[Plan, list[float]]:
    """Of those that never raised."""
    found: dict[Plan, list[float]] = {plan: [] for plan, run in runs.items() if _runs(plan, run, size)}
    for turn in range(rounds):
        if turn >= 2 and clock() >= ends:
            break
        for plan in tuple(found):
            begun = clock()
            if _runs(plan, runs[plan], size):
                found[plan].append(clock() - begun)
            else:
                del found[plan]
    return found


def _runs(plan: Plan, run: Run, size: int) -> bool:
    """Run it; False where it raises."""
    try:
        run(size)
    except Exception:
        if plan == BASELINE:
            raise
        return False
    return True
