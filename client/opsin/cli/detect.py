"""`opsin detect`: what is in these pictures or texts, and where."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opsin.cli import inputs as find
from opsin.cli.connection import ClientCommand, connect, settings_of
from opsin.cli.each import Tally, for_each
from opsin.cli.exits import EPILOG, ExitCode
from opsin.cli.failures import guarded, warn
from opsin.cli.inputs import Input
from opsin.cli.options import (
    ClassNames,
    InputFiles,
    InputsAtOnce,
    LeastScore,
    ModelName,
    TextFlag,
    TruncateFlag,
)
from opsin.cli.output import Screen
from opsin.cli.parsing import parse_names, parse_region
from opsin.cli.words import counted

if TYPE_CHECKING:
    from opsin import Client, DetectResult

__all__ = ["as_client_input", "find_inputs", "register"]


def register(app: typer.Typer) -> None:
    """Add `detect`."""
    app.command("detect", cls=ClientCommand, epilog=EPILOG)(detect)


def detect(
    ctx: typer.Context,
    *,
    inputs: InputFiles,
    model: ModelName = "",
    min_score: LeastScore = None,
    max_detections: Annotated[
        int, typer.Option(help="At most so many a picture.", min=0, metavar="N", show_default="the model's")
    ] = 0,
    labels: ClassNames = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            help="Look only here, in fractions of the picture; repeat for several.",
            metavar="X1,Y1,X2,Y2",
            show_default=False,
        ),
    ] = None,
    candidate_label: Annotated[
        list[str] | None,
        typer.Option(help="What to look for, for zero-shot models.", metavar="A,B", show_default=False),
    ] = None,
    text: TextFlag = False,
    truncate: TruncateFlag = False,
    save: Annotated[
        Path | None,
        typer.Option(help="Write annotated pictures here; inputs are never overwritten.", metavar="DIR"),
    ] = None,
    jobs: InputsAtOnce = 4,
) -> None:
    """Say what is in pictures, and where.

    \b
      opsin detect photo.jpg
      opsin detect photos/ 'more/**/*.png' --save out/ --min-score 0.5
      curl -s https://example.org/cat.jpg | opsin detect - --json
      opsin detect --text --model toxicity 'you are kind'
    """
    settings = settings_of(ctx)
    options = {
        "model": model,
        "min_score": min_score,
        "max_detections": max_detections,
        "labels": parse_names(labels or ()),
        "regions": tuple(parse_region(one) for one in region or ()),
        "candidate_labels": parse_names(candidate_label or ()),
        "truncate_text": truncate,
    }
    if text and save:
        raise typer.BadParameter("--save draws on pictures; it has no use with --text.")
    screen = Screen(settings)
    found = find_inputs(inputs, text, screen)
    started = time.perf_counter()
    with guarded(settings.target), connect(settings) as client:
        show = _Show(screen, found, save)
        tally = for_each(
            found,
            _asker(client, options),
            show,
            jobs=jobs,
            settings=settings,
            screen=screen,
            what="detecting",
        )
    if len(found) > 1:
        screen.show(_summary(tally, show, time.perf_counter() - started))
    raise typer.Exit(tally.code or show.code)


def find_inputs(arguments: list[str], text: bool, screen: Screen) -> list[Input]:
    """All that the arguments name; what was left out is told."""
    if text:
        return list(find.find_texts(arguments, sys.stdin))
    return list(find.find_pictures(arguments, sys.stdin.buffer, screen.note))


def _asker(client: "Client", options: dict[str, Any]) -> "Callable[[Input], DetectResult]":
    def ask(entry: Input) -> "DetectResult":
        return client.detect(as_client_input(entry), **options)

    return ask


def as_client_input(entry: Input) -> Any:
    """The input as `opsin.Client` takes it. Raises `MissingInputError`."""
    import opsin

    return opsin.Text(entry.data) if isinstance(entry.data, str) else entry.read()


class _Show:
    """Shows each answer, and saves its picture where asked."""

    def __init__(self, screen: Screen, inputs: list[Input], folder: Path | None) -> None:
        from opsin.cli.saving import plan_names

        self._screen = screen
        self._names = plan_names(folder, inputs) if folder else {}
        self.detections = 0
        self.labelled = 0
        self.code = ExitCode.OK

    def __call__(self, entry: Input, result: "DetectResult") -> None:
        from opsin.cli.render import detect_block

        self.detections += len(result.detections)
        self.labelled += bool(result.labels)
        saved = self._save(entry, result)
        line = {"input": entry.name, **result.to_dict(), **({"saved": str(saved)} if saved else {})}
        self._screen.result(line, lambda: detect_block(entry.name, result, saved))

    def _save(self, entry: Input, result: "DetectResult") -> Path | None:
        from opsin.cli.saving import save_picture

        path = self._names.get(entry)
        if path is None:
            return None
        try:
            save_picture(result.draw(), path)
        except OSError as reason:
            warn(f"{entry.name}: the picture cannot be written to {path}: {reason.strerror or reason}")
            self.code = ExitCode.SOME_FAILED
            return None
        return path


def _summary(tally: "Tally[DetectResult]", shown: _Show, seconds: float) -> str:
    parts = [counted(tally.answered + tally.failed, "input")]
    if tally.failed:
        parts.append(f"[red]{tally.failed} failed[/red]")
    if shown.detections or not shown.labelled:  # a model that labels whole pictures finds no boxes
        parts.append(counted(shown.detections, "detection"))
    parts.append(f"{seconds:.1f} s")
    if tally.answered:
        parts.append(f"{tally.answered / seconds:.1f} a second")
    return f"[dim]{', '.join(parts)}[/dim]"
