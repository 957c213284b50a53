"""Packets of a live stream to pictures: H.264 and HEVC through FFmpeg, Motion JPEG as single pictures.

One decoder belongs to one stream and takes its packets one at a time, in order; which thread calls does not
matter. `feed` does what the codec needs so that later packets can be decoded, and hands out a `Picture`;
turning that into RGB is a call of its own, for pictures that somebody still wants, and may run beside the
next `feed`. Whatever the bytes, `feed` raises nothing but `Failure`, and the decoder goes on with the next
key frame.

What it shows, it vouches for: where FFmpeg would paint over a damaged or missing reference, the frame
fails, as nobody could tell what was looked at. (Both codecs can be damaged in ways that decode to
something; a transport that keeps bytes whole, as gRPC's, makes that rare.) Must not know sessions, sequences
or the event loop.
"""

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import Any, NoReturn, Protocol

import numpy as np

from opsin_detectors.api import ImageInput
from opsin_server.calls import EncodedImage
from opsin_server.errors import Failure, Reason
from opsin_server.media.bitstream import BitstreamError, H264Syntax, HevcSyntax, Packet, Syntax
from opsin_server.media.decode import decode
from opsin_server.media.header import MediaLimits, read_header

__all__ = ["PACKET", "Codec", "Picture", "VideoDecoder", "known_codecs", "open_decoder"]

PACKET = "packet"
"""The field that carries a packet, as errors name it: from the frame on."""

_MAX_PARAMETER_BYTES = 1 << 16


class Codec(StrEnum):
    """What packets hold."""

    H264 = "H264"
    HEVC = "HEVC"
    MJPEG = "MJPEG"


class Picture(Protocol):
    """A decoded picture that is not yet RGB. width, height: in pixels."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def to_rgb(self, near: tuple[int, int] = (0, 0)) -> ImageInput:
        """The pixels: uint8, RGB, (rows, columns, 3), contiguous. May be called on any thread.

        near: (width, height) that are enough: the picture may come back reduced to a half, a quarter or an
            eighth, but on neither side below it. (0, 0) asks for the full size. Raises `Failure`.
        """
        ...


class VideoDecoder(Protocol):
    """The decoder of one stream.

    chained: every packet must be fed, in order; otherwise each stands for itself.
    key_frame_wanted: after a failure, whether the client should send a key frame next.
    """

    chained: bool
    key_frame_wanted: bool

    def feed(self, packet: bytes, *, keep: bool = True) -> Picture | None:
        """Decode a packet; None when it holds no picture, or when that is not to be kept.

        Raises `Failure` IMAGE_UNDECODABLE or IMAGE_TOO_LARGE, which concern this packet, and
        CODEC_UNSUPPORTED, which concerns the stream: it has B-frames. The field is `packet`.
        """
        ...

    def close(self) -> None:
        """Let go of FFmpeg's memory. Pictures handed out stay good."""
        ...


def known_codecs() -> tuple[Codec, ...]:
    """What packets may hold on this server: Motion JPEG always, the others where PyAV is installed."""
    return tuple(Codec) if find_spec("av") is not None else (Codec.MJPEG,)


def open_decoder(codec: Codec, limits: MediaLimits) -> VideoDecoder:
    """A decoder for one stream. Raises `Failure` CODEC_UNSUPPORTED where PyAV is not installed."""
    match codec:
        case Codec.MJPEG:
            return _JpegDecoder(limits)
        case Codec.H264:
            return _ChainDecoder(codec, "h264", H264Syntax(), limits)
        case Codec.HEVC:
            return _ChainDecoder(codec, "hevc", HevcSyntax(), limits)


# Motion JPEG


@dataclass(slots=True)
class _JpegDecoder:
    """Nothing to remember: each packet is a JPEG."""

    limits: MediaLimits
    chained: bool = False
    key_frame_wanted: bool = False

    def feed(self, packet: bytes, *, keep: bool = True) -> Picture | None:
        if not packet:
            return None
        if packet[:2] != b"\xff\xd8":
            raise _undecodable("it does not begin like a JPEG")
        if not keep:
            return None
        try:
            header = read_header(packet, self.limits)
        except Failure as failure:
            raise _of_packet(failure) from failure
        return _JpegPicture(packet, self.limits, header.width, header.height)

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True, eq=False)
class _JpegPicture:
    data: bytes
    limits: MediaLimits
    width: int
    height: int

    def to_rgb(self, near: tuple[int, int] = (0, 0)) -> ImageInput:
        try:
            return decode(EncodedImage(self.data), self.limits, near)
        except Failure as failure:
            raise _of_packet(failure) from failure


# H.264 and HEVC


@dataclass(slots=True)
class _ChainDecoder:
    """FFmpeg's decoder with what it lacks: limits before allocation, and a straight answer about lost
    packets.

    FFmpeg is told to give up on damage (`err_detect`), and then no longer trusted until a key frame:
    packets up to that fail without being fed. A packet that is refused before it gets to FFmpeg costs
    FFmpeg nothing; whether a reference went with it shows in the next one (H.264: a gap in `frame_num`;
    HEVC: FFmpeg misses it).
    """

    codec: Codec
    name: str
    syntax: Syntax
    limits: MediaLimits
    chained: bool = True
    key_frame_wanted: bool = True
    _context: Any = None
    _synced: bool = False
    _parameters: bytes = b""

    def __post_init__(self) -> None:
        self._context = self._open()

    def feed(self, packet: bytes, *, keep: bool = True) -> Picture | None:
        if not packet:
            return None
        found = self._read(packet)
        self._check(found)
        if not found.picture:
            self._remember(packet, found)
            return None
        if found.key:
            self._begin(found)
        elif not self._synced:
            self._fail("the decoder has no reference for it; a key frame is needed")
        elif found.gap:
            self._lose("one before it is missing; a key frame is needed")
        if found.disposable and not keep:
            return None
        return self._picture(self._decode(packet), keep=keep)

    def close(self) -> None:
        self._context = None
        self._synced = False

    def _read(self, packet: bytes) -> Packet:
        try:
            return self.syntax.read(packet)
        except (BitstreamError, IndexError) as error:
            words = str(error) if isinstance(error, BitstreamError) else "its structure is broken"
            self._fail(words)

    def _check(self, found: Packet) -> None:
        """Refuse what must not get to FFmpeg."""
        for size in found.sizes:
            try:
                self.limits.check(size.width, size.height, PACKET)
            except Failure:
                self._synced, self.key_frame_wanted = False, True
                raise
        if found.bidirectional:
            raise _has_b_frames(self.codec)

    def _remember(self, packet: bytes, found: Packet) -> None:
        """Parameter sets that come alone go in with the next picture, as FFmpeg calls them an error."""
        if not found.parameters:
            return
        self._parameters += packet
        if len(self._parameters) > _MAX_PARAMETER_BYTES:
            self._parameters = b""
            self._fail("there are too many parameter sets without a picture")

    def _begin(self, found: Packet) -> None:
        """A key frame follows: forget what went wrong before."""
        if found.sizes:
            self._parameters = b""  # it has its own, and those before may be broken
        if not self._synced and found.sizes:
            self._context = self._open()  # a broken parameter set stays with FFmpeg for good
        elif not self._synced:
            self._context.flush_buffers()
        self._synced = True

    def _decode(self, packet: bytes) -> list[Any]:
        import av

        data, self._parameters = self._parameters + packet, b""
        try:
            return list(self._context.decode(av.Packet(data)))
        except MemoryError as error:
            self._lose_state()
            message = "There is no memory for the picture."
            raise Failure(Reason.MEMORY_LIMIT, message, PACKET, retry_after=1.0) from error
        except Exception as error:  # FFmpegError in many kinds
            self._lose("its structure is broken, or it refers to a picture that is missing", error)

    def _picture(self, frames: list[Any], *, keep: bool) -> Picture | None:
        if not frames:
            if self._context.has_b_frames:
                raise _has_b_frames(self.codec)
            self._fail("the decoder is not yet in step with the stream")
        frame = frames[-1]
        self.limits.check(frame.width, frame.height, PACKET)
        self.key_frame_wanted = False
        return _FramePicture(frame) if keep else None

    def _lose_state(self) -> None:
        self._synced, self.key_frame_wanted = False, True

    def _lose(self, why: str, error: Exception | None = None) -> NoReturn:
        """A reference is gone."""
        self._lose_state()
        raise _undecodable(why) from error

    def _fail(self, why: str) -> NoReturn:
        """This packet is of no use; FFmpeg did not see it."""
        self.key_frame_wanted = True
        raise _undecodable(why)

    def _open(self) -> Any:
        try:
            import av
            from av.codec.context import Flags
        except ImportError as error:
            message = f"This server cannot decode {self.codec}: it was installed without `opsin[video]`."
            raise Failure(Reason.CODEC_UNSUPPORTED, message, "config.codec") from error
        context: Any = av.CodecContext.create(self.name, "r")
        # One thread: FFmpeg's others would hold pictures back, and the cores are shared among streams anyway.
        context.thread_count = 1
        context.flags |= Flags.low_delay
        context.options = {"err_detect": "explode", "max_pixels": str(2 * self.limits.max_pixels)}
        context.open()
        return context


@dataclass(frozen=True, slots=True, eq=False)
class _FramePicture:
    """A picture in FFmpeg's memory, mostly YUV 4:2:0; FFmpeg counts the references to it."""

    frame: Any

    @property
    def width(self) -> int:
        return int(self.frame.width)

    @property
    def height(self) -> int:
        return int(self.frame.height)

    def to_rgb(self, near: tuple[int, int] = (0, 0)) -> ImageInput:
        from av.video.reformatter import Interpolation, VideoReformatter

        factor = _reduction(self.width, self.height, near)
        # A reformatter of its own, as a picture may be wanted by several threads. `threads=1`: swscale would
        # start as many as there are cores, for one millisecond's work.
        small = VideoReformatter().reformat(
            self.frame,
            width=-(-self.width // factor),
            height=-(-self.height // factor),
            format="rgb24",
            src_colorspace=_MATRICES.get(int(self.frame.colorspace), _BT601),
            interpolation=Interpolation.AREA,
            threads=1,
        )
        pixels = np.ascontiguousarray(small.to_ndarray(), dtype=np.uint8)
        return ImageInput(pixels, self.width, self.height)


def _reduction(width: int, height: int, near: tuple[int, int]) -> int:
    if near == (0, 0):
        return 1
    fits = (f for f in (8, 4, 2) if -(-width // f) >= near[0] and -(-height // f) >= near[1])
    return next(fits, 1)


# From FFmpeg's numbers (AVColorSpace) to swscale's. What says nothing is taken for BT.601, whatever its size:
# so do ffmpeg and OpenCV, both when they write and when they read.
_BT601 = 5
_MATRICES = {1: 1, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9, 10: 9}


def _undecodable(why: str) -> Failure:
    return Failure(Reason.IMAGE_UNDECODABLE, f"The packet cannot be decoded: {why}.", PACKET)


def _of_packet(failure: Failure) -> Failure:
    return Failure(
        failure.reason, failure.message, PACKET, failure.metadata, failure.retry_after, failure.never_retry
    )


_WITHOUT_B_FRAMES = {
    Codec.H264: "x264: tune=zerolatency or bframes=0; ffmpeg: -bf 0; hardware encoders: baseline profile",
    Codec.HEVC: "x265: tune=zerolatency or bframes=0; ffmpeg: -bf 0",
}


def _has_b_frames(codec: Codec) -> Failure:
    setting = _WITHOUT_B_FRAMES[codec]
    return Failure(
        Reason.CODEC_UNSUPPORTED,
        f"The {codec} stream has B-frames, whose pictures come late and out of order. "
        f"Turn them off in the encoder ({setting}).",
        PACKET,
        {"codec": codec.value, "setting": setting},
    )
