"""`opsin embed`: pictures or texts to vectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opsin.cli.connection import ClientCommand, connect, settings_of
from opsin.cli.detect import as_client_input, find_inputs
from opsin.cli.each import for_each
from opsin.cli.exits import EPILOG, ExitCode
from opsin.cli.failures import guarded, warn
from opsin.cli.inputs import Input
from opsin.cli.options import InputFiles, InputsAtOnce, ModelName, TextFlag, TruncateFlag
from opsin.cli.output import Screen, json_line
from opsin.cli.words import counted

if TYPE_CHECKING:
    from opsin import EmbedResult

__all__ = ["register"]

Answers = list[tuple[Input, "EmbedResult | None"]]


def register(app: typer.Typer) -> None:
    """Add `embed`."""
    app.command("embed", cls=ClientCommand, epilog=EPILOG)(embed)


def embed(
    ctx: typer.Context,
    *,
    inputs: InputFiles,
    model: ModelName = "",
    text: TextFlag = False,
    truncate: TruncateFlag = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the vectors: .npy (float32, a row an input, NaN where one failed) or .jsonl.",
            metavar="FILE",
        ),
    ] = None,
    dimensions: Annotated[
        int, typer.Option(help="Cut vectors to so many numbers.", min=0, metavar="N", show_default="all")
    ] = 0,
    normalize: Annotated[bool, typer.Option(help="Vectors of length 1.")] = True,
    jobs: InputsAtOnce = 4,
) -> None:
    """Turn pictures or texts into vectors.

    \b
      opsin embed photos/ --model nsfw --output vectors.npy
      opsin embed --text 'a man eating food' 'a man eating bread' --json
    """
    if output is not None and output.suffix not in _WRITERS:
        raise typer.BadParameter(f"{output.name!r} must end in .npy or .jsonl.", param_hint="--output")
    settings = settings_of(ctx)
    screen = Screen(settings)
    found = find_inputs(inputs, text, screen)
    options: dict[str, Any] = {
        "model": model,
        "dimensions": dimensions,
        "normalize": normalize,
        "truncate_text": truncate,
    }

    def show(entry: Input, result: "EmbedResult") -> None:
        from opsin.cli.render import embed_line

        screen.result({"input": entry.name, **result.to_dict()}, lambda: embed_line(entry.name, result))

    with guarded(settings.target), connect(settings) as client:
        tally = for_each(
            found,
            lambda entry: client.embed(as_client_input(entry), **options),
            show,
            jobs=jobs,
            settings=settings,
            screen=screen,
            what="embedding",
            keep=output is not None,
        )
    written = _write(output, tally.answers, screen) if output and tally.answered else ExitCode.OK
    raise typer.Exit(tally.code or written)


def _write(path: Path, answers: Answers, screen: Screen) -> ExitCode:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[path.suffix](path, answers)
    except OSError as reason:
        warn(f"{path} cannot be written: {reason.strerror or reason}")
        return ExitCode.SOME_FAILED
    screen.note(f"{counted(sum(result is not None for _, result in answers), 'vector')} -> {path}")
    return ExitCode.OK


def _write_npy(path: Path, answers: Answers) -> None:
    import numpy as np

    width = next(result.dimensions for _, result in answers if result is not None)
    rows = np.full((len(answers), width), np.nan, np.float32)
    for row, (_, result) in zip(rows, answers, strict=True):
        if result is not None:
            row[:] = result.vector
    np.save(path, rows)


def _write_jsonl(path: Path, answers: Answers) -> None:
    with path.open("w", encoding="utf-8") as file:
        for entry, result in answers:
            if result is not None:
                vector = [float(value) for value in result.vector]
                file.write(json_line({"input": entry.name, "vector": vector}) + "\n")


_WRITERS = {".npy": _write_npy, ".jsonl": _write_jsonl}
