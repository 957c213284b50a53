"""What an H.264 or HEVC packet says of itself, read without decoding it.

Owns as much of both syntaxes as the decoder in `video.py` needs to know beforehand: which units a packet has,
how large the pictures will be, whether it can be decoded on its own, and whether one before it is missing.
Must not know FFmpeg. References: ITU-T H.264 (2021) 7.3, annex B; H.265 (2021) 7.3, annex B.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["MAX_UNITS", "BitstreamError", "H264Syntax", "HevcSyntax", "Packet", "Size", "Syntax", "units"]

MAX_UNITS = 1024
"""Units in a packet. A picture has a few, with many slices a few dozen; each is a step of a Python loop."""

_HEADER_BYTES = 64  # of a slice, more than the fields that are read can fill
_SET_BYTES = 4096  # of a parameter set


class BitstreamError(ValueError):
    """The bytes are no packet of this codec; the message completes "The packet cannot be decoded: "."""


@dataclass(frozen=True, slots=True)
class Size:
    """Size of the coded pictures in pixels, before cropping."""

    width: int
    height: int


@dataclass(slots=True)
class Packet:
    """What was found in a packet.

    picture: it has one. key: decoding can begin here. parameters: it has parameter sets. sizes: that these
    give.
    bidirectional: the picture refers to later ones. disposable: no other picture refers to it. gap: a picture
    that this one may refer to is missing.
    """

    picture: bool = False
    key: bool = False
    parameters: bool = False
    sizes: tuple[Size, ...] = ()
    bidirectional: bool = False
    disposable: bool = False
    gap: bool = False


class Syntax(Protocol):
    """Reads packets of one stream in order, and remembers its parameter sets."""

    def read(self, data: bytes) -> Packet:
        """What is in a packet. Raises `BitstreamError`."""
        ...


def units(data: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of each unit between Annex B start codes, its header byte included."""
    at = data.find(b"\0\0\1")
    if at < 0:
        raise BitstreamError("it has no Annex B start code (00 00 01); length prefixes are not understood")
    for _ in range(MAX_UNITS):
        start = at + 3
        at = data.find(b"\0\0\1", start)
        if start < len(data):
            yield start, at if at >= 0 else len(data)
        if at < 0:
            return
    raise BitstreamError(f"it has more than {MAX_UNITS} units")


class _Bits:
    """A bit reader over a unit's payload, its emulation prevention bytes taken out."""

    __slots__ = ("_left", "_value")

    def __init__(self, data: bytes) -> None:
        raw = data.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(raw, "big")
        self._left = 8 * len(raw)

    def u(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        self._left -= count
        if self._left < 0:
            raise BitstreamError("a header ends too soon")
        return (self._value >> self._left) & ((1 << count) - 1)

    def ue(self) -> int:
        """An Exp-Golomb code."""
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > 32:
                raise BitstreamError("a header holds a number that is too large")
        return (1 << zeros) - 1 + self.u(zeros)

    def skip_signed(self) -> int:
        """A signed Exp-Golomb code."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)


# H.264

_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_RECOVERY_POINT = 6


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Of an H.264 sequence parameter set, what slices and the size need."""

    size: Size
    frame_num_bits: int
    gaps_allowed: bool
    separate_planes: bool


class H264Syntax:
    """H.264 packets of one stream."""

    def __init__(self) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, int] = {}  # picture parameter set -> sequence parameter set
        self._frame_num: int | None = None  # of the last reference picture

    def read(self, data: bytes) -> Packet:
        """What is in a packet. Raises `BitstreamError`."""
        packet = Packet()
        for start, end in units(data):
            kind = data[start] & 31
            if kind == 7:
                self._sequence(data[start + 1 : min(end, start + _SET_BYTES)], packet)
            elif kind == 8:
                self._picture(data[start + 1 : start + _HEADER_BYTES], packet)
            elif kind == 6:
                packet.key = packet.key or _has_recovery_point(data[start + 1 : min(end, start + _SET_BYTES)])
            elif kind in (1, 2, 5) and not packet.picture:
                self._slice(data, start, packet)
        packet.key = packet.key and packet.picture
        return packet

    def _sequence(self, payload: bytes, packet: Packet) -> None:
        bits = _Bits(payload)
        profile = bits.u(8)
        bits.u(16)
        number = bits.ue()
        chroma, separate = 1, 0
        if profile in _HIGH_PROFILES:
            chroma = bits.ue()
            separate = bits.u(1) if chroma == 3 else 0
            bits.ue()
            bits.ue()
            bits.u(1)
            if bits.u(1):
                _skip_scaling_lists(bits, 8 if chroma != 3 else 12)
        frame_num_bits = bits.ue() + 4
        _skip_order_count(bits)
        bits.ue()
        gaps_allowed = bits.u(1)
        width, map_height = bits.ue() + 1, bits.ue() + 1
        size = Size(16 * width, 16 * map_height * (2 - bits.u(1)))
        if number > 31 or frame_num_bits > 16:
            raise BitstreamError("its sequence parameter set is out of range")
        self._sequences[number] = _Sequence(size, frame_num_bits, bool(gaps_allowed), bool(separate))
        packet.sizes += (size,)
        packet.parameters = True

    def _picture(self, payload: bytes, packet: Packet) -> None:
        bits = _Bits(payload)
        number = bits.ue()
        if number > 255:
            raise BitstreamError("its picture parameter set is out of range")
        self._pictures[number] = bits.ue()
        packet.parameters = True

    def _slice(self, data: bytes, start: int, packet: Packet) -> None:
        packet.picture = True
        bits = _Bits(data[start + 1 : start + _HEADER_BYTES])
        bits.ue()
        packet.bidirectional = bits.ue() % 5 == 1
        sequence = self._sequences.get(self._pictures.get(bits.ue(), -1))
        reference = bool(data[start] & 0x60)
        packet.disposable = not reference
        packet.key = packet.key or data[start] & 31 == 5
        if sequence is None:
            return  # nothing to go by; the decoder will say so
        if sequence.separate_planes:
            bits.u(2)
        self._follow(bits.u(sequence.frame_num_bits), sequence, packet, reference=reference)

    def _follow(self, number: int, sequence: _Sequence, packet: Packet, *, reference: bool) -> None:
        """`frame_num` counts reference pictures (7.4.3): it stays, or goes up by one."""
        last = self._frame_num
        if not packet.key and last is not None and not sequence.gaps_allowed:
            packet.gap = number not in (last, (last + 1) % (1 << sequence.frame_num_bits))
        if reference:
            self._frame_num = number


def _skip_order_count(bits: _Bits) -> None:
    kind = bits.ue()
    if kind == 0:
        bits.ue()
    elif kind == 1:
        bits.u(1)
        bits.ue()
        bits.ue()
        for _ in range(min(bits.ue(), 256)):
            bits.ue()


def _skip_scaling_lists(bits: _Bits, count: int) -> None:
    for index in range(count):
        if not bits.u(1):
            continue
        last = following = 8
        for _ in range(16 if index < 6 else 64):
            if following:
                following = (last + bits.skip_signed() + 256) % 256
            last = following or last


def _has_recovery_point(payload: bytes) -> bool:
    """Whether a supplemental information unit says that decoding can begin here."""
    at = 0
    while at + 2 < len(payload):
        kind = size = 0
        while at < len(payload) and payload[at] == 0xFF:
            kind, at = kind + 255, at + 1
        kind, at = kind + payload[at], at + 1
        while at < len(payload) and payload[at] == 0xFF:
            size, at = size + 255, at + 1
        if at >= len(payload):
            return False
        if kind == _RECOVERY_POINT:
            return True
        at += 1 + size + payload[at]
    return False


# HEVC


class HevcSyntax:
    """HEVC packets of one stream. A missing reference is found by the decoder, which knows each by its
    number.
    """

    def read(self, data: bytes) -> Packet:
        """What is in a packet. Raises `BitstreamError`."""
        packet = Packet()
        for start, end in units(data):
            kind = (data[start] >> 1) & 63
            if kind == 33:
                packet.sizes += (_hevc_size(data[start + 2 : min(end, start + _SET_BYTES)]),)
                packet.parameters = True
            elif kind in (32, 34):
                packet.parameters = True
            elif kind < 32:
                packet.picture = True
                packet.key = packet.key or 16 <= kind <= 23
        return packet


def _hevc_size(payload: bytes) -> Size:
    """From a sequence parameter set (7.3.2.2)."""
    bits = _Bits(payload)
    bits.u(4)
    layers = bits.u(3)
    bits.u(1 + 96)  # the general profile, tier and level
    present = [(bits.u(1), bits.u(1)) for _ in range(layers)]
    if layers:
        bits.u(2 * (8 - layers))
    for profile, level in present:
        bits.u(88 * profile + 8 * level)
    bits.ue()
    if bits.ue() == 3:
        bits.u(1)
    return Size(bits.ue(), bits.ue())
