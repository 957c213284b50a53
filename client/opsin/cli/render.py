"""Results as tables for people. Pure: takes the client's results, gives what rich prints."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from opsin import Detection, DetectResult, EmbedResult, Label, Timings

__all__ = ["brief", "detect_block", "embed_line", "timings_line"]

SHOWN_LABELS = 5
"""Whole-image labels shown; all of them are in the JSON."""
WORTH_TELLING = 0.05
"""Share of the total from which on a stage is shown."""


def detect_block(name: str, result: "DetectResult", saved: Path | None = None) -> RenderableType:
    """One input's answer: a heading, a row for each thing found, the labels, where the picture went."""
    parts: list[RenderableType] = [_heading(name, result)]
    if result.detections:
        parts.append(Padding(_detections(result.detections), (0, 0, 0, 2), expand=False))
    if result.labels:
        parts.append(Text.from_markup(f"  {_labels(result.labels[:SHOWN_LABELS])}{_flag(result.flagged)}"))
    if saved:
        parts.append(Text(f"  -> {saved}", style="dim"))
    return Group(*parts)


def brief(result: "DetectResult", most: int = 4) -> str:
    """An answer on one line: `person 0.73, cat 0.41`, numbered where tracked; `nothing` when it is empty."""
    words = [
        f"{found.label}{f' #{found.track_id}' if found.track_id else ''} {found.score:.2f}"
        for found in result.detections[:most]
    ] or [f"{label.name} {label.score:.2f}" for label in result.labels[:most]]
    more = len(result.detections) - most
    return (", ".join(words) or "nothing") + (f", {more} more" if more > 0 else "")


def timings_line(timings: "Timings") -> str:
    """Where the time went, the stages that matter: `78.2 ms (decode 5.1, infer 70.0)`."""
    stages = ("admission", "decode", "prepare", "queue", "infer", "finish", "order")
    least = max(0.05, timings.total_ms * WORTH_TELLING)
    told = [f"{stage} {value:.1f}" for stage in stages if (value := getattr(timings, f"{stage}_ms")) >= least]
    return f"{timings.total_ms:.1f} ms" + (f" ({', '.join(told)})" if told else "")


def embed_line(name: str, result: "EmbedResult") -> RenderableType:
    """One input's vector: its length and its first numbers."""
    first = ", ".join(f"{float(value):+.3f}" for value in result.vector[:4])
    return Text.from_markup(
        f"[bold]{escape(name)}[/bold]  {result.dimensions} numbers  [{first}, ...]"
        f"  [dim]{escape(str(result.model))}  {result.timings.total_ms:.1f} ms[/dim]"
    )


def _heading(name: str, result: "DetectResult") -> Text:
    size = f"  {result.width}x{result.height}" if result.width else ""
    cache = "" if str(result.cache) == "miss" else f"  {result.cache}"
    return Text.from_markup(
        f"[bold]{escape(name)}[/bold]{size}  [dim]{escape(str(result.model))}  "
        f"{escape(timings_line(result.timings))}{cache}[/dim]"
    )


def _detections(detections: Sequence["Detection"]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for found in detections:
        track = f" #{found.track_id}" if found.track_id else ""
        row = [f"[cyan]{escape(found.label)}[/cyan]{track}", f"{found.score:.2f}", _box(found)]
        table.add_row(*row, *filter(None, [_extra(found)]))
    return table


def _box(found: "Detection") -> str:
    box = found.pixels
    return f"({box.x_min}, {box.y_min}) - ({box.x_max}, {box.y_max})"


def _extra(found: "Detection") -> str:
    words = [
        f"{one.name}: {one.labels[0].name} {one.labels[0].score:.2f}"
        for one in found.attributes
        if one.labels
    ]
    if found.text:
        words.append(repr(found.text))
    return escape("  ".join(words))


def _labels(labels: Iterable["Label"]) -> str:
    return "  ".join(f"[cyan]{escape(label.name)}[/cyan] {label.score:.3f}" for label in labels)


def _flag(flagged: bool | None) -> str:
    match flagged:
        case None:
            return ""
        case True:
            return "  [bold red]flagged[/bold red]"
        case _:
            return "  [green]not flagged[/green]"
