"""A bench as ghz tells it: the JSON report of `ghz -O json`, so that what reads that reads this.

Durations are whole nanoseconds, marks of the histogram seconds, statuses spelled as in Go. Latencies and
histogram are of the calls that were answered, average and rps of all, as ghz has them. Frames that a stream
dropped by its rule count as errors. Rounds of one load are told as one run.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any

from opsin.bench.figures import percentile
from opsin.bench.load import INTERRUPTED, Recording, Sample
from opsin.bench.messages import PATHS
from opsin.bench.run import Result

__all__ = ["ghz", "report"]

PERCENTAGES = (10, 25, 50, 75, 90, 95, 99)
BUCKETS = 10
_GO_CODES = {"CANCELLED": "Canceled", "": "OK"}


def ghz(result: Result) -> str:
    """The report, as text."""
    return json.dumps(report(result), indent=2, allow_nan=False)


def report(result: Result) -> dict[str, Any]:
    """The report, JSON-ready; of the server, where two were measured."""
    runs = [run for run in result.runs if run.turn.side == 0]
    recordings = [one for run in runs for one in run.recordings]
    samples = [sample for one in recordings for sample in one.samples]
    good = sorted(sample.seconds for sample in samples if sample.answered)
    total = sum(run.figures.seconds for run in runs)
    spent = sum(sample.seconds for sample in samples)
    return {
        "name": result.plan.name,
        "endReason": _end_reason(result),
        "options": _options(result),
        "date": _time(min((one.begun for one in recordings), default=0.0)),
        "count": len(samples),
        "total": _ns(total),
        "average": _ns(spent / len(samples)) if samples else 0,
        "fastest": _ns(good[0]) if good else 0,
        "slowest": _ns(good[-1]) if good else 0,
        "rps": len(samples) / total if total else 0.0,
        "errorDistribution": dict(Counter(_error(sample) for sample in samples if not sample.answered)),
        "statusCodeDistribution": dict(Counter(_status(sample) for sample in samples)),
        "latencyDistribution": [
            {"percentage": share, "latency": _ns(percentile(good, share / 100))} for share in PERCENTAGES
        ]
        if good
        else [],
        "histogram": list(_histogram(good)),
        "details": [_detail(one, sample) for one in recordings for sample in one.samples],
    }


def _options(result: Result) -> dict[str, Any]:
    plan, point = result.plan, result.plan.points[0]
    return {
        "call": PATHS[plan.method].strip("/").replace("/", "."),
        "host": str(plan.client["target"]),
        "insecure": not plan.client["tls"],
        "total": plan.total or 0,
        "concurrency": point.callers or 0,
        "rps": round(point.offered) if point.offered and point.offered < inf else 0,
        "async": point.offered is not None,
        "connections": plan.connections or plan.processes_of(point),
        "duration": _ns(plan.duration or 0.0),
        "timeout": _ns(plan.client.get("timeout", 30.0)),
        "binary": False,
        "CPUs": os.cpu_count() or 1,
    }


def _end_reason(result: Result) -> str:
    if result.ended == INTERRUPTED:
        return "cancel"
    return "timeout" if result.plan.duration else "normal"


def _status(sample: Sample) -> str:
    """As Go spells gRPC's codes: DeadlineExceeded."""
    if sample.dropped:
        return "Dropped"
    code = sample.code or ("UNKNOWN" if sample.error else "")
    return _GO_CODES.get(code) or "".join(word.capitalize() for word in code.split("_"))


def _error(sample: Sample) -> str:
    why = f"dropped: {sample.dropped}" if sample.dropped else sample.error
    return f"rpc error: code = {_status(sample)} desc = {why}"


def _histogram(ordered: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Eleven buckets by their upper marks, the first of which is the quickest call alone."""
    if not ordered:
        return
    low, width = ordered[0], (ordered[-1] - ordered[0]) / BUCKETS
    marks = [low + width * place for place in range(BUCKETS)] + [ordered[-1]]
    at = 0
    for mark in marks:
        first = at
        while at < len(ordered) and (ordered[at] <= mark):
            at += 1
        yield {"mark": mark, "count": at - first, "frequency": (at - first) / len(ordered)}


def _detail(recording: Recording, sample: Sample) -> dict[str, Any]:
    return {
        "timestamp": _time(recording.begun + sample.at),
        "latency": _ns(sample.seconds),
        "error": "" if sample.answered else _error(sample),
        "status": _status(sample),
    }


def _ns(seconds: float) -> int:
    return round(seconds * 1e9) if seconds < inf else 0


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat()
