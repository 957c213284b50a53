"""Base-128 numbers of the wire format, as tags and lengths are written
(https://protobuf.dev/programming-guides/encoding/#varints). Knows no messages."""

__all__ = ["read", "spelled"]


def read(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. Raises IndexError when it does not within 64 bits."""
    first = data[at]
    if first < 0x80:
        return first, at + 1
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError(at)


def spelled(value: int) -> bytes:
    """The bytes of a number, as few as can be. value: 0 or more."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
