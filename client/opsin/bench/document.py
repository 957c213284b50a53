"""A bench as one JSON document: what was asked, where it was measured, every run, and what they come to.

`docs/bench.md` says what each field means. Fields are added, not changed; `format` counts up when one is.
"""

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from math import inf
from typing import Any

from opsin._channel import package_version
from opsin.bench.report import lines
from opsin.bench.run import Result, Run

__all__ = ["FORMAT", "about", "curve", "document"]

FORMAT = 1
SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0)


def document(result: Result) -> str:
    """The document, as text."""
    return json.dumps(contents(result), indent=2, allow_nan=False)


def contents(result: Result) -> dict[str, Any]:
    """The document, JSON-ready."""
    found = list(lines(result))
    runs = [line for line in found if line["kind"] == "run"]
    for line, run in zip(runs, result.runs, strict=True):
        line["latency_curve_ms"] = [[share, value] for share, value in curve(run)]
    return {
        "format": FORMAT,
        **about(result),
        "plan": _plan(result),
        "runs": runs,
        "summaries": [line for line in found if line["kind"] == "summary"],
        "pairs": [line for line in found if line["kind"] == "pair"],
        "knee": next((line for line in found if line["kind"] == "knee"), None),
        "bare": next((line for line in found if line["kind"] == "bare"), None),
        "ended": result.ended,
    }


def about(result: Result) -> dict[str, Any]:
    """Where and when: without it no number means anything."""
    begun = [one.begun for run in result.runs for one in run.recordings if one.begun]
    return {
        "name": result.plan.name,
        "target": str(result.plan.client["target"]),
        "date": datetime.fromtimestamp(min(begun, default=0.0), UTC).isoformat(timespec="seconds"),
        "client": {
            "opsin": package_version(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "cores": os.cpu_count(),
        },
    }


def curve(run: Run) -> list[tuple[float, float]]:
    """Shares of the answered calls, and the latencies in milliseconds that they do not exceed."""
    from opsin.bench.figures import percentile

    ordered = sorted(
        sample.seconds * 1000 for one in run.recordings for sample in one.samples if sample.answered
    )
    return [(share, percentile(ordered, share)) for share in SHARES] if ordered else []


def _plan(result: Result) -> dict[str, Any]:
    """What was asked; never the token."""
    plan = result.plan
    return {
        "method": plan.method,
        **asdict(plan.asked),
        "payload": {"kind": plan.payload.kind, "size": plan.payload.size, "same": plan.payload.same}
        | {"files": len(plan.payload.paths)},
        "points": [
            {"callers": point.callers, "offered": point.offered if point.offered != inf else None}
            | {"arrivals": point.arrivals.kind if point.arrivals else None}
            for point in plan.points
        ],
        "total": plan.total,
        "duration": plan.duration,
        "warmup": plan.warmup,
        "rounds": plan.rounds,
        "deadline": plan.deadline,
        "against": "bare" if plan.bare else plan.rival and plan.rival["target"],
    }
