"""`opsin bench`: how many calls a second a server answers, how long they take, and which load it holds.

Owns the command and how it ends; `benchoptions` declares the options, `benchplan` reads their values,
`opsin.bench` measures.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from opsin.bench.load import INTERRUPTED, VANISHED
from opsin.bench.notes import notes
from opsin.bench.processes import BenchError
from opsin.bench.report import lines, tables
from opsin.bench.run import Result, find_knee, measure
from opsin.cli.benchoptions import Options
from opsin.cli.benchplan import plan_of
from opsin.cli.benchsave import check_load, check_outputs, save
from opsin.cli.connection import ClientCommand, settings_of
from opsin.cli.exits import EPILOG, ExitCode
from opsin.cli.failures import describe, exit_code, nobody_at, warn
from opsin.cli.fields import taking
from opsin.cli.output import Screen

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `bench`."""
    app.command("bench", cls=ClientCommand, epilog=EPILOG)(bench)


@taking(Options)
def bench(ctx: typer.Context, options: Options) -> None:
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
    wanted = check_outputs(options.output or [], str(options.format))
    screen = Screen(settings)
    with _reported(settings.target), plan_of(options, settings) as plan:
        check_load(wanted, len(plan.points), knee=options.knee)
        with screen.doing() as say:
            result = (find_knee if options.knee else measure)(plan, say)
        saved = save(result, wanted)
        _show(result, screen, printed=any(one.path is None for one in wanted))
    code = _end(result)
    raise typer.Exit(code if saved else code or ExitCode.SOME_FAILED)


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
            warn(f"the server went away{_when(result)}; what was measured until then is shown.")
            return ExitCode.UNREACHABLE
    if result.failure:
        warn(f"ended early: {_told(result.failure, '')}")
        return _code_of(result.failure.code, result.failure.reason)
    if not any(one.errors or one.refused for one in figures):
        return ExitCode.OK
    return ExitCode.SOME_FAILED if answered else _first_failure(result)


def _when(result: Result) -> str:
    if result.failure:
        return f" between two runs ({result.failure.target})"
    last = result.runs[-1].figures if result.runs else None
    return f" after {last.seconds:.1f} s of a run, {last.answered} calls answered" if last else ""


def _first_failure(result: Result) -> ExitCode:
    """When every call failed, the code is that of the first."""
    samples = (sample for run in result.runs for one in run.recordings for sample in one.samples)
    first = next((sample for sample in samples if sample.error), None)
    return _code_of(first.code, first.error, ExitCode.SOME_FAILED) if first else ExitCode.SOME_FAILED


def _code_of(name: str, reason: str, other: ExitCode = ExitCode.REFUSED) -> ExitCode:
    """The exit code that goes with a gRPC code and the server's reason."""
    from opsin._errors import Code, error_class

    if name not in Code.__members__:
        return other
    code = Code[name]
    return exit_code(error_class(code, reason)(reason, code=code))


def _told(failed: BenchError, target: str) -> str:
    """As every command tells of such an error."""
    from opsin._errors import Code, Unreachable, error_class

    if failed.code not in Code.__members__:
        return nobody_at(failed.target or target) if failed.unreachable else str(failed)
    code = Code[failed.code]
    kind = Unreachable if failed.unreachable else error_class(code, failed.reason)
    return describe(kind(str(failed), code=code, reason=failed.reason), failed.target or target)


@contextmanager
def _reported(target: str) -> Iterator[None]:
    """A bench that cannot be measured ends with a sentence and an exit code."""
    try:
        yield
    except BenchError as failed:
        warn(_told(failed, target))
        raise typer.Exit(
            ExitCode.UNREACHABLE if failed.unreachable else _code_of(failed.code, failed.reason)
        ) from None
    except KeyboardInterrupt:
        warn("interrupted")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
