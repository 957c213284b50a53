"""`opsin bench`: how many calls a second a server answers, and how long they take."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer

from opsin.bench.fleet import BarePlan, BenchError
from opsin.bench.payloads import Payload
from opsin.bench.report import lines, notes, table
from opsin.bench.run import Plan, measure, pictures
from opsin.cli.connection import ClientCommand, client_options, settings_of
from opsin.cli.exits import EPILOG, ExitCode
from opsin.cli.failures import nobody_at, warn
from opsin.cli.inputs import find_pictures
from opsin.cli.output import Screen
from opsin.cli.parsing import parse_duration, parse_size

__all__ = ["register"]

BARE_SECONDS = 4.0
"""Of each round of the bare model, when --duration does not say."""


class Method(StrEnum):
    """What is called."""

    DETECT = "detect"
    EMBED = "embed"
    STREAM = "stream"


def register(app: typer.Typer) -> None:
    """Add `bench`."""
    app.command("bench", cls=ClientCommand, epilog=EPILOG)(bench)


def bench(
    ctx: typer.Context,
    *,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Pictures to send: files, globs, folders; made up without.",
            show_default=False,
            metavar="INPUT",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="NAME, NAME@VERSION or NAME@LABEL.", metavar="NAME", show_default="the server's"),
    ] = "",
    method: Annotated[Method, typer.Option(help="What is called.")] = Method.DETECT,
    concurrency: Annotated[
        str,
        typer.Option(
            "--concurrency",
            "-c",
            help="Callers (or streams) at once; 1,8,32 runs one after the other.",
            metavar="N,N",
        ),
    ] = "8",
    total: Annotated[
        int, typer.Option("--total", "-n", help="Calls (or frames) in all.", min=1, metavar="N")
    ] = 200,
    duration: Annotated[
        str,
        typer.Option(
            "--duration",
            "-z",
            help="Run for so long instead, such as 10s.",
            metavar="TIME",
            show_default=False,
        ),
    ] = "",
    size: Annotated[
        str,
        typer.Option(
            help="Made-up inputs: 640x480 are JPEGs of so many pixels, 1kB raw pictures of so many bytes.",
            metavar="SIZE",
        ),
    ] = "640x480",
    text: Annotated[bool, typer.Option("--text", help="Made-up texts, of --size bytes.")] = False,
    processes: Annotated[
        int, typer.Option(help="Processes the callers are dealt to.", min=1, metavar="N")
    ] = 1,
    warmup: Annotated[
        float, typer.Option(help="Seconds of calls that are not counted.", min=0, metavar="SECONDS")
    ] = 1.0,
    against: Annotated[
        str,
        typer.Option(
            help="bare: run the same model without a server too, between the runs.",
            metavar="bare",
            show_default=False,
        ),
    ] = "",
    bare_model: Annotated[
        str,
        typer.Option(
            help="The model as 'opsin serve --model' takes it.",
            metavar="NAME[=SOURCE]",
            show_default="--model",
        ),
    ] = "",
    bare_processes: Annotated[int, typer.Option(help="Of the bare model.", min=1, metavar="N")] = 2,
    bare_threads: Annotated[int, typer.Option(help="Of each process.", min=1, metavar="N")] = 1,
    bare_batch: Annotated[int, typer.Option(help="Its batch size.", min=1, metavar="N")] = 4,
    allow_cache: Annotated[
        bool,
        typer.Option("--allow-cache", help="Do not ask for fresh answers, if the server keeps any."),
    ] = False,
) -> None:
    """Measure a server: calls a second, latencies, batches.

    Closed loop: each caller sends its next call when the last one is answered.

    \b
      opsin bench -c 1,8,32 -z 10s
      opsin bench --model echo --size 1kB -c 32 -n 20000 --processes 2
      opsin bench --method stream --model nanodet photos/
      opsin bench --model nanodet -c 32 -z 20s --against bare
    """
    if against not in ("", "bare"):
        raise typer.BadParameter(f"{against!r} is not 'bare'.", param_hint="--against")
    settings = settings_of(ctx)
    seconds = parse_duration(duration) if duration else None
    bare = BarePlan(
        bare_model or model or "nanodet", bare_processes, bare_batch, seconds or BARE_SECONDS, bare_threads
    )
    callers = _callers(concurrency)
    screen = Screen(settings)
    with _reported(settings.target), _payload(inputs or [], size, text) as payload:
        plan = Plan(
            client=client_options(settings),
            method=str(method),
            payload=payload,
            callers=callers,
            model=model,
            total=total,
            duration=seconds,
            processes=processes,
            warmup=warmup,
            skip_cache=not allow_cache,
            bare=bare if against else None,
        )
        with screen.doing() as say:
            result = measure(plan, say)
    for line in lines(result):
        screen.result(line)
    screen.show(table(result))
    for note in notes(result):
        screen.note(note)
    failed = any(figures.errors for figures in result.runs)
    raise typer.Exit(ExitCode.SOME_FAILED if failed else ExitCode.OK)


def _callers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(",") if part.strip().isdigit())
    if len(numbers) != len(text.split(",")) or min(numbers) < 1:
        raise typer.BadParameter(
            f"{text!r} is not a number of callers above 0, or several: 1,8,32.", param_hint="-c"
        )
    return numbers


@contextmanager
def _payload(inputs: list[str], size: str, text: bool) -> Iterator[Payload]:
    """What is sent. Made-up pictures last as long as the block."""
    if inputs:
        yield Payload("files", tuple(_files(inputs)))
        return
    match parse_size(size):
        case (width, height) if not text:
            with pictures(width, height) as paths:
                yield Payload("files", paths)
        case int(size_in_bytes):
            yield Payload("text" if text else "raw", size=size_in_bytes)
        case _:
            raise typer.BadParameter("texts are measured in bytes, such as --size 1kB.", param_hint="--size")


def _files(arguments: list[str]) -> Iterator[str]:
    for entry in find_pictures(arguments, sys.stdin.buffer):
        if entry.path is None:
            raise typer.BadParameter(f"{entry.name}: {entry.problem or 'a bench sends files only'}.")
        yield str(entry.path)


@contextmanager
def _reported(target: str) -> Iterator[None]:
    """A bench that cannot be measured ends with a sentence and an exit code."""
    try:
        yield
    except BenchError as failed:
        warn(nobody_at(target) if failed.unreachable else str(failed))
        raise typer.Exit(ExitCode.UNREACHABLE if failed.unreachable else ExitCode.REFUSED) from None
    except KeyboardInterrupt:
        warn("interrupted")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
