"""A command whose options are the fields of a dataclass."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer
from typer.testing import CliRunner

from opsin.cli.fields import taking


class Colour(StrEnum):
    """Of what is drawn."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Options:
    """Of `draw`."""

    names: Annotated[list[str] | None, typer.Argument(help="Of whom.")] = None
    size: Annotated[int, typer.Option("--size", "-s", help="How large.", min=1)] = 8
    colour: Annotated[Colour, typer.Option(help="Its colour.")] = Colour.RED
    plain: Annotated[bool, typer.Option("--plain")] = False


def run(*arguments: str) -> tuple[int, list[Options], str]:
    """How the command ended, what it was given, and what it printed."""
    app, given = typer.Typer(), []

    @app.command()
    @taking(Options)
    def draw(ctx: typer.Context, options: Options) -> None:
        """Draw somebody."""
        assert ctx.info_name == "draw"
        given.append(options)

    done = CliRunner().invoke(app, arguments)
    return done.exit_code, given, done.output


def test_it_is_given_what_was_typed() -> None:
    code, given, _ = run("ada", "bob", "-s", "3", "--colour", "blue", "--plain")
    assert (code, given) == (0, [Options(["ada", "bob"], 3, Colour.BLUE, plain=True)])


def test_what_was_not_typed_is_as_the_dataclass_has_it() -> None:
    _, (given,), _ = run()
    assert (given.names or [], given.size, given.colour, given.plain) == ([], 8, Colour.RED, False)


def test_its_bounds_and_its_help_are_those_of_the_fields() -> None:
    assert run("--size", "0")[:2] == (2, [])
    code, _, text = run("--help")
    assert code == 0
    assert all(words in text for words in ("Draw somebody.", "Of whom.", "How large.", "--colour", "--plain"))
