"""`opsin bench`: how many calls a second a server answers, how long they take, and which load it holds.

Owns the options and the end of the command; `benchplan` reads the options' values, `opsin.bench` measures.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from opsin.bench.load import INTERRUPTED, VANISHED
from opsin.bench.notes import notes
from opsin.bench.processes import BenchError
from opsin.bench.report import lines, tables
from opsin.bench.run import Result, find_knee, measure
from opsin.cli import completion
from opsin.cli.benchplan import Options, plan_of
from opsin.cli.benchsave import check_load, check_outputs, save
from opsin.cli.connection import ClientCommand, settings_of
from opsin.cli.exits import EPILOG, ExitCode
from opsin.cli.failures import exit_code, nobody_at, warn
from opsin.cli.output import Screen

__all__ = ["register"]

_LOAD = "Load"
_INPUTS = "Inputs"
_ROUNDS = "Rounds and comparisons"
_OUTPUT = "Output"


class Method(StrEnum):
    """What is called."""

    DETECT = "detect"
    EMBED = "embed"
    BATCH = "batch"
    STREAM = "stream"


class Process(StrEnum):
    """How calls of an open loop are spread over time."""

    POISSON = "poisson"
    CONSTANT = "constant"


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    HTML = "html"
    GHZ = "ghz"


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
        typer.Option(
            help="NAME, NAME@VERSION or NAME@LABEL.",
            metavar="NAME",
            show_default="the server's",
            autocompletion=completion.references,
        ),
    ] = "",
    method: Annotated[
        Method, typer.Option(help="What is called; batch is BatchDetect, stream StreamDetect.")
    ] = Method.DETECT,
    concurrency: Annotated[
        str,
        typer.Option(
            "--concurrency",
            "-c",
            help="Callers, or streams, at once; 1,8,32 runs one after the other. With --rps: the most calls "
            "under way.",
            metavar="N,N",
            show_default="8; no limit with --rps",
            rich_help_panel=_LOAD,
        ),
    ] = "",
    total: Annotated[
        int | None,
        typer.Option(
            "--total",
            "-n",
            help="Calls (or frames) in all.",
            min=1,
            metavar="N",
            show_default="200; a whole --trace",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    duration: Annotated[
        str,
        typer.Option(
            "--duration",
            "-z",
            help="Run for so long instead, such as 10s.",
            metavar="TIME",
            show_default=False,
            rich_help_panel=_LOAD,
        ),
    ] = "",
    rps: Annotated[
        str,
        typer.Option(
            "--rps",
            "-r",
            help="Open loop: so many calls (or frames) a second, however slow the answers are; latencies "
            "count from when a call was due. 50,100,200 runs one after the other.",
            metavar="R,R",
            show_default=False,
            rich_help_panel=_LOAD,
        ),
    ] = "",
    arrivals: Annotated[
        Process,
        typer.Option(help="With --rps: at random moments, or evenly spaced.", rich_help_panel=_LOAD),
    ] = Process.POISSON,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Open loop at recorded times: seconds, one a line; CSV or JSON lines with 'at', as the "
            "server's scheduler.trace. With --rps stretched to that mean rate.",
            metavar="FILE",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    deadline: Annotated[
        str,
        typer.Option(
            help="Good is only what was answered within so long, such as 200ms. The server is not told.",
            metavar="TIME",
            show_default=False,
            rich_help_panel=_LOAD,
        ),
    ] = "",
    knee: Annotated[
        bool,
        typer.Option(
            "--find-knee",
            help="Step the rate, from --rps or half of what a lone caller gets, to the highest at which 99 % "
            "are answered within --deadline (without: 5 times a lone caller's median). -z is of a step: 5s.",
            rich_help_panel=_LOAD,
        ),
    ] = False,
    warmup: Annotated[
        float,
        typer.Option(
            help="Seconds of calls that are not counted.", min=0, metavar="SECONDS", rich_help_panel=_LOAD
        ),
    ] = 1.0,
    batch_size: Annotated[
        int,
        typer.Option(
            help="Inputs of a call, with --method batch.", min=1, metavar="N", rich_help_panel=_LOAD
        ),
    ] = 8,
    freshness: Annotated[
        str,
        typer.Option(
            help="Of streams: every-frame, latest, max-age=200ms, fps=5.",
            metavar="RULE",
            rich_help_panel=_LOAD,
        ),
    ] = "every-frame",
    processes: Annotated[
        int,
        typer.Option(
            help="Processes the callers are dealt to.",
            min=0,
            metavar="N",
            show_default="as the load needs",
            rich_help_panel=_LOAD,
        ),
    ] = 0,
    connections: Annotated[
        int,
        typer.Option(
            help="Connections the calls are dealt to.",
            min=0,
            metavar="N",
            show_default="one a process",
            rich_help_panel=_LOAD,
        ),
    ] = 0,
    size: Annotated[
        str,
        typer.Option(
            help="Made-up inputs: 640x480 are JPEGs of so many pixels, 1kB raw pictures of so many bytes.",
            metavar="SIZE",
            rich_help_panel=_INPUTS,
        ),
    ] = "640x480",
    text: Annotated[
        bool, typer.Option("--text", help="Made-up texts, of --size bytes.", rich_help_panel=_INPUTS)
    ] = False,
    same: Annotated[
        bool,
        typer.Option(
            "--same",
            help="Send one input again and again; with --allow-cache that measures the cache.",
            rich_help_panel=_INPUTS,
        ),
    ] = False,
    allow_cache: Annotated[
        bool,
        typer.Option(
            "--allow-cache",
            help="Do not ask for fresh answers, if the server keeps any.",
            rich_help_panel=_INPUTS,
        ),
    ] = False,
    repeats: Annotated[
        int,
        typer.Option(
            "--repeats",
            help="Rounds: medians, with their intervals.",
            min=0,
            metavar="N",
            show_default="1; 6 with --against HOST",
            rich_help_panel=_ROUNDS,
        ),
    ] = 0,
    against: Annotated[
        str,
        typer.Option(
            help="bare: run the same model without a server too, between the runs. HOST:PORT: another "
            "server, in rounds that take turns, and the ratio.",
            metavar="bare|HOST:PORT",
            show_default=False,
            rich_help_panel=_ROUNDS,
        ),
    ] = "",
    bare_model: Annotated[
        str,
        typer.Option(
            help="The model as 'opsin serve --model' takes it.",
            metavar="NAME[=SOURCE]",
            show_default="--model",
            rich_help_panel=_ROUNDS,
        ),
    ] = "",
    bare_processes: Annotated[
        int, typer.Option(help="Of the bare model.", min=1, metavar="N", rich_help_panel=_ROUNDS)
    ] = 2,
    bare_threads: Annotated[
        int, typer.Option(help="Of each process.", min=1, metavar="N", rich_help_panel=_ROUNDS)
    ] = 1,
    bare_batch: Annotated[
        int, typer.Option(help="Its batch size.", min=1, metavar="N", rich_help_panel=_ROUNDS)
    ] = 4,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            help="Write a file, in the format that its ending says: .json, .csv (a line a call), .html (a "
            "report with plots). Repeatable.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    format: Annotated[  # noqa: A002  ghz's name for it
        Format,
        typer.Option(
            "--format",
            "-O",
            help="What is printed, or written to --output whatever its ending; ghz is the JSON that tools "
            "for ghz read.",
            rich_help_panel=_OUTPUT,
        ),
    ] = Format.TABLE,
    name: Annotated[
        str,
        typer.Option(help="A name for the run, kept in what is written.", rich_help_panel=_OUTPUT),
    ] = "",
) -> None:
    """Measure a server: calls a second, latencies, batches, the load it holds.

    Closed loop by default: each caller sends its next call when the last one is answered.

    Open loop with --rps or --trace. Nothing is retried. docs/bench.md tells what each number means.

    \b
      opsin bench -c 1,8,32 -z 10s
      opsin bench --rps 200 -z 30s --deadline 100ms -o report.html
      opsin bench --find-knee --model nanodet --deadline 200ms
      opsin bench --method stream -c 8 --rps 200 --freshness latest photos/
      opsin bench --model nanodet -c 32 -z 20s --against bare
      opsin bench -c 8 -z 10s --against other:50051
    """
    settings = settings_of(ctx)
    options = Options(
        inputs=inputs or [],
        model=model,
        method=str(method),
        concurrency=concurrency,
        total=total,
        duration=duration,
        rps=rps,
        arrivals=str(arrivals),
        trace=trace,
        deadline=deadline,
        knee=knee,
        warmup=warmup,
        batch_size=batch_size,
        freshness=freshness,
        processes=processes,
        connections=connections,
        size=size,
        text=text,
        same=same,
        allow_cache=allow_cache,
        repeats=repeats,
        against=against,
        bare_model=bare_model,
        bare_processes=bare_processes,
        bare_threads=bare_threads,
        bare_batch=bare_batch,
        name=name,
    )
    wanted = check_outputs(output or [], str(format))
    screen = Screen(settings)
    with _reported(settings.target), plan_of(options, settings) as plan:
        check_load(wanted, len(plan.points), knee=knee)
        with screen.doing() as say:
            result = (find_knee if knee else measure)(plan, say)
        save(result, wanted)
        _show(result, screen, printed=any(one.path is None for one in wanted))
    raise typer.Exit(_end(result))


def _show(result: Result, screen: Screen, *, printed: bool) -> None:
    """The tables and what there is to say, unless stdout was printed to as another format."""
    if printed or not result.runs:
        return
    for line in lines(result):
        screen.result(line)
    for table in tables(result):
        screen.show(table)
    for note in notes(result):
        screen.note(note)


def _end(result: Result) -> ExitCode:
    """Why the command ends as it does."""
    figures = [run.figures for run in result.runs]
    answered = sum(one.answered for one in figures)
    match result.ended:
        case str(ended) if ended == INTERRUPTED:
            warn("interrupted")
            return ExitCode.INTERRUPTED
        case str(ended) if ended == VANISHED:
            last = result.runs[-1].figures if result.runs else None
            when = f" after {last.seconds:.1f} s of a run, {last.answered} calls answered" if last else ""
            warn(f"the server went away{when}; what was measured until then is shown.")
            return ExitCode.UNREACHABLE
    if not any(one.errors or one.refused for one in figures):
        return ExitCode.OK
    return ExitCode.SOME_FAILED if answered else _first_failure(result)


def _first_failure(result: Result) -> ExitCode:
    """When every call failed, the code is that of the first."""
    from opsin._errors import Code, error_class

    samples = (sample for run in result.runs for one in run.recordings for sample in one.samples)
    first = next((sample for sample in samples if sample.error), None)
    if first is None or first.code not in Code.__members__:
        return ExitCode.SOME_FAILED
    code = Code[first.code]
    return exit_code(error_class(code, first.error)(first.error, code=code))


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
