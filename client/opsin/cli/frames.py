"""What a stream's source on the command line means to `opsin.Client.stream`."""

import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from opsin.cli.inputs import MissingInputError, expanded

__all__ = ["open_source"]


def open_source(text: str) -> Any:
    """A camera's number, a URL, a path, or frames read from stdin. Raises `MissingInputError`."""
    if text == "-":
        return frames_of(sys.stdin.buffer)
    if text.isdecimal():
        return int(text)
    if "://" in text:
        return text
    path = expanded(text)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingInputError(
            f"{text}: no such file or folder. A stream's source is a video, a URL, a camera's number, "
            "a folder of pictures, or - for stdin."
        ) from None
    except OSError as reason:
        raise MissingInputError(f"{text} cannot be looked at: {reason.strerror or reason}") from None
    return path


def frames_of(file: BinaryIO) -> Iterator[Any]:
    """The pictures of a video that is read as it comes, without seeking: MPEG-TS, Matroska, Motion JPEG..."""
    pipe = _Pipe(file)
    try:
        import av
    except ModuleNotFoundError:
        raise MissingInputError("reading a video needs PyAV: pip install 'opsin[video]'") from None
    try:
        with av.open(pipe, "r") as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as reason:
        raise MissingInputError(_unreadable(pipe.head, reason)) from None


class _Pipe:
    """A file to read forwards only; remembers how it began."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.head = b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        data = self._file.read(size)
        self.head = self.head or data[:16]
        return data


def _unreadable(head: bytes, reason: Exception) -> str:
    if not head:
        return "stdin is empty"
    if head[4:8] in (b"ftyp", b"moov"):
        # Where its pictures lie is told at its end, as most cameras and programs write it.
        return (
            "an MP4 or MOV file cannot be read as it comes: give the file itself, or pipe MPEG-TS "
            "(ffmpeg -i FILE -c copy -f mpegts - | opsin stream -)"
        )
    why = getattr(reason, "strerror", None) or reason
    return f"stdin is no video that can be read as it comes, such as MPEG-TS or Matroska: {why}"
