"""Whether the tool was the limit, and not the server: then the figures are about the tool. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from opsin.bench.intervals import percentile
from opsin.bench.load import Recording

__all__ = ["Limits", "limits_of"]

CLIENT_BUSY = 0.9
"""Share of a core from which on a process of callers may be what holds the figures down."""
MACHINE_BUSY = 0.95
"""Share of all cores from which on the callers had to wait for one, whoever used the others."""
LATE_MS = 3.0
"""Milliseconds of lateness that no figure is hurt by: event loops tick in milliseconds."""
LATE_SHARE = 0.2
"""Of the deadline, or else of the median latency, from which on being late is a part of what was measured."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How near the tool was to its own limits.

    cpu: the share of a core that the busiest process of callers used. machine: the share of all cores of this
    machine that was busy, None where the system does not tell. lag_p50, lag_p99, lag_max: milliseconds from
    when a call was due to when it was sent, as far as the tool was at fault; None in a closed loop. unsent:
    calls not sent because too many were under way. reasons: sentences; none when the tool was not the limit.
    """

    cpu: float
    machine: float | None
    lag_p50: float | None
    lag_p99: float | None
    lag_max: float | None
    unsent: int
    reasons: tuple[str, ...]


def limits_of(recordings: Sequence[Recording], scale: float, *, open_loop: bool) -> Limits:
    """Limits over all processes of a run. scale: what lateness is compared with, in milliseconds."""
    cpu = max((one.cpu_seconds / one.seconds for one in recordings if one.seconds), default=0.0)
    machine = max((one.machine for one in recordings if one.machine is not None), default=None)
    lags = sorted(sample.lag * 1000 for one in recordings for sample in one.samples) if open_loop else []
    lag_p50, lag_p99 = (percentile(lags, share) if lags else None for share in (0.5, 0.99))
    unsent = sum(one.unsent for one in recordings)
    late = lag_p99 is not None and lag_p99 > max(LATE_MS, LATE_SHARE * scale)
    reasons = []
    if cpu >= CLIENT_BUSY:
        reasons.append(f"a process of callers used {cpu:.0%} of a core; try more --processes")
    if late:
        reasons.append(f"calls were sent late: p99 {lag_p99:.1f} ms after they were due{_whose(machine)}")
    if unsent:
        reasons.append(f"{unsent} calls were due and not sent: too many were under way")
    return Limits(cpu, machine, lag_p50, lag_p99, lags[-1] if lags else None, unsent, tuple(reasons))


def _whose(machine: float | None) -> str:
    if machine is not None and machine >= MACHINE_BUSY:
        return f"; all cores of this machine were busy ({machine:.0%})"
    return ""
