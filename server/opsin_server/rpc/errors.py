"""The one table from reasons to gRPC status codes, and how a failure is told over the wire.

Owns the form of an error: google.rpc.Status with exactly one ErrorInfo, the trailers that clients and proxies
obey, and what a stranger may learn of an unexpected exception (an id, nothing else). Knows nothing of models,
pictures or queues: inner rooms raise `Failure` and never see this module.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
import structlog
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from opsin_server.errors import QUOTE_LIMIT, Failure, Reason

__all__ = [
    "DOMAIN",
    "REFUSALS",
    "REQUEST_ID_TRAILER",
    "RULES",
    "Rule",
    "as_failure",
    "code_of",
    "message_of",
    "retry_after",
    "status_of",
    "trailers_of",
]

DOMAIN = "opsin"
REQUEST_ID_TRAILER = "opsin-request-id"
STATUS_TRAILER = "grpc-status-details-bin"
PUSHBACK_TRAILER = "grpc-retry-pushback-ms"
NEVER_RETRY = "-1"

MESSAGE_BYTES = 1000
"""A sentence is told twice (grpc-message, percent-encoded, and the details): with 1 000 bytes of UTF-8 both
stay well under the 8 KiB of headers that gRPC peers accept by default."""

_CODE = grpc.StatusCode
Trailers = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one reason is told.

    retry_after: seconds to wait when the failure itself does not say; None tells no time.
    never_retry: gRPC must not send the same call again, whatever its retry policy.
    quota: a limit was met, so QuotaFailure names it.
    """

    code: grpc.StatusCode
    retry_after: float | None = None
    never_retry: bool = False
    quota: bool = False


RULES: Mapping[Reason, Rule] = {
    Reason.MALFORMED_REQUEST: Rule(_CODE.INVALID_ARGUMENT),
    Reason.OPTION_INVALID: Rule(_CODE.INVALID_ARGUMENT),
    Reason.OPTION_UNSUPPORTED: Rule(_CODE.INVALID_ARGUMENT),
    Reason.LABEL_UNKNOWN: Rule(_CODE.INVALID_ARGUMENT),
    Reason.INPUT_MISSING: Rule(_CODE.INVALID_ARGUMENT),
    Reason.IMAGE_UNDECODABLE: Rule(_CODE.INVALID_ARGUMENT),
    Reason.IMAGE_TOO_LARGE: Rule(_CODE.INVALID_ARGUMENT),
    Reason.FORMAT_UNSUPPORTED: Rule(_CODE.INVALID_ARGUMENT),
    Reason.REGION_INVALID: Rule(_CODE.INVALID_ARGUMENT),
    Reason.TEXT_TOO_LONG: Rule(_CODE.INVALID_ARGUMENT),
    Reason.BATCH_TOO_LARGE: Rule(_CODE.INVALID_ARGUMENT),
    Reason.STREAM_PROTOCOL: Rule(_CODE.INVALID_ARGUMENT),
    Reason.SEQUENCE_NOT_INCREASING: Rule(_CODE.INVALID_ARGUMENT),
    Reason.CODEC_UNSUPPORTED: Rule(_CODE.INVALID_ARGUMENT),
    Reason.URI_DISABLED: Rule(_CODE.PERMISSION_DENIED),
    Reason.URI_NOT_ALLOWED: Rule(_CODE.PERMISSION_DENIED),
    Reason.URI_FETCH_FAILED: Rule(_CODE.INVALID_ARGUMENT),
    Reason.URI_TIMEOUT: Rule(_CODE.UNAVAILABLE),
    Reason.MODEL_NOT_FOUND: Rule(_CODE.NOT_FOUND),
    Reason.VERSION_NOT_FOUND: Rule(_CODE.NOT_FOUND),
    Reason.TASK_UNSUPPORTED: Rule(_CODE.FAILED_PRECONDITION),
    Reason.MODEL_NOT_READY: Rule(_CODE.UNAVAILABLE, retry_after=1.0),
    Reason.DRAINING: Rule(_CODE.UNAVAILABLE, retry_after=1.0),
    Reason.QUEUE_FULL: Rule(_CODE.RESOURCE_EXHAUSTED, retry_after=0.1, quota=True),
    Reason.STREAM_LIMIT: Rule(_CODE.RESOURCE_EXHAUSTED, retry_after=1.0, quota=True),
    Reason.QUOTA_EXCEEDED: Rule(_CODE.RESOURCE_EXHAUSTED, retry_after=1.0, quota=True),
    Reason.MEMORY_LIMIT: Rule(_CODE.RESOURCE_EXHAUSTED, retry_after=0.1, quota=True),
    Reason.DEADLINE_UNMEETABLE: Rule(_CODE.RESOURCE_EXHAUSTED, never_retry=True),
    Reason.DEADLINE_PASSED: Rule(_CODE.DEADLINE_EXCEEDED),
    Reason.RESUME_TOKEN_INVALID: Rule(_CODE.OUT_OF_RANGE),
    Reason.STREAM_TAKEN_OVER: Rule(_CODE.ABORTED),
    Reason.DETECTOR_FAILED: Rule(_CODE.INTERNAL),
    Reason.DETECTOR_BROKEN: Rule(_CODE.INTERNAL),
    Reason.DEVICE_MEMORY: Rule(_CODE.RESOURCE_EXHAUSTED, never_retry=True),
    Reason.LANE_LOST: Rule(_CODE.UNAVAILABLE, never_retry=True),
    Reason.MODEL_EXISTS: Rule(_CODE.ALREADY_EXISTS),
    Reason.MODEL_LOAD_FAILED: Rule(_CODE.FAILED_PRECONDITION),
    Reason.CREDENTIALS_MISSING: Rule(_CODE.UNAUTHENTICATED),
    Reason.CREDENTIALS_INVALID: Rule(_CODE.UNAUTHENTICATED),
    Reason.SCOPE_MISSING: Rule(_CODE.PERMISSION_DENIED),
}

REFUSALS: frozenset[Reason] = frozenset(
    {
        Reason.OPTION_INVALID,
        Reason.OPTION_UNSUPPORTED,
        Reason.LABEL_UNKNOWN,
        Reason.INPUT_MISSING,
        Reason.REGION_INVALID,
        Reason.TEXT_TOO_LONG,
        Reason.URI_DISABLED,
        Reason.URI_NOT_ALLOWED,
        Reason.MODEL_NOT_FOUND,
        Reason.VERSION_NOT_FOUND,
        Reason.TASK_UNSUPPORTED,
        Reason.MODEL_NOT_READY,
        Reason.MODEL_LOAD_FAILED,
        Reason.DRAINING,
        Reason.QUEUE_FULL,
        Reason.QUOTA_EXCEEDED,
        Reason.MEMORY_LIMIT,
        Reason.DEADLINE_UNMEETABLE,
        Reason.CREDENTIALS_MISSING,
        Reason.CREDENTIALS_INVALID,
        Reason.SCOPE_MISSING,
    }
)
"""Reasons given at the door: unless the failure says otherwise, its input was not admitted."""

_log = structlog.get_logger("opsin.rpc")


def code_of(failure: Failure) -> grpc.StatusCode:
    """The status code of a failure, by the table."""
    return RULES[failure.reason].code


def as_failure(error: BaseException) -> Failure:
    """What may be told of an exception: a `Failure` as it is; of anything else an id that the log has too."""
    if isinstance(error, Failure):
        return error
    error_id = secrets.token_hex(6)
    _log.error("unexpected error", error_id=error_id, exc_info=error)
    return Failure(
        Reason.DETECTOR_FAILED,
        f"The server failed on this request; its log has the details under error id {error_id}.",
        metadata={"error_id": error_id},
    )


def message_of(failure: Failure) -> str:
    """The failure's sentence, as much of it as fits into a trailer."""
    return _cut(failure.message)


def status_of(failure: Failure) -> status_pb2.Status:
    """The failure as google.rpc.Status, for a call, an item of a batch or a frame."""
    rule = RULES[failure.reason]
    message = message_of(failure)
    status = status_pb2.Status(code=rule.code.value[0], message=message)
    for detail in _details(failure, rule, message):
        status.details.add().Pack(detail)
    return status


def trailers_of(failure: Failure, request_id: str) -> Trailers:
    """Trailing metadata of a call that ends with this failure."""
    trailers: list[tuple[str, str | bytes]] = [
        (REQUEST_ID_TRAILER, request_id),
        (STATUS_TRAILER, status_of(failure).SerializeToString()),
    ]
    pushback = _pushback(failure)
    if pushback is not None:
        trailers.append((PUSHBACK_TRAILER, pushback))
    return tuple(trailers)


def _pushback(failure: Failure) -> str | None:
    """Milliseconds for gRPC's retry: for every RESOURCE_EXHAUSTED, and for what must never be retried."""
    if _never_retry(failure):
        return NEVER_RETRY
    if RULES[failure.reason].code is not _CODE.RESOURCE_EXHAUSTED:
        return None
    wait = retry_after(failure)
    return NEVER_RETRY if wait is None else str(max(1, round(wait * 1000)))


def _never_retry(failure: Failure) -> bool:
    """A time that the failure itself names outweighs the rule of its reason."""
    if failure.never_retry:
        return True
    return RULES[failure.reason].never_retry and failure.retry_after is None


def retry_after(failure: Failure) -> float | None:
    """Seconds after which trying again makes sense; None when it does not, or nobody can tell."""
    if _never_retry(failure):
        return None
    return RULES[failure.reason].retry_after if failure.retry_after is None else failure.retry_after


def _details(failure: Failure, rule: Rule, message: str) -> list[Message]:
    metadata = {key: _cut_value(value) for key, value in failure.metadata.items()}
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=failure.reason.value, domain=DOMAIN, metadata=metadata)
    ]
    if failure.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=failure.field, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    wait = retry_after(failure)
    if wait is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMicroseconds(round(wait * 1e6))
        details.append(retry)
    if rule.quota:
        subject = f"{DOMAIN}/{failure.reason.value.lower()}"
        quota = error_details_pb2.QuotaFailure.Violation(subject=subject, description=message)
        details.append(error_details_pb2.QuotaFailure(violations=[quota]))
    return details


def _cut(message: str) -> str:
    """At most MESSAGE_BYTES of UTF-8, whole characters only."""
    data = message.encode("utf-8", "replace")
    if len(data) <= MESSAGE_BYTES:
        return data.decode()
    return data[: MESSAGE_BYTES - 3].decode("utf-8", "ignore") + "…"


def _cut_value(value: str) -> str:
    shown = value.encode("utf-8", "replace").decode()
    return shown if len(shown) <= QUOTE_LIMIT else shown[: QUOTE_LIMIT - 1] + "…"
