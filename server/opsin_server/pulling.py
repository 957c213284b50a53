"""`opsin pull`: fetch models from a hub ahead of serving them.

Takes what `opsin serve --model` takes, so that the same words work for both; what needs no fetching is said
and passed over. Owns the words on the terminal. Importing this module must stay cheap: the command line
imports it to list commands.
"""

from typing import Annotated

import typer

__all__ = ["register"]

_UNITS = ("B", "kB", "MB", "GB", "TB")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("pull")(pull)


def pull(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=SOURCE...",
            help="Models as for opsin serve --model; of their settings revision, allow_pickle and "
            "trust_remote_code count here.",
        ),
    ],
) -> None:
    """Fetch models from a Hugging Face hub into its cache, ahead of serving them.

    The cache is in the folder HF_HOME, the hub is HF_ENDPOINT.

    [dim]opsin pull things=PekingU/rtdetr_r50vd[/dim]
    """
    from opsin_detectors.api import LoadError

    failed = False
    for model in models:
        try:
            typer.echo(_pulled(model))
        except LoadError as error:
            failed = True
            typer.echo(f"opsin: {error}", err=True)
    if failed:
        raise typer.Exit(1)


def _pulled(text: str) -> str:
    """Fetch one model, and what to say of it. Raises LoadError."""
    from pathlib import Path

    from opsin_detectors import hub
    from opsin_detectors.api import LoadContext
    from opsin_detectors.finder import find
    from opsin_detectors.settings import Settings
    from opsin_detectors.sources import HUGGING_FACE, parse, resolve

    spec = parse(text)
    resolved = resolve(spec, find())
    if resolved.found.name != HUGGING_FACE or Path(resolved.source).exists():
        return f"{spec.name}: nothing to fetch, {resolved.source or resolved.found.name} is here already."
    settings = Settings(LoadContext(spec.name, settings=resolved.settings))
    got = hub.pull(
        resolved.source,
        settings.text("revision", "main"),
        allow_pickle=settings.switch("allow_pickle"),
        trust_remote_code=settings.switch("trust_remote_code"),
    )
    return (
        f"{spec.name}: {got.source}, revision {got.revision}, {_readable(got.bytes)} in {got.files} files, "
        f"in {got.folder}"
    )


def _readable(size: float) -> str:
    """1234567 -> “1.2 MB”."""
    for unit in _UNITS[:-1]:
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} {_UNITS[-1]}"
