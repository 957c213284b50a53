"""Videos, cameras and network streams as frames, by PyAV (`pip install 'opsin[video]'`)."""

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Self

from opsin._errors import InvalidInput
from opsin._extras import need
from opsin._sources import Frame

__all__ = ["Video", "is_live", "open_container"]

_LIVE = ("rtsp://", "rtsps://", "rtmp://", "rtp://", "udp://", "srt://")
_CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}")}


class Video:
    """The frames of a video file, of a URL, or of a camera: iterate over it, once.

    source: a path, a URL that FFmpeg can open, or the number of a camera. Each `Frame` holds a numpy picture,
    uint8 RGB, upright. width, height: upright pixels. fps, duration (s), frame_count: None where not known.
    Raises MissingExtra without PyAV, InvalidInput for what it cannot open.
    """

    def __init__(self, source: Any) -> None:
        av = need("av", "Reading videos and cameras")
        self.live = is_live(source)
        self._name = str(source)
        self._container = open_container(source)
        self._error = av.FFmpegError
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._decoded = self._frames()
        self._first = next(self._decoded, None)
        if self._first is None:
            raise InvalidInput.at("source", f"{self._name} has no pictures in it")
        self._describe(self._first)

    def _describe(self, first: Any) -> None:
        stream = self._stream
        # What a phone held upright records is turned by a quarter; degrees counter-clockwise, 0..270.
        self._rotation = round(first.rotation) % 360
        sizes = (first.width, first.height)
        self.width, self.height = reversed(sizes) if self._rotation in (90, 270) else sizes
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else None
        self.duration = float(stream.duration * stream.time_base) if stream.duration else None
        self.frame_count: int | None = stream.frames or None

    def __iter__(self) -> Iterator[Frame]:
        first, self._first = self._first, None
        if first is None:
            return
        start = first.time or 0.0
        for frame in chain([first], self._decoded):
            at = start if frame.time is None else frame.time
            yield Frame(self._upright(frame.to_ndarray(format="rgb24")), time=at - start)

    def _frames(self) -> Iterator[Any]:
        try:
            yield from self._container.decode(self._stream)
        except self._error as error:
            raise InvalidInput.at("source", f"{self._name} broke off: {error.strerror or error}") from None
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the file or device; closing twice does nothing."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _upright(self, pixels: Any) -> Any:
        if not self._rotation:
            return pixels
        numpy = need("numpy", "Turning a video upright")
        return numpy.rot90(pixels, self._rotation // 90)


def is_live(source: Any) -> bool:
    """Whether a source does not wait to be read."""
    return isinstance(source, int) or str(source).startswith(_LIVE)


def open_container(source: Any) -> Any:
    """What FFmpeg opens for a path, a URL or a camera's number, with video in it. Raises InvalidInput."""
    av = need("av", "Reading videos and cameras")
    name, form, options = _address(source)
    if form == "v4l2" and not Path(name).exists():
        raise InvalidInput.at("source", f"there is no camera {source} ({name})")
    try:
        container = av.open(name, format=form, options=options)
    except (av.FFmpegError, OSError) as error:
        shown = f"camera {source} ({name})" if isinstance(source, int) else str(source)
        raise InvalidInput.at("source", f"cannot open {shown}: {error.strerror or error}") from None
    if not container.streams.video:
        container.close()
        raise InvalidInput.at("source", f"{source} has no pictures in it")
    return container


def _address(source: Any) -> tuple[str, str | None, dict[str, str]]:
    if isinstance(source, int):
        platform = "linux" if sys.platform.startswith("linux") else sys.platform
        if platform not in _CAMERAS:
            raise InvalidInput.at(
                "source", "cameras are known by number on Linux and macOS: give FFmpeg's address"
            )
        form, name = _CAMERAS[platform]
        return name.format(source), form, {}
    name = str(source)
    if name.startswith("rtsp"):
        return name, None, {"rtsp_transport": "tcp"}  # over UDP, lost packets smear the picture
    if "://" not in name and not Path(name).is_file():
        raise InvalidInput.at("source", f"there is no file {name!r}")
    return name, None, {}
