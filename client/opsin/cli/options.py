"""Parameters that several commands have, declared once."""

from typing import Annotated

import typer

from opsin.cli import completion

__all__ = ["ClassNames", "InputFiles", "InputsAtOnce", "LeastScore", "ModelName", "TextFlag", "TruncateFlag"]

InputFiles = Annotated[
    list[str],
    typer.Argument(
        help="Pictures: files, quoted globs, folders (searched with all below), http(s) URLs (fetched "
        "here); - for stdin.",
        metavar="INPUT",
        show_default=False,
    ),
]
ModelName = Annotated[
    str,
    typer.Option(
        help="NAME, NAME@VERSION or NAME@LABEL.",
        metavar="NAME",
        show_default="the server's",
        autocompletion=completion.references,
    ),
]
LeastScore = Annotated[
    float | None,
    typer.Option(
        help="Leave out what scores lower.", min=0, max=1, metavar="0..1", show_default="the model's"
    ),
]
ClassNames = Annotated[
    list[str] | None, typer.Option(help="Only these classes.", metavar="A,B", show_default=False)
]
InputsAtOnce = Annotated[int, typer.Option("--jobs", "-j", help="Inputs at once.", min=1, metavar="N")]
TextFlag = Annotated[bool, typer.Option("--text", help="The inputs are texts; - for one a line of stdin.")]
TruncateFlag = Annotated[
    bool, typer.Option("--truncate", help="Cut texts and labels longer than the model reads; else they fail.")
]
