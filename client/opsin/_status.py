"""From what gRPC reports to the exceptions of `_errors`.

Reads google.rpc.Status with its details (ErrorInfo, BadRequest, RetryInfo) out of a failed call's trailers,
and recognises the errors that gRPC makes by itself, which carry none. Imports no grpc: calls of grpc and of
grpc.aio have the same three methods.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from opsin._errors import (
    Code,
    DeadlineExceeded,
    FieldViolation,
    MessageTooLarge,
    OpsinError,
    Unreachable,
    error_class,
)

if TYPE_CHECKING:
    from google.rpc.status_pb2 import Status

__all__ = ["REQUEST_ID", "FailedCall", "error_from_call", "error_from_status", "request_id_of"]

REQUEST_ID = "opsin-request-id"
_DETAILS = "grpc-status-details-bin"
_PUSHBACK = "grpc-retry-pushback-ms"
_DOMAIN = "opsin"


class FailedCall(Protocol):
    """What grpc.RpcError (of a call) and grpc.aio.AioRpcError have in common."""

    def code(self) -> Any: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Any: ...


def error_from_call(call: FailedCall, *, target: str, timeout: float | None) -> OpsinError:
    """The exception for a call that ended with a status other than OK.

    target, timeout: what the call was made with, for the messages of errors that gRPC makes itself.
    """
    trailers = _trailers(call.trailing_metadata())
    code = Code(call.code().value[0])
    details = call.details() or ""
    status = _status(trailers.get(_DETAILS))
    error = error_from_status(status) if status else _made_by_grpc(code, details, target, timeout)
    error.request_id = str(trailers.get(REQUEST_ID, ""))
    _read_pushback(error, trailers.get(_PUSHBACK))
    return error


def error_from_status(status: "Status") -> OpsinError:
    """The exception for a google.rpc.Status: of a call, of one item of a batch, or of one frame."""
    found: dict[str, Any] = {}
    for detail in status.details:
        if read := _readers().get(detail.type_url.rpartition("/")[2]):
            found.update(read(detail))
    code = Code(status.code) if status.code in Code.__members__.values() else Code.UNKNOWN
    kind = error_class(code, found.get("reason", ""))
    return kind(status.message or code.name, code=code, **found)


def request_id_of(trailing_metadata: Any) -> str:
    """The server's name for a call, from its trailers; empty when there is none."""
    return str(_trailers(trailing_metadata).get(REQUEST_ID, ""))


def _trailers(metadata: Iterable[tuple[str, Any]] | None) -> dict[str, Any]:
    return dict(metadata or ())


def _status(packed: bytes | None) -> "Status | None":
    if packed is None:
        return None
    from google.protobuf.message import DecodeError
    from google.rpc.status_pb2 import Status

    try:
        return Status.FromString(packed)
    except DecodeError:
        return None


def _readers() -> dict[str, Callable[[Any], dict[str, Any]]]:
    return {
        "google.rpc.ErrorInfo": _error_info,
        "google.rpc.BadRequest": _bad_request,
        "google.rpc.RetryInfo": _retry_info,
    }


def _error_info(detail: Any) -> dict[str, Any]:
    from google.rpc.error_details_pb2 import ErrorInfo

    info = ErrorInfo()
    # Reasons of another domain (a proxy's, a cloud's) are not ours to interpret.
    if not detail.Unpack(info) or info.domain != _DOMAIN:
        return {}
    return {"reason": info.reason, "metadata": dict(info.metadata)}


def _bad_request(detail: Any) -> dict[str, Any]:
    from google.rpc.error_details_pb2 import BadRequest

    bad = BadRequest()
    detail.Unpack(bad)
    return {"violations": [FieldViolation(v.field, v.description) for v in bad.field_violations]}


def _retry_info(detail: Any) -> dict[str, Any]:
    from google.rpc.error_details_pb2 import RetryInfo

    info = RetryInfo()
    detail.Unpack(info)
    return {"retry_after": info.retry_delay.ToNanoseconds() / 1e9}


def _read_pushback(error: OpsinError, pushback: str | bytes | None) -> None:
    """Take `grpc-retry-pushback-ms` over: negative, or no number, means never retry (gRFC A6)."""
    if pushback is None:
        return
    try:
        wait_ms = int(pushback)
    except ValueError:
        wait_ms = -1
    if wait_ms < 0:
        error.never_retry, error.retry_after = True, None
    elif error.retry_after is None:
        error.retry_after = wait_ms / 1000


def _made_by_grpc(code: Code, details: str, target: str, timeout: float | None) -> OpsinError:
    match code:
        case Code.UNAVAILABLE:
            return Unreachable(f"no answer from {target}: {details or 'the connection broke'}", code=code)
        case Code.DEADLINE_EXCEEDED:
            limit = "in time" if timeout is None else f"within {timeout:g} s"
            return DeadlineExceeded(f"no answer from {target} {limit}", code=code)
        case Code.RESOURCE_EXHAUSTED if "larger than max" in details:
            return MessageTooLarge(
                f"message over the limit of {target} or of this client: {details}", code=code
            )
        case _:
            return error_class(code)(details or code.name, code=code)
