"""`opsin models`: what the server can run, and how each model stands.

Changing models (load, unload, traffic) and watching them is in `changes.py`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opsin.cli import changes, completion
from opsin.cli.connection import ClientCommand, ClientGroup, Settings, connect, settings_of
from opsin.cli.exits import EPILOG
from opsin.cli.failures import guarded
from opsin.cli.output import Screen

if TYPE_CHECKING:
    from opsin import Model

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `models`."""
    group = typer.Typer(cls=ClientGroup, invoke_without_command=True, epilog=EPILOG, rich_markup_mode="rich")
    group.callback()(models)
    group.command("list", cls=ClientCommand, epilog=EPILOG)(list_models)
    group.command("show", cls=ClientCommand, epilog=EPILOG)(show_model)
    changes.register(group)
    app.add_typer(group, name="models")


def models(ctx: typer.Context) -> None:
    """Look at the models of the server, and change them; alone, it lists them.

    \b
      opsin models
      opsin models show nanodet
      opsin models load cats --source ./my-classifier
      opsin models traffic nanodet 1=90 2=10
    """
    if ctx.invoked_subcommand is None:
        _list(settings_of(ctx))


def list_models(ctx: typer.Context) -> None:
    """List every version of every model."""
    _list(settings_of(ctx))


def show_model(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="NAME, NAME@VERSION or NAME@LABEL; the default model without.",
            show_default=False,
            autocompletion=completion.references,
        ),
    ] = "",
) -> None:
    """Show all there is to know about one model."""
    settings = settings_of(ctx)
    with guarded(settings.target), connect(settings) as client:
        model = client.model(name)
    Screen(settings).result(model.to_dict(), lambda: _card(model))


def _list(settings: Settings) -> None:
    screen = Screen(settings)
    with guarded(settings.target), connect(settings) as client:
        found = client.models()
    if settings.json:
        for model in found:
            screen.result(model.to_dict())
    else:
        screen.show(_table(found) if found else "The server has no models.")


def _table(found: "list[Model]") -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = {title: [cell(model) for model in found] for title, cell in _COLUMNS.items()}
    for title, cells in columns.items():
        if title in _ALWAYS or any(cells):
            table.add_column(title, justify="right" if title in _NUMBERS else "left", no_wrap=title != "does")
    for at in range(len(found)):
        table.add_row(*(cells[at] for title, cells in columns.items() if title in _ALWAYS or any(cells)))
    return table


def _tasks(model: "Model") -> str:
    return ", ".join(task.name.lower().replace("_", " ") for task in model.tasks)


def _state(model: "Model") -> str:
    name = model.state.name
    colour = {"SERVING": "green", "FAILED": "red"}.get(name, "yellow")
    return f"[{colour}]{name}[/{colour}]"


_COLUMNS: "dict[str, Callable[[Model], str]]" = {
    "model": lambda model: f"{model.name}@{model.version}",
    "state": _state,
    "does": _tasks,
    "on": lambda model: " ".join(part for part in (model.device, model.dtype) if part),
    "traffic": lambda model: "" if model.traffic_weight == 1 else str(model.traffic_weight),
    "labels": lambda model: ", ".join(model.labels),
    "memory": lambda model: _bytes(model.memory_bytes),
    "queued": lambda model: str(model.queued or ""),
    "busy": lambda model: f"{model.busy_share:.0%}",
}
_ALWAYS = frozenset({"model", "state", "does", "on", "busy"})
"""Columns that are there though they be empty; the others only where there is something to tell."""
_NUMBERS = frozenset({"traffic", "memory", "queued", "busy"})


def _card(model: "Model") -> str:
    """A line a fact. No table: that would cut long paths at the edge of the terminal."""
    from rich.markup import escape

    facts = {what: value for what, value in _facts(model).items() if value}
    width = max(map(len, facts))
    lines = [(what, value if what == "state" else escape(value)) for what, value in facts.items()]
    return "\n".join(f"[dim]{what:<{width}}[/dim]  {value}" for what, value in lines)


def _facts(model: "Model") -> dict[str, str]:
    options = model.default_options
    return {
        "model": f"{model.name}@{model.version}",
        "state": _state(model),
        "failure": model.failure.message if model.failure else "",
        "detector": model.detector,
        "source": model.source,
        "does": _tasks(model),
        "classes": _some(model.classes),
        "min score": "" if options.min_score is None else f"{options.min_score:g}",
        "vectors of": f"{model.embedding_dimensions} numbers" if model.embedding_dimensions else "",
        "flags": f"{' + '.join(model.flag_classes)} >= {model.flag_threshold:g}"
        if model.flag_classes
        else "",
        "runs on": " ".join(
            part for part in (model.device, model.dtype, model.runtime, *_lanes(model.lane_kind)) if part
        ),
        "tried": _tried(model),
        "JPEGs by": model.decoder,
        "speed": ", ".join(f"{one.median_us / 1000:.1f} ms at {one.batch_size}" for one in model.profile),
        "traffic": str(model.traffic_weight),
        "labels": ", ".join(model.labels),
        "memory": _bytes(model.memory_bytes),
        "loaded in": f"{model.load_time:.1f} s" if model.load_time else "",
        "queued": f"{model.queued}, oldest {model.oldest_wait_us / 1000:.1f} ms",
        "busy": f"{model.busy_share:.0%}",
    }


def _lanes(kind: str) -> tuple[str, ...]:
    return (f"in {kind}",) if kind else ()


def _tried(model: "Model") -> str:
    """`channels_last bfloat16 28.1 ms, openvino float32 33.0 ms (slower)`: of one input, by the last size."""
    return ", ".join(
        " ".join(
            [
                one.runtime,
                one.dtype,
                *_lanes(one.lane_kind),
                *(f"{t.median_us / 1000 / t.batch_size:.1f} ms" for t in one.times[-1:]),
            ]
            + ([] if one.verdict == "chosen" else [f"({one.verdict})"])
        )
        for one in model.trials
    )


def _some(names: tuple[str, ...], most: int = 12) -> str:
    more = f", {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _bytes(amount: int) -> str:
    return f"{amount / 1e6:.1f} MB" if amount else ""
