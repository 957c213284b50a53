"""A command whose options are the fields of a dataclass.

    @dataclass(frozen=True, slots=True)
    class Options:
        size: Annotated[int, typer.Option(help="How large.")] = 8

    @taking(Options)
    def draw(ctx: typer.Context, options: Options) -> None: ...

For commands with so many options that a signature is no place to read them, nor to hand them on from.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import typer

__all__ = ["taking"]

O = TypeVar("O")  # noqa: E741  of options
Command = Callable[[typer.Context, O], None]


def taking(options: type[O]) -> Callable[[Command[O]], Callable[..., None]]:
    """What makes of a command with such a dataclass a function with its fields, as typer wants it.

    options: each field has a default, and is annotated as a parameter for typer is.
    """
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    fields = [_parameter(field) for field in dataclasses.fields(options)]  # type: ignore[arg-type]

    def decorate(command: Command[O]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(ctx: typer.Context, **values: Any) -> None:
            command(ctx, options(**values))

        called.__signature__ = inspect.Signature([context, *fields])  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in (context, *fields)}
        return called

    return decorate


def _parameter(field: "dataclasses.Field[Any]") -> inspect.Parameter:
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
    )
