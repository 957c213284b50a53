"""Figures as a table for people and as lines for machines."""

from collections.abc import Iterator
from typing import Any

from opsin.bench.figures import Figures
from opsin.bench.run import Result

__all__ = ["lines", "notes", "table"]


def lines(result: Result) -> Iterator[dict[str, Any]]:
    """One JSON-ready line a run, and one for the bare model."""
    for run, figures in enumerate(result.runs):
        share = {"share_of_bare": result.bare.share(run, figures)} if result.bare else {}
        yield {"kind": "run", **figures.to_dict(), **share}
    if result.bare:
        bare = result.bare
        yield {
            "kind": "bare",
            "model": bare.model,
            "rate": bare.rate,
            "rounds": list(bare.rounds),
            "noisy": bare.noisy,
            "processes": bare.processes,
            "batch": bare.batch,
            "threads": bare.threads,
        }


def table(result: Result) -> Any:
    """A row a run: speed, latencies, batches, failures."""
    from rich import box
    from rich.table import Table

    streams = any(figures.age_p50 is not None for figures in result.runs)
    # Titles of two lines and little space: eleven columns have to fit a terminal of 80 characters.
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0 if streams else 1, 0, 0))
    titles = ["callers", "calls/s", "p50\nms", "p90\nms", "p99\nms", "mean\nbatch", "failed"]
    titles += ["age\np50 ms", "age\np99 ms", "drops"] if streams else []
    titles += ["of\nbare"] if result.bare else []
    for title in titles:
        drawn.add_column(title, justify="right", no_wrap=True)
    for run, figures in enumerate(result.runs):
        row = [str(figures.callers), f"{figures.rate:.1f}", *_latencies(figures), _batch(figures)]
        row.append(str(sum(figures.errors.values())))
        row += (
            [_number(figures.age_p50), _number(figures.age_p99), str(sum(figures.dropped.values()))]
            if streams
            else []
        )
        row += [f"{result.bare.share(run, figures):.0%}"] if result.bare else []
        drawn.add_row(*row)
    return drawn


def notes(result: Result) -> Iterator[str]:
    """What a reader of the table has to know besides."""
    for figures in result.runs:
        for what, counts in (("failed", figures.errors), ("dropped", figures.dropped)):
            if counts:
                told = ", ".join(f"{count} {reason}" for reason, count in counts.items())
                yield f"{_callers(figures)}: {what}: {told}"
        if figures.stages:
            yield f"{_callers(figures)}: on the server, ms: {_stages(figures)}"
        if figures.client_limited:
            yield (
                f"{_callers(figures)}: a process of callers used {figures.client_cpu:.0%} of a core; "
                "it may have been the limit. Try more --processes."
            )
    if bare := result.bare:
        rounds = ", ".join(f"{rate:.1f}" for rate in bare.rounds)
        yield (
            f"bare {bare.model}: {bare.rate:.1f} a second (rounds: {rounds}) in "
            f"{_some(bare.processes, 'process', 'processes')} of {_some(bare.threads, 'thread', 'threads')} "
            f"at batch {bare.batch}"
        )
        if bare.noisy:
            yield "the rounds of the bare model differ by more than 15 %: the machine was not quiet."


def _callers(figures: Figures) -> str:
    return _some(figures.callers, "caller", "callers")


def _some(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _latencies(figures: Figures) -> list[str]:
    latency = figures.latency
    return [_number(value) for value in ((latency.p50, latency.p90, latency.p99) if latency else (None,) * 3)]


def _batch(figures: Figures) -> str:
    return "-" if figures.mean_batch_size is None else f"{figures.mean_batch_size:.2f}"


def _stages(figures: Figures) -> str:
    return ", ".join(f"{stage} {value:.2f}" for stage, value in figures.stages.items() if value >= 0.005)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
