"""The same picture as ever new files. Needs nothing, so that callers in any environment can use it."""

__all__ = ["numbered"]


def numbered(jpeg: bytes, number: int) -> bytes:
    """The same picture as a different file: a comment segment behind the start-of-image marker."""
    return jpeg[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + jpeg[2:]
