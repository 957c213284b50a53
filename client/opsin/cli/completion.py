"""What a shell offers behind `opsin models ...` and `--model`: names, versions and labels of a server.

The server is asked as the command line says so far (`--target`, `--token` and the like), for a second at
most. Whatever goes wrong, nothing is offered and nothing printed: a prompt is no place for errors.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

from opsin.cli.connection import client_options, written

if TYPE_CHECKING:
    from opsin import Model

__all__ = ["label_moves", "labels", "names", "references", "shares", "versions"]

PATIENCE = 1.0
"""Seconds that a server may take to be asked."""


def names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of models."""
    return _offered((model.name for model in _models(ctx)), incomplete)


def references(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names; behind an “@” the versions and labels of that name."""
    name, at, _ = incomplete.partition("@")
    if not at:
        return names(ctx, incomplete)
    found = [model for model in _models(ctx) if model.name == name]
    tags = [str(model.version) for model in found] + [label for model in found for label in model.labels]
    return _offered((f"{name}@{tag}" for tag in tags), incomplete)


def versions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Versions of the model that the command line names."""
    return _offered((str(model.version) for model in _named(ctx)), incomplete)


def shares(ctx: typer.Context, incomplete: str) -> list[str]:
    """VERSION=, for each version of the model that has no share yet on the command line."""
    given = {str(text).partition("=")[0] for text in ctx.params.get("weights") or ()}
    found = (str(model.version) for model in _named(ctx))
    return _offered((f"{version}=" for version in found if version not in given), incomplete)


def labels(ctx: typer.Context, incomplete: str) -> list[str]:
    """Labels of the model that the command line names."""
    return _offered((label for model in _named(ctx) for label in model.labels), incomplete)


def label_moves(ctx: typer.Context, incomplete: str) -> list[str]:
    """LABEL= for each label of the model, then LABEL=VERSION."""
    found = _named(ctx)
    label, equals, _ = incomplete.partition("=")
    if not equals:
        return _offered((f"{one}=" for model in found for one in model.labels), incomplete)
    return _offered((f"{label}={model.version}" for model in found), incomplete)


def _named(ctx: typer.Context) -> "list[Model]":
    # A line that ends with an option still lacks its value, and its other words were left where they are.
    name = ctx.params.get("name") or next(iter(ctx.args), "")
    return [model for model in _models(ctx) if model.name == name]


def _models(ctx: typer.Context) -> "list[Model]":
    try:
        from opsin import Client

        options: dict[str, Any] = {**client_options(written(ctx)), "timeout": PATIENCE}
        with Client(**options) as client:
            return client.models()
    except Exception:  # a server that is not there, a wrong option, a package that is missing
        return []


def _offered(words: Iterable[str], incomplete: str) -> list[str]:
    """In order, each once, as far as they go on from what was typed."""
    return [word for word in dict.fromkeys(words) if word.startswith(incomplete)]
