"""How busy this machine is, all of it, where the system tells: Linux. None elsewhere."""

from pathlib import Path
from typing import NamedTuple

__all__ = ["Ticks", "busy_share", "ticks"]

_STAT = Path("/proc/stat")


class Ticks(NamedTuple):
    """Counted over all cores since the machine started."""

    busy: int
    all: int


def ticks(stat: Path = _STAT) -> Ticks | None:
    """The counters as they stand."""
    try:
        first = stat.read_text(encoding="ascii").splitlines()[0].split()
    except (OSError, IndexError):
        return None
    # user nice system idle iowait irq softirq steal; what guests use is in user already.
    counts = [int(number) for number in first[1:9]]
    idle = counts[3] + counts[4]
    return Ticks(sum(counts) - idle, sum(counts))


def busy_share(before: Ticks | None, after: Ticks | None) -> float | None:
    """The share of all cores' time that was used between two readings, 0..1; None where not known."""
    if before is None or after is None or after.all <= before.all:
        return None
    return (after.busy - before.busy) / (after.all - before.all)
