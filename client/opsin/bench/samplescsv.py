"""Every call and frame as a line of CSV, for whoever wants to draw it in another way.

The column `at` is when a call was due, so that the file can be replayed by `opsin bench --trace`.
"""

import csv
import io

from opsin.bench.load import STAGES, Sample
from opsin.bench.run import Result, Run

__all__ = ["COLUMNS", "samples_csv"]

COLUMNS = (
    "server",
    "callers",
    "offered",
    "round",
    "process",
    "stream",
    "at",
    "latency_ms",
    "lag_ms",
    "status",
    "error",
    "dropped",
    "inputs",
    "batch_size",
    "age_ms",
    *(f"{stage}_ms" for stage in STAGES),
)


def samples_csv(result: Result) -> str:
    """The lines of all runs, in order of time within a process."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in result.runs:
        server = result.plan.client_of(run.turn.side)["target"]
        for process, recording in enumerate(run.recordings):
            for sample in sorted(recording.samples, key=lambda one: one.at):
                writer.writerow(_row(run, str(server), process, sample))
    return file.getvalue().rstrip("\n")


def _row(run: Run, server: str, process: int, sample: Sample) -> list[object]:
    stages = [f"{value:.3f}" for value in sample.stages] or [""] * len(STAGES)
    return [
        server,
        run.point.callers or "",
        run.figures.offered_rate or "",
        run.turn.round,
        process,
        sample.stream or "",
        f"{sample.at:.6f}",
        f"{sample.seconds * 1000:.3f}",
        f"{sample.lag * 1000:.3f}",
        sample.code or ("" if sample.dropped else "OK"),
        sample.error,
        sample.dropped,
        sample.inputs,
        sample.batch_size,
        "" if sample.age is None else f"{sample.age * 1000:.3f}",
        *stages,
    ]
