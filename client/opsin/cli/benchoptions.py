"""The options of `opsin bench`, as a table: what each is called, means, and is when left out.

What is made of their values is `benchplan`'s business.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from opsin.bench.arrivals import Kind
from opsin.cli.options import ModelName

__all__ = ["Format", "Method", "Options", "Process"]


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

    @property
    def kind(self) -> Kind:
        """As the load tool calls it."""
        return "poisson" if self is Process.POISSON else "constant"


class Format(StrEnum):
    """How results are written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    HTML = "html"
    GHZ = "ghz"


def _option(*names: str, panel: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **more)


_load = partial(_option, panel="Load")
_inputs = partial(_option, panel="Inputs")
_rounds = partial(_option, panel="Rounds and comparisons")
_output = partial(_option, panel="Output")


@dataclass(frozen=True, slots=True)
class Options:
    """The options as they were typed; what was left out is empty, 0 or None, unless it has a default."""

    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Pictures to send: files, globs, folders; made up without.",
            show_default=False,
            metavar="INPUT",
        ),
    ] = None
    model: ModelName = ""
    method: Annotated[Method, _option(help="What is called; batch is BatchDetect, stream StreamDetect.")] = (
        Method.DETECT
    )

    concurrency: Annotated[
        str,
        _load(
            "--concurrency",
            "-c",
            help="Callers, or streams, at once; 1,8,32 runs one after the other. With --rps: the most calls "
            "under way.",
            metavar="N,N",
            show_default="8; no limit with --rps",
        ),
    ] = ""
    total: Annotated[
        int | None,
        _load(
            "--total",
            "-n",
            help="Calls (or frames) in all.",
            min=1,
            metavar="N",
            show_default="200; a whole --trace",
        ),
    ] = None
    duration: Annotated[
        str,
        _load(
            "--duration",
            "-z",
            help="Run for so long instead, such as 10s.",
            metavar="TIME",
            show_default=False,
        ),
    ] = ""
    rps: Annotated[
        str,
        _load(
            "--rps",
            "-r",
            help="Open loop: so many calls (or frames) a second, however slow the answers are; latencies "
            "count from when a call was due. 50,100,200 runs one after the other.",
            metavar="R,R",
            show_default=False,
        ),
    ] = ""
    arrivals: Annotated[
        Process | None,
        _load(
            help="With --rps: at random moments, as users come, or evenly spaced, as cameras do.",
            show_default="poisson; constant for streams",
        ),
    ] = None
    trace: Annotated[
        Path | None,
        _load(
            help="Open loop at recorded times: seconds, one a line; CSV or JSON lines with 'at', as the "
            "server's scheduler.trace. With --rps stretched to that mean rate.",
            metavar="FILE",
        ),
    ] = None
    deadline: Annotated[
        str,
        _load(
            help="Good is only what was answered within so long, such as 200ms. The server is not told.",
            metavar="TIME",
            show_default=False,
        ),
    ] = ""
    knee: Annotated[
        bool,
        _load(
            "--find-knee",
            help="Step the rate, from --rps or half of what a lone caller gets, to the highest at which 99 % "
            "are answered within --deadline (without: 5 times a lone caller's median). -z is of a step: 5s.",
        ),
    ] = False
    warmup: Annotated[
        float, _load(help="Seconds of calls that are not counted.", min=0, metavar="SECONDS")
    ] = 1.0
    batch_size: Annotated[int, _load(help="Inputs of a call, with --method batch.", min=1, metavar="N")] = 8
    freshness: Annotated[
        str, _load(help="Of streams: every-frame, latest, max-age=200ms, fps=5.", metavar="RULE")
    ] = "every-frame"
    processes: Annotated[
        int,
        _load(
            help="Processes the callers are dealt to.",
            min=0,
            metavar="N",
            show_default="as the load needs",
        ),
    ] = 0
    connections: Annotated[
        int,
        _load(help="Connections the calls are dealt to.", min=0, metavar="N", show_default="one a process"),
    ] = 0

    size: Annotated[
        str,
        _inputs(
            help="Made-up inputs: 640x480 are JPEGs of so many pixels, 1kB raw pictures of so many bytes.",
            metavar="SIZE",
            show_default="640x480; 1kB with --text",
        ),
    ] = ""
    text: Annotated[bool, _inputs("--text", help="Made-up texts, of --size bytes.")] = False
    same: Annotated[
        bool,
        _inputs("--same", help="Send one input again and again; with --allow-cache that measures the cache."),
    ] = False
    allow_cache: Annotated[
        bool, _inputs("--allow-cache", help="Do not ask for fresh answers, if the server keeps any.")
    ] = False

    repeats: Annotated[
        int,
        _rounds(
            "--repeats",
            help="Rounds: medians, with their intervals.",
            min=0,
            metavar="N",
            show_default="1; 6 with --against HOST",
        ),
    ] = 0
    against: Annotated[
        str,
        _rounds(
            help="bare: run the same model without a server too, between the runs. HOST:PORT: another "
            "server, in rounds that take turns, and the ratio.",
            metavar="bare|HOST:PORT",
            show_default=False,
        ),
    ] = ""
    bare_model: Annotated[
        str,
        _rounds(
            help="The model as 'opsin serve --model' takes it.",
            metavar="NAME[=SOURCE]",
            show_default="--model",
        ),
    ] = ""
    bare_processes: Annotated[int, _rounds(help="Of the bare model.", min=1, metavar="N")] = 2
    bare_threads: Annotated[int, _rounds(help="Of each process.", min=1, metavar="N")] = 1
    bare_batch: Annotated[int, _rounds(help="Its batch size.", min=1, metavar="N")] = 4

    output: Annotated[
        list[Path] | None,
        _output(
            "--output",
            "-o",
            help="Write a file, in the format that its ending says: .json, .csv (a line a call), .html (a "
            "report with plots). Repeatable.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None
    format: Annotated[
        Format,
        _output(
            "--format",
            "-O",
            help="What is printed, or written to --output whatever its ending; ghz is the JSON that tools "
            "for ghz read.",
        ),
    ] = Format.TABLE
    name: Annotated[str, _output(help="A name for the run, kept in what is written.")] = ""
