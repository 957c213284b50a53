"""From the values of `opsin bench`'s options to a plan. Each refusal says what would be right."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import typer

from opsin.bench.arrivals import Arrivals, Kind, TraceError, read_trace
from opsin.bench.bare import BarePlan
from opsin.bench.messages import Asked
from opsin.bench.payloads import Payload
from opsin.bench.plan import Plan, Point
from opsin.bench.run import pictures
from opsin.cli.benchoptions import Options
from opsin.cli.connection import Settings, client_options
from opsin.cli.inputs import find_pictures
from opsin.cli.parsing import parse_duration, parse_freshness, parse_size

__all__ = ["plan_of"]

T = TypeVar("T")

BARE_SECONDS = 4.0
"""Of each round of the bare model, when --duration does not say."""
PICTURE_SIZE, TEXT_SIZE = "640x480", "1kB"
CALLERS = 8
TOTAL = 200
PAIRED_ROUNDS = 6
"""The fewest rounds whose interval reaches 95 %."""


@contextmanager
def plan_of(options: Options, settings: Settings) -> Iterator[Plan]:
    """The plan. Made-up pictures last as long as the block. Raises `typer.BadParameter`."""
    if not math.isfinite(options.warmup):
        raise typer.BadParameter("a warm-up ends some time; give seconds.", param_hint="--warmup")
    points = _points(options)
    duration = _of("--duration", parse_duration, options.duration) if options.duration else None
    deadline = _of("--deadline", parse_duration, options.deadline) if options.deadline else None
    total = None if duration else options.total or (None if options.trace else TOTAL)
    client, rival = client_options(settings), _rival(options, settings)
    asked = Asked(
        options.model,
        not options.allow_cache,
        options.batch_size,
        _of("--freshness", parse_freshness, options.freshness),
    )
    with _payload(options) as payload:
        yield Plan(
            client=client,
            method=str(options.method),
            payload=payload,
            asked=asked,
            points=points,
            total=total,
            duration=duration,
            processes=options.processes,
            connections=options.connections,
            warmup=options.warmup,
            rounds=options.repeats or (PAIRED_ROUNDS if rival else 1),
            deadline=deadline,
            rival=rival,
            bare=_bare(options, duration),
            name=options.name,
        )


def _of(option: str, parse: Callable[[str], T], text: str) -> T:
    """The value of an option, whose refusal names the option."""
    try:
        return parse(text)
    except typer.BadParameter as refusal:
        refusal.param_hint = option
        raise


def _points(options: Options) -> tuple[Point, ...]:
    streams = options.method == "stream"
    open_loop = bool(options.rps or options.trace or options.knee)
    callers: tuple[int | None, ...] = _callers(options.concurrency)
    if not callers:
        callers = (CALLERS,) if streams or not open_loop else (None,)
    arrivals = _arrivals(options, "constant" if streams else "poisson")
    if options.knee:
        _check_knee(options, len(callers), len(arrivals))
    if not arrivals:
        return tuple(Point(number) for number in callers)
    if len(callers) > 1 and len(arrivals) > 1:
        raise typer.BadParameter("several numbers either here or with --rps, not with both.", param_hint="-c")
    return tuple(Point(number, one) for one in arrivals for number in callers)


def _check_knee(options: Options, callers: int, rates: int) -> None:
    for given, name in (
        (callers > 1, "several -c"),
        (rates > 1, "several --rps"),
        (options.trace, "--trace"),
        (options.against, "--against"),
        (options.repeats > 1, "--repeats"),
        (options.total, "-n"),
    ):
        if given:
            raise typer.BadParameter(f"{name} does not go with it.", param_hint="--find-knee")


def _arrivals(options: Options, usual: Kind) -> list[Arrivals]:
    rates = _rates(options.rps)
    if options.trace is None:
        kind = usual if options.arrivals is None else options.arrivals.kind
        return [Arrivals(kind, rate) for rate in rates]
    try:
        times = read_trace(options.trace)
        return [Arrivals.of_trace(times, rate) for rate in rates] or [Arrivals.of_trace(times)]
    except TraceError as reason:
        raise typer.BadParameter(f"{reason}.", param_hint="--trace") from None


def _callers(text: str) -> tuple[int, ...]:
    if not text:
        return ()
    numbers = tuple(int(part) for part in text.split(",") if part.strip().isdecimal())
    if len(numbers) != len(text.split(",")) or min(numbers) < 1:
        raise typer.BadParameter(
            f"{text!r} is not a number of callers above 0, or several: 1,8,32.", param_hint="-c"
        )
    return numbers


def _rates(text: str) -> tuple[float, ...]:
    if not text:
        return ()
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < 1e9 for rate in rates):
        raise typer.BadParameter(
            f"{text!r} is not a rate above 0, or several: 50,100,200.", param_hint="--rps"
        )
    return rates


def _rival(options: Options, settings: Settings) -> dict[str, object] | None:
    if options.against in ("", "bare"):
        return None
    host, colon, port = options.against.rpartition(":")
    if not colon or not host or (host != "unix" and not port.isdecimal()):
        raise typer.BadParameter(
            f"{options.against!r} is neither 'bare' nor HOST:PORT.", param_hint="--against"
        )
    return {**client_options(settings), "target": options.against}


def _bare(options: Options, duration: float | None) -> BarePlan | None:
    if options.against != "bare":
        return None
    return BarePlan(
        options.bare_model or options.model or "nanodet",
        options.bare_processes,
        options.bare_batch,
        duration or BARE_SECONDS,
        options.bare_threads,
    )


@contextmanager
def _payload(options: Options) -> Iterator[Payload]:
    """What is sent. Made-up pictures last as long as the block."""
    if options.text and options.method == "stream":
        raise typer.BadParameter("streams take pictures, not texts.", param_hint="--text")
    if options.inputs:
        yield Payload("files", tuple(_files(options.inputs)), same=options.same)
        return
    match _of("--size", parse_size, options.size or (TEXT_SIZE if options.text else PICTURE_SIZE)):
        case (width, height) if not options.text:
            with pictures(width, height) as paths:
                yield Payload("files", paths, same=options.same)
        case int(size_in_bytes):
            yield Payload("text" if options.text else "raw", size=size_in_bytes, same=options.same)
        case _:
            raise typer.BadParameter("texts are measured in bytes, such as --size 1kB.", param_hint="--size")


def _files(arguments: list[str]) -> Iterator[str]:
    for entry in find_pictures(arguments, sys.stdin.buffer):
        if entry.path is None:
            raise typer.BadParameter(f"{entry.name}: {entry.problem or 'a bench sends files only'}.")
        try:
            with Path(entry.path).open("rb") as file:
                empty = not file.read(1)
        except OSError as reason:
            raise typer.BadParameter(f"{entry.name}: {reason.strerror or reason}.") from None
        if empty:
            raise typer.BadParameter(f"{entry.name} is empty: a picture file has at least a header.")
        yield str(entry.path)
