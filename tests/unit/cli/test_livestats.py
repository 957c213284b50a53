"""The line under a running stream, and the table at its end."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import opsin
from opsin import DropReason
from opsin.cli import livestats
from opsin.cli.livestats import live_line, one_line, summary_table


def stats(**told: Any) -> opsin.StreamStats:
    figures: dict[str, Any] = {
        "sent": 130,
        "answered": 120,
        "dropped": {},
        "failed": 0,
        "in_flight": 2,
        "window": 8,
        "waiting": 0,
        "bytes_sent": 12_300_000,
        "reconnects": 0,
        "age_p50": 0.0314,
        "age_p99": 0.0802,
        "age_max": 0.2,
        "seconds": 4.84,
        "fps": 24.79,
    }
    return opsin.StreamStats(**{**figures, **told})


def test_the_line_tells_rate_ages_and_why_frames_were_dropped() -> None:
    told = stats(dropped={DropReason.SUPERSEDED: 3, DropReason.TOO_OLD: 1}, failed=2, reconnects=1)
    assert one_line(told) == (
        "120 answered, 24.8 fps, age p50 31 ms p99 80 ms, "
        f"dropped 3 {DropReason.SUPERSEDED}, 1 {DropReason.TOO_OLD}, 2 failed, 1 reconnect"
    )


def test_the_line_leaves_out_what_did_not_happen() -> None:
    nothing = stats(answered=0, fps=0.0, age_p50=None, age_p99=None, age_max=None)
    assert one_line(nothing) == "0 answered, 0.0 fps"


def test_the_line_changes_while_the_stream_runs_and_no_faster_than_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(livestats.time, "monotonic", lambda: now[0])
    session: Any = SimpleNamespace(stats=stats(answered=7))
    console = Console(file=(out := io.StringIO()), force_terminal=True, width=100, highlight=False)
    with live_line(session, SimpleNamespace(foot=lambda: console)) as refresh:  # type: ignore[arg-type]
        refresh()
        session.stats = stats(answered=8)
        refresh()
        session.stats = stats(answered=9)
        now[0] += livestats.EVERY
        refresh()
    assert "7 answered" in out.getvalue()
    assert "8 answered" not in out.getvalue()
    assert "9 answered" in out.getvalue()


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    session: Any = SimpleNamespace()
    with live_line(session, SimpleNamespace(foot=lambda: None)) as refresh:  # type: ignore[arg-type]
        refresh()


def test_the_table_has_every_figure() -> None:
    session: Any = SimpleNamespace(model="nanodet@1", stats=stats(dropped={DropReason.SUPERSEDED: 3}))
    Console(file=(out := io.StringIO()), width=100).print(summary_table(session))
    for figure in ("nanodet@1", "130", "120 in 4.8 s, 24.8 fps", "31 ms / 80 ms / 200 ms", "12.3 MB"):
        assert figure in out.getvalue()
    assert f"3 {DropReason.SUPERSEDED}" in out.getvalue()
    assert "reconnects" not in out.getvalue()
