"""Everything that can go wrong with a call, in the server's own words.

Inner rooms raise `Failure` with a `Reason` and a sentence. They know nothing of gRPC: `rpc/errors.py` holds
the one table that turns a reason into a status code, and puts the rest into the error details.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["QUOTE_LIMIT", "Failure", "Reason", "quote"]

QUOTE_LIMIT = 200
"""Characters of a request that an error may quote: trailers have a size limit of their own."""


class Reason(StrEnum):
    """Why a call, an item or a frame failed; the `reason` of ErrorInfo on the wire."""

    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    OPTION_INVALID = "OPTION_INVALID"
    OPTION_UNSUPPORTED = "OPTION_UNSUPPORTED"
    LABEL_UNKNOWN = "LABEL_UNKNOWN"
    INPUT_MISSING = "INPUT_MISSING"
    IMAGE_UNDECODABLE = "IMAGE_UNDECODABLE"
    IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"
    FORMAT_UNSUPPORTED = "FORMAT_UNSUPPORTED"
    REGION_INVALID = "REGION_INVALID"
    TEXT_TOO_LONG = "TEXT_TOO_LONG"
    BATCH_TOO_LARGE = "BATCH_TOO_LARGE"
    STREAM_PROTOCOL = "STREAM_PROTOCOL"
    SEQUENCE_NOT_INCREASING = "SEQUENCE_NOT_INCREASING"
    CODEC_UNSUPPORTED = "CODEC_UNSUPPORTED"
    URI_DISABLED = "URI_DISABLED"
    URI_NOT_ALLOWED = "URI_NOT_ALLOWED"
    URI_FETCH_FAILED = "URI_FETCH_FAILED"
    URI_TIMEOUT = "URI_TIMEOUT"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    VERSION_NOT_FOUND = "VERSION_NOT_FOUND"
    TASK_UNSUPPORTED = "TASK_UNSUPPORTED"
    MODEL_NOT_READY = "MODEL_NOT_READY"
    DRAINING = "DRAINING"
    QUEUE_FULL = "QUEUE_FULL"
    STREAM_LIMIT = "STREAM_LIMIT"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    MEMORY_LIMIT = "MEMORY_LIMIT"
    DEADLINE_UNMEETABLE = "DEADLINE_UNMEETABLE"
    DEADLINE_PASSED = "DEADLINE_PASSED"
    RESUME_TOKEN_INVALID = "RESUME_TOKEN_INVALID"  # noqa: S105
    STREAM_TAKEN_OVER = "STREAM_TAKEN_OVER"
    DETECTOR_FAILED = "DETECTOR_FAILED"
    DETECTOR_BROKEN = "DETECTOR_BROKEN"
    DEVICE_MEMORY = "DEVICE_MEMORY"
    LANE_LOST = "LANE_LOST"
    MODEL_EXISTS = "MODEL_EXISTS"
    MODEL_LOAD_FAILED = "MODEL_LOAD_FAILED"
    CREDENTIALS_MISSING = "CREDENTIALS_MISSING"
    CREDENTIALS_INVALID = "CREDENTIALS_INVALID"
    SCOPE_MISSING = "SCOPE_MISSING"


@dataclass(eq=False)
class Failure(Exception):  # noqa: N818  a value too: items of a batch carry it without raising
    """One failure, complete enough to be told to the caller.

    field: path of the offending field from the root of the message that the raising room was given
        (`options.min_score`, `image.encoded`); `within` puts a prefix before it. Empty: no field is to blame.
    metadata: the variables of the message, for programs.
    retry_after: seconds after which trying again makes sense; None says nothing about it.
    never_retry: trying again cannot help.
    admitted: the input had come in and work had been done for it, so this is no refusal whatever its reason.
    """

    reason: Reason
    message: str
    field: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retry_after: float | None = None
    never_retry: bool = False
    admitted: bool = False

    def __post_init__(self) -> None:
        super().__init__(self.message)

    def within(self, prefix: str) -> "Failure":
        """The same failure, seen from a message that holds this one under `prefix`."""
        if not self.field:
            return self
        return dataclasses.replace(self, field=f"{prefix}.{self.field}")

    def __str__(self) -> str:
        return self.message


def quote(text: str) -> str:
    """`text` as it may appear in an error: cut at 200 characters, in quotation marks."""
    shown = text if len(text) <= QUOTE_LIMIT else text[: QUOTE_LIMIT - 1] + "…"
    return f"“{shown}”"
