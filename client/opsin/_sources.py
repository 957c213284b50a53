"""Where a stream's frames come from, at which pace, and how each becomes ready to travel.

A `Source` is a plain iterator with a few facts about it; `Pace` says when the next frame is due; `ready`
loads and encodes one. The streams' drivers call these from their own thread or executor.
"""

import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opsin._errors import InvalidInput, OpsinError
from opsin._freshness import FreshnessMode
from opsin._inputs import Packet, Text, load
from opsin._options import Codec, DetectOptions, StreamAsk
from opsin._session import TakenFrame

__all__ = ["Frame", "Pace", "Source", "as_frame", "open_source", "ready"]

_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame for a stream, with more to say than its picture.

    input: any `opsin.Input` but a text, or an `opsin.Packet`. capture_time: when it was taken, Unix seconds.
    options: what to look for in this frame alone. time: seconds from the start of the source, for pacing.
    """

    input: Any
    capture_time: float | None = None
    options: DetectOptions | None = None
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Frames, and what is known of where they come from.

    frames: inputs or `Frame`s, by an iterator of one of the two kinds. live: they do not wait to be taken.
    fps: nominal frames a second, None: not known. codec: of its packets; "image" where it gives pictures.
    close, aclose: let go of files and devices, and of what an async iterator holds.
    """

    frames: Iterator[Any] | AsyncIterator[Any]
    live: bool = False
    fps: float | None = None
    close: Callable[[], None] = lambda: None
    codec: Codec = "image"
    aclose: Callable[[], Awaitable[object]] | None = None


def open_source(source: Any, ask: StreamAsk) -> Source:
    """Open whatever `stream` was given. Raises InvalidInput for what is no source, or MissingExtra."""
    match source:
        case bool() | Text() | bytes() | bytearray() | memoryview():
            raise InvalidInput.at("source", f"cannot stream from {type(source).__name__}: {_SOURCES}")
        case int():
            opened = _video(source, ask.codec)
        case str() | os.PathLike():
            opened = _from_path(os.fspath(source), ask.codec)
        case AsyncIterable():
            opened = _from_async_iterable(source, ask.codec)
        case Iterable():
            # numpy arrays are iterable, by rows: a single picture is no stream.
            if hasattr(source, "dtype") and getattr(source, "ndim", 4) < 4:
                raise InvalidInput.at("source", f"a single picture is no stream: {_SOURCES}")
            opened = _from_iterable(source, ask.codec)
        case _:
            raise InvalidInput.at("source", f"cannot stream from {type(source).__name__}: {_SOURCES}")
    return _live(opened, ask)


_SOURCES = "give a video file, a URL, a camera number, a folder of pictures, or an iterable of inputs"


def _live(source: Source, ask: StreamAsk) -> Source:
    live = source.live if ask.rate is None else ask.rate != "max"
    return replace(source, live=live)


def _of_packets(source: Any, asked: Codec) -> Codec:
    """The codec of a source that the caller made: its own word, else what was asked for."""
    codec: Codec = getattr(source, "codec", "image" if asked == "auto" else asked)
    return codec


def _from_iterable(source: Iterable[Any], codec: Codec) -> Source:
    frames = iter(source)
    close = getattr(source, "close", None) or getattr(frames, "close", None)
    return Source(
        frames,
        live=bool(getattr(source, "live", False)),
        fps=getattr(source, "fps", None),
        close=close if callable(close) else lambda: None,
        codec=_of_packets(source, codec),
    )


def _from_async_iterable(source: AsyncIterable[Any], codec: Codec) -> Source:
    frames = aiter(source)
    close = getattr(source, "aclose", None) or getattr(frames, "aclose", None)
    return Source(frames, codec=_of_packets(source, codec), aclose=close if callable(close) else None)


def _from_path(name: str, codec: Codec) -> Source:
    if "://" in name:
        return _video(name, codec)
    try:
        pictures = _pictures(Path(name))
    except OSError as error:
        raise InvalidInput.at("source", f"cannot look at {name!r}: {error.strerror or error}") from None
    return _video(name, codec) if pictures is None else Source(iter(pictures))


def _pictures(path: Path) -> list[Path] | None:
    """The pictures that a path stands for, hidden ones left out; None: it is a video's. Raises OSError."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in _PICTURES)
        shown = [file for file in found if not file.name.startswith(".")]
        if not shown:
            raise InvalidInput.at("source", f"there are no pictures in {path}")
        return shown
    if path.is_file() and _is_picture(path):
        return [path]
    if not path.exists():
        raise InvalidInput.at("source", f"there is no file {str(path)!r}")
    return None


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(16)
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _video(source: str | int, codec: Codec) -> Source:
    from opsin._packets import NotAsPacketsError, PacketVideo
    from opsin._video import Video

    if codec == "image":
        return _from_iterable(Video(source), codec)
    try:
        return _from_iterable(PacketVideo(source, codec), codec)
    except NotAsPacketsError:
        if codec != "auto":
            raise
        return _from_iterable(Video(source), codec)


class Pace:
    """When each frame is due, and when it counts as taken. start, wall: monotonic and Unix seconds."""

    def __init__(self, ask: StreamAsk, *, live: bool, start: float, wall: float) -> None:
        self._ask = ask
        self._live = live
        self._start = start
        self._wall = wall
        self._count = 0

    def due(self, frame: Frame) -> float:
        """The monotonic time at which the frame should go; a time that has passed means at once."""
        at = self._count
        self._count += 1
        match self._ask.rate:
            case "realtime" if frame.time is not None:
                return self._start + frame.time
            case float() | int() as fps:
                return self._start + at / fps
            case _:
                return self._start

    def capture_time(self, frame: Frame, wall: float) -> float | None:
        """When the frame was taken, Unix seconds.

        Where nobody told: now, if it comes at its own pace; by the source's clock, if tracking or even
        spacing need one; else unset, for a file that is read as fast as it is answered has no age.
        """
        if frame.capture_time is not None:
            return frame.capture_time
        if self._live:
            return wall
        mode = self._ask.freshness.mode
        # Not where age decides: read more slowly than it was taken, all of a file would soon be too old.
        spaced = mode is FreshnessMode.TARGET_FPS or (self._ask.track and mode is not FreshnessMode.MAX_AGE)
        return self._wall + frame.time if spaced and frame.time is not None else None


def as_frame(item: Any) -> Frame:
    """What a source gave, as a Frame."""
    return item if isinstance(item, Frame) else Frame(item)


def ready(frame: Frame, capture_time: float | None, *, limit: int, quality: int | None) -> TakenFrame:
    """The frame as it travels. Reads files and encodes pixels; an input that is wrong becomes its error."""
    if isinstance(frame.input, Packet):
        return TakenFrame(frame.input, capture_time, frame.options, by_source=frame.capture_time is None)
    try:
        loaded = load(frame.input, limit=limit, quality=quality)
        if isinstance(loaded, Text):
            raise InvalidInput.at("frame.image", "a stream takes pictures, no texts")
    except OpsinError as error:
        return TakenFrame(None, capture_time, frame.options, error, frame.input)
    return TakenFrame(loaded, capture_time, frame.options, by_source=frame.capture_time is None)
