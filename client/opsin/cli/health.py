"""`opsin health`: is the server, a service or a model ready? Made to be a container's health check.

Its start-up is kept light on purpose: it loads neither rich nor anything of pictures.
"""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from opsin.cli.connection import ClientCommand, Settings, connect, settings_of
from opsin.cli.exits import ExitCode
from opsin.cli.failures import describe, warn

if TYPE_CHECKING:
    from opsin import Client, Health

__all__ = ["register"]

_EPILOG = "Exit codes: 0 serving, 1 anything else, an unreachable server included, 130 interrupted."
_TIMEOUT = 5.0
"""Seconds, when --timeout does not say: a health check that waits longer is an answer by itself."""


def register(app: typer.Typer) -> None:
    """Add `health`."""
    app.command("health", cls=ClientCommand, epilog=_EPILOG)(health)


def health(
    ctx: typer.Context,
    service: Annotated[
        str,
        typer.Option(
            help="What to ask about: liveness, readiness, model/NAME, a gRPC service; else the whole server.",
            metavar="NAME",
            show_default=False,
        ),
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Print every change until Ctrl-C.")] = False,
) -> None:
    """Say whether the server is ready.

    \b
      opsin health
      opsin health --service model/nanodet
      opsin health --watch
    """
    import opsin

    settings = settings_of(ctx)
    try:
        with connect(settings) as client:
            code = _watch(client, service, settings) if watch else _check(client, service, settings)
    except opsin.OpsinError as error:
        warn(describe(error, settings.target))
        code = ExitCode.SOME_FAILED
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    raise typer.Exit(code)


def _check(client: "Client", service: str, settings: Settings) -> ExitCode:
    status = client.health(service, timeout=settings.timeout or _TIMEOUT)
    _tell(service, status, settings)
    return ExitCode.OK if status.ok else ExitCode.SOME_FAILED


def _watch(client: "Client", service: str, settings: Settings) -> ExitCode:
    code = ExitCode.SOME_FAILED
    for status in client.watch_health(service):
        _tell(service, status, settings)
        code = ExitCode.OK if status.ok else ExitCode.SOME_FAILED
    return code


def _tell(service: str, status: "Health", settings: Settings) -> None:
    if settings.json:
        print(json.dumps({"service": service, "status": status.name}), flush=True)
    elif not settings.quiet:
        print(status.name, flush=True)
