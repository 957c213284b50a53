"""The typer application: which commands there are, and that none is loaded before it is needed.

A command lives in a module with a function `register(app)` that adds it to a typer app. The client's own
are in `OWN`; other packages add theirs by an entry point of the group `opsin.commands`, which names such a
function (the server package adds `serve` and others so). `opsin detect` imports the module of `detect`
alone; only `opsin --help`, completion, and a name that is not ours ask the entry points.
"""

import importlib
import io
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from opsin.cli.exits import EPILOG

__all__ = ["OWN", "app", "run"]

ENTRY_POINTS = "opsin.commands"

OWN = {
    "detect": "opsin.cli.detect",
    "embed": "opsin.cli.embed",
    "stream": "opsin.cli.stream",
    "models": "opsin.cli.models",
    "health": "opsin.cli.health",
    "bench": "opsin.cli.bench",
    "version": "opsin.cli.version",
}


class LazyCommands(TyperGroup):
    """A group that loads a command when it is named, and all of them when they are listed."""

    _complete = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        if cmd_name not in self.commands:
            if cmd_name in OWN:
                self._add_own(cmd_name)
            else:
                self._add_all()
        return self.commands.get(cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """The client's own commands in their order, then the others by name."""
        self._add_all()
        return [*OWN, *sorted(set(self.commands) - set(OWN))]

    def _add_own(self, name: str) -> None:
        register = importlib.import_module(OWN[name]).register
        self.commands[name] = _commands_of(register)[name]

    def _add_all(self) -> None:
        if self._complete:
            return
        self._complete = True
        for name in OWN:
            if name not in self.commands:
                self._add_own(name)
        for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
            self._add_others(point)

    def _add_others(self, point: EntryPoint) -> None:
        # Whatever is wrong with somebody else's package, the client's own commands stay usable.
        try:
            commands = _commands_of(point.load())
        except Exception as reason:
            hint = f"; pip install 'opsin[{point.name}]'" if isinstance(reason, ModuleNotFoundError) else ""
            typer.echo(f"opsin: the commands of {point.name!r} cannot be loaded: {reason}{hint}", err=True)
            return
        for name, command in commands.items():
            if name in self.commands:
                typer.echo(f"opsin: {point.name!r} adds {name!r}, which exists; it is left out.", err=True)
            else:
                self.commands[name] = command


def _commands_of(register: Any) -> dict[str, Any]:
    """What a `register` function adds, built."""
    scratch = typer.Typer(rich_markup_mode="rich")
    register(scratch)
    return dict(typer.main.get_group(scratch).commands)


def _show_version(wanted: bool) -> None:
    if wanted:
        from opsin.cli.version import client_version

        typer.echo(f"opsin {client_version()}")
        raise typer.Exit


app = typer.Typer(
    cls=LazyCommands,
    rich_markup_mode="rich",
    no_args_is_help=True,
    epilog=EPILOG,
    # A fault of ours is a plain traceback: typer's own shows the values of variables, tokens among them.
    pretty_exceptions_enable=False,
)


@app.callback()
def opsin(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Detect and embed images, texts and live video on an Opsin server.

    [dim]opsin serve --port 50051[/dim]   starts one here, if the server is installed.

    [dim]opsin detect photo.jpg --save out/[/dim]   finds what is in a picture, and draws it.
    """


def run() -> None:
    """Run the command line with `sys.argv`."""
    # What a file is called and what comes down a pipe need not be text: that ends no command.
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors=errors)
    app(prog_name="opsin")
