"""What `opsin bench` writes besides its tables: which formats, where to. The formats are in `opsin.bench`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from opsin.bench.run import Result
from opsin.cli.failures import warn

__all__ = ["Output", "check_load", "check_outputs", "save"]

ENDINGS = {".json": "json", ".csv": "csv", ".html": "html", ".htm": "html"}


@dataclass(frozen=True, slots=True)
class Output:
    """One thing to write. path: None for stdout."""

    format: str
    path: Path | None


def check_outputs(paths: Sequence[Path], chosen: str) -> list[Output]:
    """What --output and --format ask for, before anything is measured. Raises `typer.BadParameter`."""
    if not paths:
        return [] if chosen == "table" else [_checked(Output(chosen, None))]
    return [_checked(Output(_format(path, chosen), path)) for path in paths]


def check_load(outputs: Sequence[Output], loads: int, *, knee: bool) -> None:
    """Whether each format can tell of what is to be measured. Raises `typer.BadParameter`."""
    if any(output.format == "ghz" for output in outputs) and (loads > 1 or knee):
        raise typer.BadParameter("a report of ghz tells of one load; give one.", param_hint="--format")


def save(result: Result, outputs: Sequence[Output]) -> bool:
    """Write all of them; whether all could be."""
    saved = [_saved(result, output) for output in outputs if result.runs]
    return all(saved)


def _saved(result: Result, output: Output) -> bool:
    text = _writer(output.format)(result)
    if output.path is None:
        print(text)
        return True
    try:
        output.path.write_text(text + "\n", encoding="utf-8")
    except OSError as reason:
        warn(f"{output.path} cannot be written: {reason.strerror or reason}.")
        return False
    return True


def _format(path: Path, chosen: str) -> str:
    if chosen != "table":
        return chosen
    if path.suffix.lower() not in ENDINGS:
        known = ", ".join(ENDINGS)
        raise typer.BadParameter(
            f"{path} has none of the endings {known}; or say what it is by --format.", param_hint="--output"
        )
    return ENDINGS[path.suffix.lower()]


def _checked(output: Output) -> Output:
    """Whether it can be written at all: a run of minutes is not to end with a missing package."""
    if output.format == "html":
        from opsin.bench.plots import PlotsMissingError, check_plots

        try:
            check_plots()
        except PlotsMissingError as missing:
            raise typer.BadParameter(str(missing), param_hint="--output") from None
    if output.path is not None:
        _check_place(output.path)
    return output


def _check_place(path: Path) -> None:
    """Make its folder, and see that it can be written; what it holds stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        path.open("ab").close()
        if not there:
            path.unlink()
    except OSError as reason:
        why = reason.strerror or reason
        raise typer.BadParameter(f"{path} cannot be written: {why}.", param_hint="--output") from None


def _writer(name: str) -> Callable[[Result], str]:
    match name:
        case "json":
            from opsin.bench.document import document

            return document
        case "csv":
            from opsin.bench.samplescsv import samples_csv

            return samples_csv
        case "html":
            from opsin.bench.html import html

            return html
        case _:
            from opsin.bench.ghz import ghz

            return ghz
