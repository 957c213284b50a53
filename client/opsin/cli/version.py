"""`opsin version`: the client's version and, when a server answers, the server's."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from opsin.cli.connection import ClientCommand, connect, settings_of
from opsin.cli.failures import guarded
from opsin.cli.output import Screen

__all__ = ["client_version", "register"]


def client_version() -> str:
    """The version of the installed package; "unknown" in a checkout that is only on the path."""
    try:
        return version("opsin")
    except PackageNotFoundError:
        return "unknown"


def register(app: typer.Typer) -> None:
    """Add `version`."""
    app.command("version", cls=ClientCommand)(show_version)


def show_version(
    ctx: typer.Context,
    server: Annotated[bool, typer.Option("--server", help="Ask the server for its version too.")] = False,
) -> None:
    """Print the versions of the client, of Python and of gRPC, and of the server if asked."""
    settings = settings_of(ctx)
    told: dict[str, Any] = {
        "client": client_version(),
        "python": platform.python_version(),
        "grpcio": _grpc(),
    }
    if server:
        with guarded(settings.target), connect(settings) as client:
            told["server"] = client.server_info().version
    Screen(settings).result(told, lambda: "\n".join(f"{what} {number}" for what, number in told.items()))


def _grpc() -> str:
    return version("grpcio")
