"""`opsin serve` and `opsin new-detector`: flags to settings, settings to a running server.

Owns the flags and how faults in the settings are told: one sentence each, exit code 2, no traceback.
Importing this module must stay cheap: the command line imports it to list commands.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from opsin_server.checking import register as register_check
from opsin_server.pulling import register as register_pull
from opsin_server.scheduling.simulator.cli import register as register_simulate

__all__ = ["register"]

BAD_SETTINGS = 2

_FLAGS: dict[str, tuple[str, ...]] = {
    "host": ("server", "host"),
    "port": ("server", "port"),
    "model": ("model",),
    "metrics_port": ("metrics", "port"),
    "detectors_dir": ("detectors", "dirs"),
    "device": ("detectors", "device"),
    "dtype": ("detectors", "dtype"),
    "runtime": ("detectors", "runtime"),
    "lanes": ("scheduler", "lanes"),
    "lane_threads": ("scheduler", "lane_threads"),
    "log_level": ("log", "level"),
    "log_format": ("log", "format"),
    "loop_watch_ms": ("server", "loop_watch_ms"),
    "drain_delay": ("drain", "delay"),
    "grace": ("drain", "grace"),
}
"""Where the value of each flag goes."""

_SERVING = "Serving"
_RUNNING = "Running models"
_LOGGING = "Logging and metrics"
_LEAVING = "Leaving"


def register(app: typer.Typer) -> None:
    """Add the server's commands to the command line."""
    app.command("serve")(serve)
    app.command("new-detector")(new_detector)
    register_check(app)
    register_pull(app)
    register_simulate(app)


def serve(  # noqa: PLR0917  typer reads its parameters by name
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on.", show_default="127.0.0.1", rich_help_panel=_SERVING),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; 0 takes any.", show_default="50051", rich_help_panel=_SERVING),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=SOURCE]",
            help="A model to serve, again for each; SOURCE is a detector, a folder or a hub id; settings of "
            "its own follow as ,KEY=VALUE.",
            show_default="the built-in models",
            rich_help_panel=_SERVING,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings file.",
            show_default="opsin.toml, if there is one",
            rich_help_panel=_SERVING,
        ),
    ] = None,
    detectors_dir: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="A folder of your own detectors, again for each.",
            show_default=False,
            rich_help_panel=_SERVING,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda or cuda:1.", show_default="auto", rich_help_panel=_RUNNING),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="auto, float32, bfloat16, float16 or int8.", show_default="auto", rich_help_panel=_RUNNING
        ),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="auto, eager, channels_last, openvino or onnxruntime; on a GPU also compile and "
            "cuda_graphs.",
            show_default="auto",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    lanes: Annotated[
        int | None,
        typer.Option(
            help="Batches side by side on the device.", show_default="0: chosen", rich_help_panel=_RUNNING
        ),
    ] = None,
    lane_threads: Annotated[
        int | None,
        typer.Option(help="Torch threads of a lane.", show_default="0: chosen", rich_help_panel=_RUNNING),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Port for Prometheus; 0 takes any.", show_default="none", rich_help_panel=_LOGGING),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(help="debug, info, warning or error.", show_default="info", rich_help_panel=_LOGGING),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="console or json.", show_default="console", rich_help_panel=_LOGGING)
    ] = None,
    loop_watch_ms: Annotated[
        float | None,
        typer.Option(
            help="Log what keeps the event loop for longer than so many milliseconds.",
            show_default="0: off",
            rich_help_panel=_LOGGING,
        ),
    ] = None,
    drain_delay: Annotated[
        float | None,
        typer.Option(
            help="Seconds between NOT_SERVING and refusing calls, for proxies to notice; none after Ctrl-C.",
            show_default="5",
            rich_help_panel=_LEAVING,
        ),
    ] = None,
    grace: Annotated[
        float | None,
        typer.Option(
            "--drain-grace",
            "--grace",
            help="Seconds that accepted work may then take.",
            show_default="20",
            rich_help_panel=_LEAVING,
        ),
    ] = None,
    until_ready: Annotated[
        bool,
        typer.Option(
            "--until-ready",
            help="Stop as soon as the models are loaded and warm: fills the cache while an image is made.",
            rich_help_panel=_LEAVING,
        ),
    ] = False,
) -> None:
    """Run the server.

    Settings can also come from OPSIN_* variables or a TOML file; flags win over these.

    There are more settings than flags: see docs/settings.md.

    [dim]OPSIN_SERVER__PORT=0 opsin serve --model nanodet[/dim]

    [dim]opsin serve --port 0 --model nanodet --model mine=./checkpoint,dtype=float32[/dim]
    """
    given = {
        "host": host,
        "port": port,
        "model": model or None,
        "detectors_dir": detectors_dir or None,
        "device": device,
        "dtype": dtype,
        "runtime": runtime,
        "lanes": lanes,
        "lane_threads": lane_threads,
        "metrics_port": metrics_port,
        "log_level": log_level,
        "log_format": log_format,
        "loop_watch_ms": loop_watch_ms,
        "drain_delay": drain_delay,
        "grace": grace,
    }
    told = {name: value for name, value in given.items() if value is not None}
    raise typer.Exit(_serve(told, config, until_ready=until_ready))


def new_detector(
    name: Annotated[
        str, typer.Argument(help="Its name: words of lower-case letters and digits, joined by “-” or “_”.")
    ],
    folder: Annotated[Path, typer.Option("--dir", help="Where its folder is made.")] = Path(),
) -> None:
    """Write a detector to start from, with a passing test."""
    try:
        scaffold = importlib.import_module("opsin_detectors.scaffold")
    except ModuleNotFoundError:
        _fail(["this build has no template for detectors."], 1)
    try:
        written = scaffold.write(name, folder)
    except (OSError, ValueError) as error:
        _fail([str(error)], 1)
    typer.echo(f"Wrote {written}. Check it: opsin check-detector {written}")
    typer.echo(f"Serve it: opsin serve --detectors-dir {folder} --model {name}")


def _serve(given: dict[str, Any], config: Path | None, *, until_ready: bool) -> int:
    from opsin_server import process

    process.open_standard_streams()
    process.start_tuned()  # first of all: whatever was imported by then is imported twice
    from opsin_server.config import ConfigError, load

    flags = {_FLAGS[name]: value for name, value in given.items()}
    names = {path: "--" + name.replace("_", "-") for name, path in _FLAGS.items()}
    try:
        settings = load(flags, config, names)
        from opsin_server.serving import run

        return run(settings, until_ready=until_ready)
    except ConfigError as error:
        _fail(error.faults, BAD_SETTINGS)
    except OSError as error:
        _fail([str(error)], 1)


def _fail(sentences: Sequence[str], code: int) -> NoReturn:
    for sentence in sentences:
        typer.echo(f"opsin: {sentence}", err=True)
    raise typer.Exit(code)
