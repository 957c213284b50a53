"""The options that every command which talks to a server has, and the client they make.

They are declared once, in `_options`, and added to a command by its class:
`@app.command(cls=ClientCommand)`. The command itself sees none of them; it asks `settings_of(ctx)`. Given
to a group (`cls=ClientGroup`) they hold for the group's commands that are not told otherwise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from opsin import Client

__all__ = [
    "ClientCommand",
    "ClientGroup",
    "Settings",
    "client_options",
    "connect",
    "settings_of",
    "written",
]

_PANEL = "Connection"
_OUTPUT = "Output"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the common options came to.

    target: "HOST:PORT". timeout: seconds a call may take; None: the client's default. ca: a PEM file; "" for
    the system's authorities. json: one JSON line per result on stdout, and nothing else there. quiet: no
    results for people and no progress; errors are still told.
    """

    target: str
    timeout: float | None
    tls: bool
    ca: str
    token: str
    json: bool
    quiet: bool


def _options(
    *,
    host: Annotated[
        str, typer.Option(help="Where the server is.", metavar="NAME", rich_help_panel=_PANEL)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Its port.", min=1, max=65535, metavar="PORT", rich_help_panel=_PANEL)
    ] = 50051,
    target: Annotated[
        str,
        typer.Option(
            help="HOST:PORT in one, instead of --host and --port.",
            metavar="HOST:PORT",
            envvar="OPSIN_TARGET",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = "",
    timeout: Annotated[
        float | None,
        typer.Option(
            help="How long a call may take, retries included.",
            min=0.001,
            metavar="SECONDS",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Encrypt the connection.", rich_help_panel=_PANEL)
    ] = False,
    ca: Annotated[
        str,
        typer.Option(
            help="Trust the authorities in this PEM file; implies --tls.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = "",
    token: Annotated[
        str,
        typer.Option(
            help="Who you are: sent as a bearer token.",
            metavar="TOKEN",
            envvar="OPSIN_TOKEN",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = "",
    json: Annotated[
        bool, typer.Option("--json", help="One JSON line per result, nothing else.", rich_help_panel=_OUTPUT)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Never run: its signature is the declaration."""


def connect(settings: Settings) -> "Client":
    """A client for the server that the settings name. Nothing is sent yet."""
    from opsin import Client

    return Client(**client_options(settings))


def client_options(settings: Settings) -> dict[str, Any]:
    """The keyword arguments of `opsin.Client` and `opsin.AsyncClient`; JSON-ready."""
    options: dict[str, Any] = {
        "target": settings.target,
        "tls": settings.ca or settings.tls,
        "token": settings.token or None,
    }
    if settings.timeout is not None:
        options["timeout"] = settings.timeout
    return options


def settings_from(values: dict[str, Any]) -> Settings:
    """Settings from the values of the common options. Raises `typer.BadParameter`."""
    if values["ca"] and not Path(values["ca"]).is_file():
        raise typer.BadParameter(f"there is no file {values['ca']!r}.", param_hint="--ca")
    host = f"[{values['host']}]" if ":" in values["host"] else values["host"]
    return Settings(
        target=values["target"] or f"{host}:{values['port']}",
        timeout=values["timeout"],
        tls=values["tls"] or bool(values["ca"]),
        ca=values["ca"],
        token=values["token"],
        json=values["json"],
        quiet=values["quiet"],
    )


def settings_of(ctx: typer.Context) -> Settings:
    """The settings of a running command that was added with `cls=ClientCommand`."""
    assert isinstance(ctx.obj, Settings)
    return ctx.obj


def written(ctx: typer.Context) -> Settings:
    """The settings that a command line comes to which is not finished yet, for completing it.

    Raises whatever a line gives cause for.
    """
    values: dict[str, Any] = {}
    for context in _with_parents(ctx):
        _lay_over(values, context, {name: context.params[name] for name in _NAMES if name in context.params})
    return settings_from(values)


def _with_parents(ctx: Any) -> list[Any]:
    """A context and those it lies in, the outermost first."""
    return [*(_with_parents(ctx.parent) if ctx.parent is not None else ()), ctx]


def _common_options() -> list[Any]:
    scratch = typer.Typer(add_completion=False)
    scratch.command()(_options)
    return [option for option in typer.main.get_command(scratch).params if option.name != "help"]


def _take_common(ctx: Any) -> None:
    """Move the common options of a command from its arguments to `ctx.obj`.

    One that is not written here is taken from the group above, if there is one: `ctx.meta` is shared by the
    contexts of a command line.
    """
    given = ctx.meta.setdefault(__name__, {})
    _lay_over(given, ctx, {name: ctx.params.pop(name) for name in _NAMES})
    ctx.obj = settings_from(given)


def _lay_over(given: dict[str, Any], ctx: Any, values: dict[str, Any]) -> None:
    """Put the values of a context over those of the groups above it."""
    said = {name for name in values if ctx.get_parameter_source(name).name == "COMMANDLINE"}
    given.update({name: value for name, value in values.items() if name in said or name not in given})
    if said & {"host", "port"} and "target" not in said:
        given["target"] = ""  # the environment's, or the group's: what is written here goes before it


_NAMES = ("host", "port", *Settings.__dataclass_fields__)


class _WithCommon:
    """The common options, taken before the function that has none of them runs."""

    params: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *_common_options()]

    def invoke(self, ctx: Any) -> Any:
        _take_common(ctx)
        return super().invoke(ctx)  # type: ignore[misc]  # of the command or the group that this is mixed into


class ClientCommand(_WithCommon, TyperCommand):
    """A command with the common options."""


class ClientGroup(_WithCommon, TyperGroup):
    """A group of commands with the common options."""
