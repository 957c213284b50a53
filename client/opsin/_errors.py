"""Every exception this library raises, and the one table from status code and reason to exception.

    OpsinError                          the base; `except opsin.OpsinError` catches everything below
    ├── InvalidInput                    an input or an option is wrong; also a ValueError
    │   └── MessageTooLarge             over the message limit, here or at the server
    ├── NotFound                        there is no such thing
    │   └── ModelNotFound               no such model, version or label; see `nearest`
    ├── AlreadyExists                   there is such a version already
    ├── FailedPrecondition              not in the state that it would take
    │   ├── TaskUnsupported             the model cannot do this; see `tasks`
    │   └── ModelLoadFailed             the model could not be loaded
    ├── Unauthenticated                 no credentials, or wrong ones
    ├── PermissionDenied                not yours, or switched off
    ├── Overloaded                      the server has too much to do; see `retry_after`
    ├── DeadlineExceeded                no answer in time; also a TimeoutError
    ├── Unavailable                     not now; also a ConnectionError
    │   ├── Unreachable                 nobody answers at this address, or the connection broke
    │   ├── ModelNotReady               the model is being loaded or unloaded
    │   ├── Draining                    the server is shutting down
    │   └── InputLost                   the device stalled or died with this input on it
    ├── StreamError                     the rules of a stream were broken, or it was ended
    │   ├── ResumeTokenInvalid          the token to go on with is unknown or too old
    │   └── StreamTakenOver             another stream with the same id took over
    ├── ServerFailed                    the server's fault
    │   └── DetectorFailed              the detector raised or broke its promise; see `error_id`
    ├── Unimplemented                   the server does not know this call
    ├── Cancelled                       the call was cancelled
    ├── ClientClosed                    the client was used after `close`
    └── MissingExtra                    a package is not installed; also an ImportError

Knows neither gRPC nor protobuf: `_status` reads those.
"""

# ruff: noqa: N818 - named for what happened, as in the standard library: TimeoutError is the odd one out there

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

__all__ = [
    "AlreadyExists",
    "Cancelled",
    "ClientClosed",
    "Code",
    "DeadlineExceeded",
    "DetectorFailed",
    "Draining",
    "FailedPrecondition",
    "FieldViolation",
    "InputLost",
    "InvalidInput",
    "MessageTooLarge",
    "MissingExtra",
    "ModelLoadFailed",
    "ModelNotFound",
    "ModelNotReady",
    "NotFound",
    "OpsinError",
    "Overloaded",
    "PermissionDenied",
    "ResumeTokenInvalid",
    "ServerFailed",
    "StreamError",
    "StreamTakenOver",
    "TaskUnsupported",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unreachable",
    "error_class",
]


class Code(IntEnum):
    """The status codes of gRPC, by their numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field. field: path from the request's root, such as `options.min_score`."""

    field: str
    description: str


class OpsinError(Exception):
    """Anything that went wrong, with all that is known about it.

    code: the status code of the call; for errors found before sending, the one that the server would give.
    reason: why, for programs: one of the contract's reasons (`QUEUE_FULL`), empty when no server said so.
    message: why, for people; also `str(error)`.
    metadata: the variables of the message.
    violations: the fields to blame.
    retry_after: seconds after which trying again makes sense; None: nothing is known.
    never_retry: trying again cannot help.
    request_id: names the call in the server's log; empty when no server answered.
    """

    default_code = Code.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: Code | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        never_retry: bool = False,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.never_retry = never_retry
        self.request_id = request_id

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "error": type(self).__name__,
            "code": self.code.name,
            "reason": self.reason,
            "message": self.message,
            "metadata": self.metadata,
            "violations": [{"field": v.field, "description": v.description} for v in self.violations],
            "retry_after": self.retry_after,
            "request_id": self.request_id,
        }


class InvalidInput(OpsinError, ValueError):
    """The input or an option is wrong; the message says what would be right."""

    default_code = Code.INVALID_ARGUMENT

    @classmethod
    def at(cls, field: str, message: str) -> Self:
        """An error found before sending, with the field to blame."""
        return cls(message, violations=[FieldViolation(field, message)])


class MessageTooLarge(InvalidInput):
    """The request or the answer is larger than the message limit of the client or of the server."""

    default_code = Code.RESOURCE_EXHAUSTED


class NotFound(OpsinError):
    """There is no such thing."""

    default_code = Code.NOT_FOUND


class ModelNotFound(NotFound):
    """There is no such model, or no such version or label of it."""

    @property
    def nearest(self) -> tuple[str, ...]:
        """Names that exist and look alike, the likeliest first; may be empty."""
        return _split(self.metadata.get("nearest", ""))


class AlreadyExists(OpsinError):
    """There is such a version of the model already."""

    default_code = Code.ALREADY_EXISTS


class FailedPrecondition(OpsinError):
    """Something is not in the state that the call would take."""

    default_code = Code.FAILED_PRECONDITION


class TaskUnsupported(FailedPrecondition):
    """The model cannot do what was asked, such as embed, or read a text."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the model can do."""
        return _split(self.metadata.get("tasks", ""))


class ModelLoadFailed(FailedPrecondition):
    """The model's source is missing, or loading it failed."""


class Unauthenticated(OpsinError):
    """The server wants to know who calls: give the client a `token`, or a right one."""

    default_code = Code.UNAUTHENTICATED


class PermissionDenied(OpsinError):
    """The server knows who calls and does not allow it, or allows it to nobody."""

    default_code = Code.PERMISSION_DENIED


class Overloaded(OpsinError):
    """The server has too much to do, or the caller has used up its share.

    Calls were retried already, as long as the server said that it helps and the deadline allowed it.
    """

    default_code = Code.RESOURCE_EXHAUSTED


class DeadlineExceeded(OpsinError, TimeoutError):
    """There was no answer within the timeout."""

    default_code = Code.DEADLINE_EXCEEDED


class Unavailable(OpsinError, ConnectionError):
    """The server cannot answer now."""

    default_code = Code.UNAVAILABLE


class Unreachable(Unavailable):
    """Nobody answers at the target, or the connection broke."""


class ModelNotReady(Unavailable):
    """The model is being loaded or unloaded."""


class Draining(Unavailable):
    """The server is shutting down; another one should answer."""


class InputLost(Unavailable):
    """The device stalled or died with this input on it. Sending it again may do the same again."""


class StreamError(OpsinError):
    """The rules of a stream were broken, or the server ended it."""

    default_code = Code.ABORTED


class ResumeTokenInvalid(StreamError):
    """The token to go on with is unknown to this server, or older than ten minutes."""

    default_code = Code.OUT_OF_RANGE


class StreamTakenOver(StreamError):
    """Another stream with the same `stream_id` took over."""


class ServerFailed(OpsinError):
    """The server made a mistake; its log knows more, under `request_id`."""

    default_code = Code.INTERNAL


class DetectorFailed(ServerFailed):
    """The detector raised, or did not answer as it must."""

    @property
    def error_id(self) -> str:
        """Names the fault in the server's log; may be empty."""
        return self.metadata.get("error_id", "")


class Unimplemented(OpsinError):
    """The server does not know this call: it may be older than the client, or no Opsin server."""

    default_code = Code.UNIMPLEMENTED


class Cancelled(OpsinError):
    """The call was cancelled, here or on the way."""

    default_code = Code.CANCELLED


class ClientClosed(OpsinError):
    """The client, or the stream, was used after it had been closed."""

    default_code = Code.CANCELLED


class MissingExtra(OpsinError, ImportError):
    """A package that this takes is not installed. extra: the part of `opsin[extra]` that brings it."""

    default_code = Code.FAILED_PRECONDITION

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} takes {package}, which is not installed: pip install 'opsin[{extra}]'")
        self.extra = extra


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


# One row: a code, the exception, and the reasons that lead to it. The empty reason stands for every reason
# that has no row, and for errors that no Opsin server made.
_TABLE: tuple[tuple[Code, type[OpsinError], tuple[str, ...]], ...] = (
    (Code.OK, OpsinError, ("",)),
    (Code.CANCELLED, Cancelled, ("",)),
    (Code.UNKNOWN, ServerFailed, ("",)),
    (
        Code.INVALID_ARGUMENT,
        InvalidInput,
        (
            "",
            "MALFORMED_REQUEST",
            "OPTION_INVALID",
            "OPTION_UNSUPPORTED",
            "LABEL_UNKNOWN",
            "INPUT_MISSING",
            "IMAGE_UNDECODABLE",
            "IMAGE_TOO_LARGE",
            "FORMAT_UNSUPPORTED",
            "REGION_INVALID",
            "TEXT_TOO_LONG",
            "BATCH_TOO_LARGE",
            "CODEC_UNSUPPORTED",
            "URI_FETCH_FAILED",
        ),
    ),
    (Code.INVALID_ARGUMENT, StreamError, ("STREAM_PROTOCOL", "SEQUENCE_NOT_INCREASING")),
    (Code.DEADLINE_EXCEEDED, DeadlineExceeded, ("", "DEADLINE_PASSED")),
    (Code.NOT_FOUND, NotFound, ("",)),
    (Code.NOT_FOUND, ModelNotFound, ("MODEL_NOT_FOUND", "VERSION_NOT_FOUND")),
    (Code.ALREADY_EXISTS, AlreadyExists, ("", "MODEL_EXISTS")),
    (Code.PERMISSION_DENIED, PermissionDenied, ("", "URI_DISABLED", "URI_NOT_ALLOWED", "SCOPE_MISSING")),
    (
        Code.RESOURCE_EXHAUSTED,
        Overloaded,
        (
            "",
            "QUEUE_FULL",
            "STREAM_LIMIT",
            "QUOTA_EXCEEDED",
            "MEMORY_LIMIT",
            "DEADLINE_UNMEETABLE",
            "DEVICE_MEMORY",
        ),
    ),
    (Code.FAILED_PRECONDITION, FailedPrecondition, ("",)),
    (Code.FAILED_PRECONDITION, TaskUnsupported, ("TASK_UNSUPPORTED",)),
    (Code.FAILED_PRECONDITION, ModelLoadFailed, ("MODEL_LOAD_FAILED",)),
    (Code.ABORTED, StreamError, ("",)),
    (Code.ABORTED, StreamTakenOver, ("STREAM_TAKEN_OVER",)),
    (Code.OUT_OF_RANGE, InvalidInput, ("",)),
    (Code.OUT_OF_RANGE, ResumeTokenInvalid, ("RESUME_TOKEN_INVALID",)),
    (Code.UNIMPLEMENTED, Unimplemented, ("",)),
    (Code.INTERNAL, ServerFailed, ("",)),
    (Code.INTERNAL, DetectorFailed, ("DETECTOR_FAILED", "DETECTOR_BROKEN")),
    (Code.UNAVAILABLE, Unavailable, ("", "URI_TIMEOUT")),
    (Code.UNAVAILABLE, ModelNotReady, ("MODEL_NOT_READY",)),
    (Code.UNAVAILABLE, Draining, ("DRAINING",)),
    (Code.UNAVAILABLE, InputLost, ("LANE_LOST",)),
    (Code.DATA_LOSS, ServerFailed, ("",)),
    (Code.UNAUTHENTICATED, Unauthenticated, ("", "CREDENTIALS_MISSING", "CREDENTIALS_INVALID")),
)

_CLASSES = {(code, reason): kind for code, kind, reasons in _TABLE for reason in reasons}


def error_class(code: Code, reason: str = "") -> type[OpsinError]:
    """The exception for a status code and a reason; a reason that is unknown falls back to its code."""
    return _CLASSES.get((code, reason)) or _CLASSES[code, ""]


def known_reasons() -> frozenset[tuple[Code, str]]:
    """Every code with every reason that the table names; for the test that compares it with the contract."""
    return frozenset((code, reason) for code, reason in _CLASSES if reason)
