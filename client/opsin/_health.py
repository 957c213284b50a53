"""grpc.health.v1 by hand: one field each way, so that the base install needs no package for it.

message HealthCheckRequest  { string service = 1; }
message HealthCheckResponse { ServingStatus status = 1; }

The status is UNKNOWN 0, SERVING 1, NOT_SERVING 2 or SERVICE_UNKNOWN 3.
"""

from opsin._models import Health
from opsin._spelling import spelled

__all__ = ["CHECK", "LOOK_AGAIN", "WATCH", "health", "request"]

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
LOOK_AGAIN = 0.1
"""Seconds until a watch is opened again that the server ended, or that found nobody."""

_STATUSES = (Health.UNKNOWN, Health.SERVING, Health.NOT_SERVING, Health.SERVICE_UNKNOWN)
_SERVICE_FIELD = 0x0A  # field 1, length-delimited
_STATUS_FIELD = 0x08  # field 1, varint


@spelled
def request(service: str) -> bytes:
    """A HealthCheckRequest."""
    name = service.encode()
    return bytes([_SERVICE_FIELD]) + _varint(len(name)) + name if name else b""


def health(reply: bytes) -> Health:
    """The status of a HealthCheckResponse. An empty message is UNKNOWN, and so is what cannot be read."""
    if len(reply) >= 2 and reply[0] == _STATUS_FIELD and reply[1] < len(_STATUSES):
        return _STATUSES[reply[1]]
    return Health.UNKNOWN


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
