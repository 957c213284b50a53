"""An annotated video, written frame by frame as answers come. Needs the `video` extra.

Every frame that got an answer is written, with its number and age in a corner; one that was dropped or failed
shows what was found last, and says so, so that the film keeps its pace. All frames are brought to the size of
the first.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ENDINGS", "Film"]

ENDINGS = (".mp4", ".mkv", ".mov", ".m4v", ".avi", ".ts")
"""Of the files that H.264 can be written to; FFmpeg picks the container by them."""

DEFAULT_FPS = 25.0
"""For sources that have no rate of their own, such as a folder of pictures."""


class Film:
    """A video file in the making; `path` ends in what names its container, such as .mp4."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened before the first frame. Raises ValueError for an ending not in ENDINGS."""
        if path.suffix.lower() not in ENDINGS:
            known = ", ".join(ENDINGS[1:])
            raise ValueError(f"{path.name!r} must end in .mp4, or another kind of video: {known}.")
        self.path = path
        self.written = 0  # frames; none of a file that failed
        self._container: Any = None
        self._track: Any = None
        self._last: Any = None  # the last FrameResult

    def add(self, event: Any, fps: float | None) -> None:
        """Write the frame of a stream's event. Raises OSError when the file cannot be written."""
        picture = self._annotated(event)
        if picture is not None:
            self.write(picture, fps or DEFAULT_FPS)

    def write(self, picture: "Image", fps: float) -> None:
        """Write one finished picture; fps counts with the first only. Raises OSError."""
        with self._giving_up():
            if self._container is None:
                self._open(picture.size, fps)
            size = (self._track.width, self._track.height)
            frame = self._frame_of(picture if picture.size == size else picture.resize(size))
            self._container.mux(self._track.encode(frame))
        self.written += 1

    def close(self) -> None:
        """Finish the file. Safe to call twice. Raises OSError."""
        if self._container is not None:
            with self._giving_up():
                self._container.mux(self._track.encode(None))
                self._container.close()
            self._container = None

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """What fails once is not touched again: FFmpeg ends the process that goes on with such a file."""
        try:
            yield
        except (OSError, av.FFmpegError) as reason:
            self._container = self._track = None
            self.written = 0
            if isinstance(reason, OSError):
                raise
            raise OSError(str(reason)) from None

    def _annotated(self, event: Any) -> "Image | None":
        import opsin

        if isinstance(event, opsin.FrameResult):
            self._last = event
        if self._last is None or event.input is None:
            return None
        return opsin.draw(self._last.result, event.input, note=_note(event, self._last.sequence))

    @staticmethod
    def _frame_of(picture: "Image") -> av.VideoFrame:
        frame: av.VideoFrame = av.VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]
        return frame

    def _open(self, size: tuple[int, int], fps: float) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self.path), "w")
        self._track = self._container.add_stream("h264", rate=Fraction(fps).limit_denominator(1001))
        # 4:2:0 wants even sides, and x264 two pixels of each at least.
        self._track.width, self._track.height = (max(2, side - side % 2) for side in size)
        self._track.pix_fmt = "yuv420p"
        self._track.options = {"preset": "veryfast", "crf": "20"}


def _note(event: Any, shown: int) -> str:
    """A frame in a line: `17  31 ms`; `18  superseded, shows 17`. shown: whose result is drawn."""
    import opsin

    match event:
        case opsin.FrameResult(reused_from=0, age=float(age)):
            return f"{event.sequence}  {age * 1000:.0f} ms"
        case opsin.FrameResult(reused_from=0):
            return f"{event.sequence}"
        case opsin.FrameResult():
            return f"{event.sequence}  as {event.reused_from}"
        case opsin.FrameDropped():
            return f"{event.sequence}  {event.reason.replace('_', ' ')}, shows {shown}"
        case _:
            return f"{event.sequence}  failed, shows {shown}"
