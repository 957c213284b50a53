"""`opsin models load | unload | traffic | watch`: change what a server has, and see it happen.

Owns how such changes are written on a command line. What they mean is the server's business.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from opsin.cli import completion
from opsin.cli.connection import ClientCommand, connect, settings_of
from opsin.cli.exits import EPILOG
from opsin.cli.failures import guarded
from opsin.cli.output import Screen

if TYPE_CHECKING:
    from opsin import Client, Model

__all__ = ["register"]

Key = TypeVar("Key")
Value = TypeVar("Value")
_SHARES = "VERSION=WEIGHT"

QUICKEST, SLOWEST, GROWTH = 0.2, 2.0, 1.3
"""Seconds between two looks: while something changes, while nothing does, and the step between."""

Name = Annotated[
    str,
    typer.Argument(
        help="The model's name, without a version.", show_default=False, autocompletion=completion.names
    ),
]


def register(group: typer.Typer) -> None:
    """Add the commands to `models`."""
    for name, command in (("load", load), ("unload", unload), ("traffic", traffic), ("watch", watch)):
        group.command(name, cls=ClientCommand, epilog=EPILOG)(command)


def load(  # noqa: PLR0917 (an option each)
    ctx: typer.Context,
    name: Name,
    source: Annotated[
        str,
        typer.Option(
            help="A folder on the server, a hub id, a detector, or builtin.", show_default="builtin"
        ),
    ] = "",
    version: Annotated[int, typer.Option(help="Its version.", min=0, show_default="one more")] = 0,
    detector: Annotated[str, typer.Option(help="What runs it.", show_default="by the source")] = "",
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of it, again for each.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", help="A label that shall lead to it, again for each.", autocompletion=completion.labels
        ),
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return while it loads; see `opsin models watch`.")
    ] = False,
) -> None:
    """Load a version of a model. The first gets all calls for its name, later ones none until `traffic`.

    \b
      opsin models load cats --source ./my-classifier
      opsin models load nanodet --set dtype=float32 --label canary
    """
    settings = settings_of(ctx)
    pairs = _once((_pair(text, "--set") for text in setting or ()), "--set")
    with guarded(settings.target), connect(settings) as client:
        model = client.load_model(
            name,
            source=source,
            version=version,
            detector=detector,
            settings=pairs,
            labels=label or (),
            wait=not no_wait,
        )
    Screen(settings).result(model.to_dict(), lambda: _shown(model))


def unload(
    ctx: typer.Context,
    name: Name,
    version: Annotated[
        int,
        typer.Option(
            help="Its version.", min=0, show_default="the only one", autocompletion=completion.versions
        ),
    ] = 0,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return while it drains.")] = False,
) -> None:
    """Take a version of a model away, once it has answered what it accepted.

    \b
      opsin models unload nanodet --version 1
    """
    settings = settings_of(ctx)
    with guarded(settings.target), connect(settings) as client:
        model = client.unload_model(name, version=version)
        while not no_wait and any(one.version == model.version for one in _of(client, name)):
            time.sleep(QUICKEST)
    gone = "is draining" if no_wait else "is gone"
    Screen(settings).result(model.to_dict(), lambda: f"{model} {gone}")


def traffic(
    ctx: typer.Context,
    name: Name,
    weights: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VERSION=WEIGHT]...",
            help="Shares; versions left out get none.",
            show_default=False,
            autocompletion=completion.shares,
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="LABEL=VERSION",
            help="Where a label leads; 0 takes it away.",
            autocompletion=completion.label_moves,
        ),
    ] = None,
    shadow: Annotated[
        int,
        typer.Option(
            help="The version that gets copies of all calls.",
            min=0,
            show_default="none",
            autocompletion=completion.versions,
        ),
    ] = 0,
) -> None:
    """Say which versions of a model get which calls. Without weights they stay as they are.

    \b
      opsin models traffic nanodet 1=95 2=5      a canary
      opsin models traffic nanodet 2=1           promote; 1=1 rolls back
      opsin models traffic nanodet --shadow 2    copies for version 2, their answers thrown away
    """
    settings = settings_of(ctx)
    targets = _once(
        ((_number(version, _SHARES), share) for version, share in _numbers(weights or (), _SHARES)), _SHARES
    )
    moves = _once(_numbers(label or (), "--label"), "--label")
    with guarded(settings.target), connect(settings) as client:
        found = client.set_traffic(name, targets, labels=moves, shadow_version=shadow)
    screen = Screen(settings)
    for model in found:
        screen.result(model.to_dict(), partial(_shown, model))


def watch(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(help="Only this model.", show_default="all", autocompletion=completion.names)
    ] = "",
) -> None:
    """Print every change of a model's state, labels or traffic as it comes, until Ctrl-C."""
    settings = settings_of(ctx)
    screen = Screen(settings)
    known: dict[str, str] = {}
    pause = QUICKEST
    with guarded(settings.target), connect(settings) as client:
        while True:
            now = {str(model): model for model in _of(client, name)}
            changed = [model for key, model in now.items() if known.get(key) != _told(model)]
            for model in changed:
                screen.result(model.to_dict(), partial(_shown, model))
            for key in known.keys() - now.keys():
                gone, _, version = key.rpartition("@")
                told = {"name": gone, "version": int(version), "state": "gone"}
                screen.result(told, partial("{} gone".format, key))
            pause = QUICKEST if changed or known.keys() - now.keys() else min(SLOWEST, pause * GROWTH)
            known = {key: _told(model) for key, model in now.items()}
            time.sleep(pause)


def _of(client: "Client", name: str) -> "list[Model]":
    return [model for model in client.models() if not name or model.name == name]


def _shown(model: "Model") -> str:
    """One version in a line, for people: what stands in brackets in a failure is no colour."""
    from rich.markup import escape

    return escape(_told(model))


def _told(model: "Model") -> str:
    """One version in a line."""
    parts = [str(model), model.state.name, f"weight {model.traffic_weight}"]
    parts += [f"label {label}" for label in model.labels]
    parts += ["shadow"] if model.shadow else []
    parts += [model.failure.message] if model.failure else []
    return "  ".join(parts)


def _pair(text: str, hint: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not key or not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE.", param_hint=hint)
    return key, value


def _numbers(texts: Sequence[str], hint: str) -> Iterator[tuple[str, int]]:
    for key, value in (_pair(text, hint) for text in texts):
        yield key, _number(value, hint)


def _once(pairs: Iterable[tuple[Key, Value]], hint: str) -> dict[Key, Value]:
    found: dict[Key, Value] = {}
    for key, value in pairs:
        if key in found:
            raise typer.BadParameter(f"{key} is given twice.", param_hint=hint)
        found[key] = value
    return found


def _number(text: str, hint: str) -> int:
    if not re.fullmatch("[0-9]+", text):
        raise typer.BadParameter(f"{text!r} is not a whole number.", param_hint=hint)
    return int(text)
