"""`opsin check-detector`: a detector of one's own held against the rules, with the server's code around it.

Owns what the arguments mean and how findings are shown; the rules are `opsin_detectors.testing`'s. Importing
it is cheap, since every start of the command line does; the rest is imported when the command runs.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from opsin_detectors.api import Detector, ImageInput
    from opsin_detectors.finder import Found
    from opsin_detectors.testing import Finding

__all__ = ["register"]

BROKEN, USAGE = 1, 2
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_EPILOG = "Exit codes: 0 every rule kept, 1 a rule broken, 2 wrong usage."
_STYLES = {"passed": "green", "FAILED": "bold red", "skipped": "dim"}


class UsageError(ValueError):
    """The command line is wrong; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """The command line, taken apart. detector: a folder, or a detector's name."""

    detector: str
    source: str
    settings: Mapping[str, str]
    pictures: tuple[Path, ...]
    device: str
    dtype: str
    tolerance: float | None


def register(app: typer.Typer) -> None:
    """Add `check-detector` to the command line."""
    app.command("check-detector", epilog=_EPILOG)(check_detector)


def _detectors(incomplete: str) -> list[str]:
    """For completion: built-in and installed detectors; folders are the shell's to complete."""
    from opsin_detectors.finder import find

    return [name for name in find() if name.startswith(incomplete)]


def check_detector(  # noqa: PLR0917  typer reads its parameters by name
    detector: Annotated[
        str,
        typer.Argument(
            metavar="DIR",
            help="The detector's folder, or the name of an installed one.",
            autocompletion=_detectors,
            show_default=False,
        ),
    ],
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="A setting of the detector, again for each.", show_default=False
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            help="Weights to load: a folder, a file or a hub id.", show_default="what detector.toml names"
        ),
    ] = "",
    picture: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A picture of your own to check beside the made-up ones, again for each.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="How far two answers to one input may be apart.",
            min=0,
            show_default="0.001; 0.02 in half precision",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Check that a detector keeps the rules the server relies on.

    Loads it several times and runs it as the server would: alone, in batches of every size, in several
    threads, and with inputs that are awkward. Each rule is a line: passed, or FAILED with what was seen, what
    would be right, and where in your code.

    [dim]opsin check-detector brightness[/dim]

    [dim]opsin check-detector ./faces --setting min_size=20 --picture crowd.jpg --device cuda[/dim]
    """
    try:
        pairs = _settings(setting or ())
        _known(device, dtype)
        asked = _Asked(detector, source, pairs, tuple(picture or ()), device, dtype, tolerance)
        failed = _Shown(as_json).all(detector, _findings(asked))
    except UsageError as error:
        typer.echo(f"opsin: {error}", err=True)
        raise typer.Exit(USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(BROKEN if failed else 0)


class _Shown:
    """Findings as lines for people, or as JSON for programs."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._counts = {"passed": 0, "failed": 0, "skipped": 0}

    def all(self, detector: str, findings: "Iterable[Finding]") -> int:
        """Show each as it comes, then their sum; how many failed."""
        for finding in findings:
            self._counts[finding.status] += 1
            self._one(finding)
        self._sum(detector)
        return self._counts["failed"]

    def _one(self, finding: "Finding") -> None:
        if self._json:
            print(json.dumps({"kind": "rule", **finding.to_dict()}, ensure_ascii=False), flush=True)
            return
        from rich.text import Text

        word = "FAILED" if finding.status == "failed" else str(finding.status)
        self._print(Text.assemble((f"{word:<8}", _STYLES[word]), f"{finding.rule:<11} {finding}"))

    def _sum(self, detector: str) -> None:
        counts = self._counts
        if self._json:
            line = {"kind": "sum", "detector": detector, "ok": not counts["failed"], **counts}
            print(json.dumps(line, ensure_ascii=False), flush=True)
            return
        parts = [
            f"{counts['passed']} passed",
            f"{counts['failed']} failed",
            f"{counts['skipped']} not for it",
        ]
        self._print(f"{detector}: {', '.join(parts)}")

    def _print(self, text: Any) -> None:
        from rich.console import Console

        Console(highlight=False, soft_wrap=True, markup=False).print(text)


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"--setting {pair} has to be KEY=VALUE")
        if key in settings:
            raise UsageError(f"the setting {key} is given twice")
        settings[key] = value
    return settings


def _known(device: str, dtype: str) -> None:
    """Raises UsageError: a detector that looks at neither would pass with a word that means nothing."""
    from opsin_server.config.sections import MODEL_DEVICE_PATTERN

    if not device or not re.fullmatch(MODEL_DEVICE_PATTERN, device):
        raise UsageError(f"--device {device} is none of auto, cpu, cuda and cuda:1")
    if dtype not in _DTYPES:
        raise UsageError(f"--dtype {dtype} is none of {', '.join(_DTYPES)}")


def _findings(asked: _Asked) -> "Iterable[Finding]":
    """What the rules find; a detector that cannot even be found breaks the first of them."""
    from opsin_detectors.api import LoadContext, LoadError
    from opsin_detectors.sources import ModelSpec, resolve
    from opsin_detectors.testing import Finding, Status, examine
    from opsin_server.models.devices import pick_device
    from opsin_server.models.trial import ServerHarness

    pictures = [(path.name, path.read_bytes()) for path in asked.pictures]
    _decoded(pictures, (0, 0))
    try:
        found = _find(asked.detector)
    except LoadError as error:
        return [Finding("manifest", Status.FAILED, str(error), "the server finds it by its detector.toml")]
    wanted = ModelSpec(found.name, asked.source, {**asked.settings, "detector": found.name})
    resolved = resolve(wanted, {found.name: found})
    context = LoadContext(
        name=found.name,
        source=resolved.source,
        settings=resolved.settings,
        device=pick_device(asked.device),
        dtype=asked.dtype,
    )

    def own(detector: "Detector") -> "list[tuple[str, ImageInput]]":
        return _decoded(pictures, detector.info.decode_size)

    return examine(found, context, tolerance=asked.tolerance, harness=ServerHarness(), pictures=own)


def _find(named: str) -> "Found":
    """The detector of a folder, or of that name. Raises UsageError for neither, LoadError as `find` does."""
    from opsin_detectors.finder import find

    path = Path(named)
    with contextlib.suppress(RuntimeError):  # the home of nobody: there is no such folder
        path = path.expanduser()
    known = find()
    if not path.is_dir():
        if named in known:
            return known[named]
        raise UsageError(f"there is no folder {named}, and no installed detector of that name")
    folder = path.resolve()
    inside = [one for one in known.values() if one.folder == folder]
    if not inside:
        inside = [one for name, one in find([folder]).items() if name not in known]
    if len(inside) > 1:
        names = ", ".join(str(path / one.folder.name) for one in inside if one.folder is not None)
        raise UsageError(f"{named} holds several detectors; name one: {names}")
    return inside[0]


def _decoded(pictures: Sequence[tuple[str, bytes]], near: tuple[int, int]) -> "list[tuple[str, ImageInput]]":
    """The author's pictures, as the server would decode them for a model that wants them so large."""
    from opsin_server.calls import EncodedImage
    from opsin_server.errors import Failure
    from opsin_server.media.decode import decode
    from opsin_server.media.header import MediaLimits

    try:
        return [(name, decode(EncodedImage(data), MediaLimits(), near=near)) for name, data in pictures]
    except Failure as failure:
        raise UsageError(f"a picture cannot be used: {failure.message}") from None
