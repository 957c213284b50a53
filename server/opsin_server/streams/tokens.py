"""Resume tokens: what a client carries from one server to the next so that its stream goes on there.

    version (1 byte) | body | HMAC-SHA256 over both, cut to 16 bytes

The body is big-endian: issued (epoch milliseconds, u64), next sequence (u64), then stream_id, tenant, model
and tracker, each a u16 length and its bytes. Signed, not encrypted: the client may read it, and cannot change
it. Pure but for the random secret where none is set; the time is passed in, and is wall time, which servers
share.
"""

import hashlib
import hmac
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from opsin_server.errors import Failure, Reason

__all__ = ["LIFETIME", "ResumeToken", "TokenSigner"]

LIFETIME = 600.0
"""Seconds for which a token is good."""

_SKEW = 60.0  # seconds that another server's clock may be ahead
_VERSION = 1
_HEAD = struct.Struct(">BQQ")
_LENGTH = struct.Struct(">H")
_SIGNATURE_BYTES = 16


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """Where a stream stands.

    next_sequence: the last sequence answered + 1; 0 when nothing was answered and the stream may start
    anywhere. model: `name@version` that looked at the frames. tracker: its snapshot, empty without
    tracking. Each part has at most 65 535 bytes.
    """

    stream_id: str
    tenant: str = ""
    next_sequence: int = 0
    model: str = ""
    tracker: bytes = b""


class TokenSigner:
    """Signs tokens and reads them back. Servers with the same secret read each other's.

    secret: any bytes; empty makes a random one, so that only this process reads its tokens.
    """

    def __init__(self, secret: bytes = b"") -> None:
        # A key of its own, so that the same secret may serve other purposes.
        self._key = hmac.digest(secret or secrets.token_bytes(32), b"opsin resume token", "sha256")

    def sign(self, token: ResumeToken, now: float) -> bytes:
        """The token as the client carries it; good for `LIFETIME` from `now`, epoch seconds."""
        body = _HEAD.pack(_VERSION, int(now * 1000), token.next_sequence)
        for part in (token.stream_id.encode(), token.tenant.encode(), token.model.encode(), token.tracker):
            body += _LENGTH.pack(len(part)) + part
        return body + self._signature(body)

    def read(self, data: bytes, now: float, *, tenant: str = "", stream_id: str = "") -> ResumeToken:
        """The token, when it is ours, of this tenant (and this stream, where one is named), and not too old.

        Raises `Failure` RESUME_TOKEN_INVALID, which does not tell a stranger's token from a broken one.
        """
        body, signature = data[:-_SIGNATURE_BYTES], data[-_SIGNATURE_BYTES:]
        if len(body) < _HEAD.size or not hmac.compare_digest(signature, self._signature(body)):
            raise _invalid("is unknown to this server")
        version, issued, next_sequence = _HEAD.unpack_from(body)
        if version != _VERSION:
            raise _invalid("is of another version of the server")
        if not now - LIFETIME <= issued / 1000 <= now + _SKEW:
            raise _invalid(f"is older than {LIFETIME:.0f} seconds")
        name, owner, model, tracker = _parts(body)
        token = ResumeToken(name.decode(), owner.decode(), next_sequence, model.decode(), tracker)
        if token.tenant != tenant:
            raise _invalid("is unknown to this server")
        if stream_id and token.stream_id != stream_id:
            raise _invalid("belongs to a stream of another name")
        return token

    def _signature(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, hashlib.sha256)[:_SIGNATURE_BYTES]


def _parts(body: bytes) -> Iterator[bytes]:
    """The parts with a length before them. Only signed bodies get here, so they are well formed."""
    at = _HEAD.size
    while at < len(body):
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        yield body[at : at + length]
        at += length


def _invalid(why: str) -> Failure:
    return Failure(
        Reason.RESUME_TOKEN_INVALID,
        f"The resume token {why}; open the stream without it.",
        "resume_token",
    )
