"""A frame of a stream between its arrival and its outcome.

Holds what is to be looked at, and tells the stream how far the looking is (`Watcher`). Decides nothing,
except that a picture that is like the last one need not be looked at.
"""

import asyncio
import time
from collections.abc import Callable, Hashable

from opsin_detectors.api import ImageInput
from opsin_server.calls import DecodedImage, DetectAnswer, DetectOptions, ImageSource, NotNeeded
from opsin_server.media.budget import Reservation
from opsin_server.media.video import Picture
from opsin_server.rpc.stream_messages import FrameIn
from opsin_server.streams import events as ev
from opsin_server.streams.similar import Look, SimilarFrames, Thumbnail, thumbnail

__all__ = ["Alike", "Work", "decoded_image"]


class Alike(NotNeeded):
    """A frame looks like one that was answered."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self.look = look


class Work:
    """One frame.

    source: None until a packet was decoded, and for a frame that has failed already. options: its own, else
    the stream's. watched: whether the session needs to hear when it is ready and when it starts. decoding:
    seconds in the stream's decoder. withdrawn: nobody wants it any more. held: the bytes of its picture, if
    the stream's decoder made it. turn: gives its turn back, if it has one.
    """

    __slots__ = (
        "_arrived",
        "_key",
        "_seen",
        "_similar",
        "_tell",
        "_watched",
        "decoding",
        "held",
        "options",
        "own_options",
        "sequence",
        "source",
        "task",
        "turn",
        "withdrawn",
    )

    def __init__(
        self,
        frame: FrameIn,
        source: ImageSource | None,
        options: DetectOptions,
        *,
        tell: Callable[[ev.Event], None],
        watched: bool,
        similar: SimilarFrames | None,
    ) -> None:
        self.sequence = frame.sequence
        self.source = source
        self.options = options
        self.own_options = frame.options is not None
        self.task: asyncio.Task[None] | None = None
        self.decoding = 0.0
        self.withdrawn = False
        self.held: Reservation | None = None
        self.turn: Callable[[], None] | None = None
        self._arrived = time.monotonic()
        self._tell = tell
        self._watched = watched
        self._similar = similar
        self._seen: Thumbnail | None = None
        self._key: Hashable = None

    @property
    def keen(self) -> bool:
        """Whether its stream may still take it back when it starts."""
        return self._watched

    def cancel(self) -> None:
        """Nobody wants it any more: stop, wherever it is."""
        self.withdrawn = True
        self.let_go()
        if self.task is not None:
            # A task that is cancelled keeps its frames, and those keep this: without a way back to the task
            # they go when it does, and do not wait, with the picture, for the garbage collector.
            self.task.cancel()
            self.task = None

    def let_go(self) -> None:
        """Its picture is not needed any more."""
        self._end_turn()
        self.source = None
        if self.held is not None:
            self.held.release()
            self.held = None

    def decoded(self, image: ImageInput) -> None:
        """On the thread that decoded. Raises `Alike` for a picture that need not be looked at."""
        if self._similar is None:
            return
        self._seen = thumbnail(image.pixels)
        self._key = (self.options, image.width, image.height)
        look = self._similar.match(self._seen, self._arrived, self._key)
        if look is not None:
            raise Alike(look)

    def ready(self) -> None:
        """It waits for the device."""
        if self._watched:
            self._tell(ev.FrameReady(self.sequence))

    def started(self) -> None:
        """It is about to run."""
        self._end_turn()
        if self._watched:
            self._tell(ev.FrameStarted(self.sequence))

    def _end_turn(self) -> None:
        turn, self.turn = self.turn, None
        if turn is not None:
            turn()

    def remember(self, answer: DetectAnswer, similar: SimilarFrames) -> None:
        """It was looked at: frames like it may have its answer."""
        if self._seen is not None:
            similar.answered(Look(self.sequence, self._seen, self._arrived, self._key, answer))


def decoded_image(picture: Picture) -> DecodedImage:
    """What a decoder hands out, as a call takes it."""
    return DecodedImage(picture.width, picture.height, picture.to_rgb)
