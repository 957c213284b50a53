"""How a stream is doing: one line that changes while it runs, and a table at its end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opsin.cli.output import Screen
from opsin.cli.words import counted

if TYPE_CHECKING:
    from opsin import StreamSession, StreamStats

__all__ = ["live_line", "one_line", "summary_table"]

EVERY = 0.2
"""Seconds between two looks at the figures: faster is not read."""


@contextmanager
def live_line(session: "StreamSession", screen: Screen) -> Iterator[Callable[[], None]]:
    """Keep a line of figures at the foot of the terminal, if any; yields what brings it up to date."""
    console = screen.foot()
    if console is None:
        yield lambda: None
        return
    from rich.live import Live

    last = 0.0
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:

        def refresh() -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                live.update(one_line(session.stats), refresh=True)

        yield refresh


def one_line(stats: "StreamStats") -> str:
    """The figures in a line: `120 answered, 24.8 fps, age p50 31 ms p99 80 ms, dropped 3 superseded`."""
    parts = [f"{stats.answered} answered", f"{stats.fps:.1f} fps"]
    if stats.age_p50 is not None and stats.age_p99 is not None:
        parts.append(f"age p50 {_ms(stats.age_p50)} p99 {_ms(stats.age_p99)}")
    dropped = _dropped(stats)
    if dropped:
        parts.append(f"dropped {dropped}")
    if stats.failed:
        parts.append(f"{stats.failed} failed")
    if stats.reconnects:
        parts.append(counted(stats.reconnects, "reconnect"))
    return ", ".join(parts)


def summary_table(session: "StreamSession") -> Any:
    """All the figures of a stream, for people."""
    from rich import box
    from rich.table import Table

    stats = session.stats
    rows = {
        "model": str(session.model or ""),
        "frames sent": str(stats.sent),
        "answered": f"{stats.answered} in {stats.seconds:.1f} s, {stats.fps:.1f} fps",
        "dropped": _dropped(stats) or "0",
        "failed": str(stats.failed),
        "age p50 / p99 / max": " / ".join(_ms(age) for age in (stats.age_p50, stats.age_p99, stats.age_max)),
        "sent": f"{stats.bytes_sent / 1e6:.1f} MB",
        "reconnects": str(stats.reconnects) if stats.reconnects else "",
    }
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for what, value in rows.items():
        if value:
            table.add_row(f"[dim]{what}[/dim]", value)
    return table


def _dropped(stats: "StreamStats") -> str:
    return ", ".join(f"{count} {reason}" for reason, count in stats.dropped.items() if count)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"
