"""A video's packets as they are, neither decoded nor encoded again, by PyAV (`pip install 'opsin[video]'`).

Owns which videos can travel so, and the form that the contract wants: Annex B with the parameter sets before
each key frame, one picture a packet, in decoding order. Knows nothing of servers.
"""

from collections.abc import Iterator
from typing import Any, get_args

from opsin._errors import InvalidInput
from opsin._extras import need
from opsin._inputs import Packet
from opsin._options import Codec
from opsin._sources import Frame
from opsin._video import is_live, open_container

__all__ = ["NotAsPacketsError", "PacketVideo"]

_PROBED = 100
"""Packets that are looked into for a first picture."""


class NotAsPacketsError(InvalidInput):
    """This video has to be sent as pictures."""


class PacketVideo:
    """The packets of a video file, a URL, or a camera: iterate over it, once, for `Frame`s of `Packet`s.

    codec: what it has to be; "auto" takes any that can be sent. live, fps: as of a `Video`.
    Raises NotAsPacketsError for another codec, B-frames, and pictures that are not upright; InvalidInput for
    what cannot be opened at all.
    """

    def __init__(self, source: Any, codec: Codec = "auto") -> None:
        av = need("av", "Reading videos and cameras")
        self.live = is_live(source)
        self._name = str(source)
        self._error = av.FFmpegError
        self._container = open_container(source)
        try:
            self._stream = self._container.streams.video[0]
            self.codec: Codec = self._codec(codec)
            rate = self._stream.average_rate or self._stream.guessed_rate
            self.fps = float(rate) if rate else None
            self._packets = self._demuxed()
            self._first = self._probed()
            self._filter = self._to_annex_b(av)
        except BaseException:
            self._container.close()
            raise

    def __iter__(self) -> Iterator[Frame]:
        first, self._first = self._first, []
        start: float | None = None
        for packet in self._filtered(first):
            at = packet.pts if packet.pts is not None else packet.dts
            time = None if at is None else float(at * packet.time_base)
            start = time if start is None else start
            key = packet.is_keyframe or self.codec == "mjpeg"
            yield Frame(
                Packet(bytes(packet), key_frame=key),
                time=None if time is None or start is None else time - start,
            )

    def close(self) -> None:
        """Let go of the file or device; closing twice does nothing."""
        self._container.close()

    def _codec(self, wanted: Codec) -> Codec:
        name: Any = self._stream.codec_context.name
        if name not in get_args(Codec) or wanted not in ("auto", name):
            asked = "" if wanted == "auto" else f", not {wanted}"
            raise self._unfit(f"it holds {name}{asked}")
        found: Codec = name
        return found

    def _probed(self) -> list[Any]:
        """The packets up to the first picture, which must be upright and come without delay."""
        context = self._stream.codec_context
        context.thread_count = 1  # several would hold pictures back
        read: list[Any] = []
        for packet in self._packets:
            if not read and not packet.is_keyframe:
                continue
            read.append(packet)
            pictures = packet.decode()
            if context.has_b_frames:
                raise self._unfit("it has B-frames, whose pictures come late and out of order")
            if pictures and round(pictures[0].rotation) % 360:
                raise self._unfit("its pictures are turned")
            if pictures:
                return read
            if len(read) == _PROBED:
                break
        raise InvalidInput.at("source", f"{self._name} has no pictures in it")

    def _unfit(self, why: str) -> NotAsPacketsError:
        advice = "send pictures (codec='image'), or encode it anew, as by ffmpeg -c:v libx264 -bf 0"
        return NotAsPacketsError.at("codec", f"{self._name} cannot be sent as packets: {why}; {advice}")

    def _to_annex_b(self, av: Any) -> Any:
        """Length prefixes become start codes, and parameter sets go before each key frame; None for JPEGs."""
        if self.codec == "mjpeg":
            return None
        extra = self._stream.codec_context.extradata or b""
        annexed = not extra or extra.startswith((b"\0\0\1", b"\0\0\0\1"))
        wanted = "dump_extra=freq=keyframe" if annexed else f"{self.codec}_mp4toannexb"
        return av.bitstream.BitStreamFilterContext(wanted, in_stream=self._stream)

    def _filtered(self, first: list[Any]) -> Iterator[Any]:
        for packets in (first, self._packets):
            for packet in packets:
                yield from (packet,) if self._filter is None else self._filter.filter(packet)

    def _demuxed(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:  # the last one is empty, and only tells decoders to finish
                    yield packet
        except self._error as error:
            raise InvalidInput.at("source", f"{self._name} broke off: {error.strerror or error}") from None
        finally:
            self.close()
