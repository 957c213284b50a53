"""`opsin stream`: a video, a camera, a folder of pictures, frame by frame through StreamDetect."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from opsin.cli.connection import ClientCommand, connect, settings_of
from opsin.cli.exits import EPILOG, ExitCode
from opsin.cli.failures import describe, error_to_dict, guarded, warn
from opsin.cli.frames import open_source
from opsin.cli.inputs import expanded
from opsin.cli.options import ClassNames, LeastScore, ModelName
from opsin.cli.output import Screen
from opsin.cli.parsing import parse_freshness, parse_names, parse_rate
from opsin.cli.words import counted

if TYPE_CHECKING:
    from opsin import FrameDropped, FrameFailed, FrameResult, StreamSession
    from opsin.cli.film import Film

    Event = FrameResult | FrameDropped | FrameFailed

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add `stream`."""
    app.command("stream", cls=ClientCommand, epilog=EPILOG)(stream)


def stream(
    ctx: typer.Context,
    *,
    source: Annotated[
        str,
        typer.Argument(
            help="A video, a URL (rtsp, http), a camera's number, a folder of pictures; - for stdin.",
            metavar="SOURCE",
            show_default=False,
        ),
    ],
    model: ModelName = "",
    freshness: Annotated[
        str,
        typer.Option(
            help="What happens to frames the server cannot keep up with: every-frame waits; latest, "
            "max-age=200ms and fps=5 drop, and say so.",
            metavar="RULE",
        ),
    ] = "every-frame",
    rate: Annotated[
        str | None,
        typer.Option(
            help="How fast frames are sent: realtime, max, or a number a second.",
            metavar="RATE",
            show_default="realtime for what is live, else max",
        ),
    ] = None,
    track: Annotated[
        bool, typer.Option("--track", help="Number things, the same from frame to frame.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(help="Stop after so many frames.", min=1, metavar="N", show_default=False)
    ] = None,
    min_score: LeastScore = None,
    labels: ClassNames = None,
    quality: Annotated[
        int,
        typer.Option(
            help="JPEG quality frames are sent in; 0 sends raw pixels.", min=0, max=100, metavar="0..100"
        ),
    ] = 90,
    codec: Annotated[
        str,
        typer.Option(
            help="image: decode here and send pictures. h264, hevc, mjpeg: send the video's own packets, "
            "which costs less here and on the network. auto: packets where that can be.",
            metavar="CODEC",
        ),
    ] = "image",
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write an annotated video, such as out.mp4. A dropped frame shows what was found last.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Detect in every frame of a video, as it plays.

    \b
      opsin stream clip.mp4 --save annotated.mp4
      opsin stream 0 --freshness latest --track
      opsin stream rtsp://camera/live --freshness max-age=200ms --json
      ffmpeg -i clip.mkv -f mpegts - | opsin stream -
    """
    settings = settings_of(ctx)
    options: dict[str, Any] = {
        "model": model,
        "freshness": parse_freshness(freshness),
        "rate": parse_rate(rate),
        "track": track,
        "min_score": min_score,
        "labels": parse_names(labels or ()),
        "quality": quality or None,
        "codec": _codec(codec, save),
    }
    screen = Screen(settings)
    film = _film(save, source)
    with guarded(settings.target), connect(settings) as client:
        session = client.stream(open_source(source), **options)
        code = _follow(session, screen, film, limit)
        _tell_sum(session, screen, film)
    raise typer.Exit(code)


def _codec(name: str, save: Path | None) -> str:
    """What --codec asks for. Raises `typer.BadParameter`."""
    from opsin._options import Codec

    known = get_args(Codec)
    if name not in known:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}.", param_hint="--codec")
    if save is not None and name != "image":
        message = "packets cannot be drawn on: leave it out together with --save."
        raise typer.BadParameter(message, param_hint="--codec")
    return name


def _film(path: Path | None, source: str) -> "Film | None":
    """What --save asks for. Raises `typer.BadParameter` before anything is sent."""
    if path is None:
        return None
    if path.exists() and path.resolve() == expanded(source).resolve():
        raise typer.BadParameter(f"{path} is the source: it would be overwritten.", param_hint="--save")
    from opsin.cli.film import Film

    try:
        return Film(path)
    except ModuleNotFoundError as missing:
        raise typer.BadParameter(
            f"writing a video needs {missing.name!r}: pip install 'opsin[video]'", param_hint="--save"
        ) from None
    except ValueError as wrong:
        raise typer.BadParameter(str(wrong), param_hint="--save") from None


def _follow(session: "StreamSession", screen: Screen, film: "Film | None", limit: int | None) -> ExitCode:
    """Show every frame's answer until the source ends, `limit` are answered, or Ctrl-C."""
    from opsin.cli.livestats import live_line

    try:
        with _finished(film), session, live_line(session, screen) as refresh:
            for event in itertools.islice(session, limit):
                screen.result(_to_dict(event), partial(_row, event))
                _write(film, event, session.fps)
                refresh()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except _CannotWrite as reason:
        warn(str(reason))
        return ExitCode.SOME_FAILED
    return ExitCode.SOME_FAILED if session.stats.failed else ExitCode.OK


class _CannotWrite(Exception):  # noqa: N818  ends the command with its sentence
    """The annotated video cannot be written."""


def _write(film: "Film | None", event: "Event", fps: float | None) -> None:
    if film is not None:
        with _writing(film):
            film.add(event, fps)


@contextmanager
def _writing(film: "Film") -> Iterator[None]:
    try:
        yield
    except OSError as reason:
        raise _CannotWrite(f"{film.path} cannot be written: {reason.strerror or reason}") from None


@contextmanager
def _finished(film: "Film | None") -> Iterator[None]:
    """Finish the video at the end, whatever ended it."""
    try:
        yield
    finally:
        if film:
            with _writing(film):
                film.close()


def _tell_sum(session: "StreamSession", screen: Screen, film: "Film | None") -> None:
    from opsin.cli.livestats import one_line, summary_table

    if film and film.written:
        screen.note(f"{counted(film.written, 'frame')} -> {film.path}")
    if screen.for_people:
        screen.show(summary_table(session))
    else:
        screen.note(one_line(session.stats))


def _to_dict(event: "Event") -> dict[str, Any]:
    """A JSON line: `kind` is result, dropped or failed."""
    import opsin

    match event:
        case opsin.FrameFailed():
            line = {"kind": "failed", "sequence": event.sequence, "error": error_to_dict(event.error)}
            return line | {"key_frame_wanted": event.key_frame_wanted}
        case opsin.FrameDropped():
            return {"kind": "dropped", **event.to_dict()}
        case _:
            return {"kind": "result", **event.to_dict()}


def _row(event: "Event") -> str:
    """A line for people: number, age, what was found or why not."""
    from rich.markup import escape

    import opsin
    from opsin.cli.render import brief

    match event:
        case opsin.FrameFailed():
            return f"{event.sequence:>6}  [red]failed[/red]   {escape(describe(event.error))}"
        case opsin.FrameDropped():
            return f"{event.sequence:>6}  [yellow]dropped[/yellow]  {event.reason} {_age(event.age)}"
        case _:
            return f"{event.sequence:>6}  {_age(event.age):>8}  {escape(brief(event.result))}"


def _age(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.0f} ms"
