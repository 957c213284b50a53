"""What a stream's source on the command line means to `opsin.Client.stream`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from opsin.cli.inputs import MissingInputError

__all__ = ["open_source"]


def open_source(text: str) -> Any:
    """A camera's number, a URL, a path, or frames read from stdin. Raises `MissingInputError`."""
    if text == "-":
        return frames_of(sys.stdin.buffer)
    if text.isdigit():
        return int(text)
    if "://" in text:
        return text
    path = Path(text).expanduser()
    if not path.exists():
        raise MissingInputError(
            f"{text}: no such file or folder. A stream's source is a video, a URL, a camera's number, "
            "a folder of pictures, or - for stdin."
        )
    return path


def frames_of(file: BinaryIO) -> Iterator[Any]:
    """The pictures of a video that is read as it comes, without seeking: MPEG-TS, Matroska, Motion JPEG..."""
    try:
        import av
    except ModuleNotFoundError:
        raise MissingInputError("reading a video needs PyAV: pip install 'opsin[video]'") from None
    try:
        with av.open(file, "r") as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as reason:
        raise MissingInputError(f"stdin is no video that can be read as it comes: {reason}") from None
