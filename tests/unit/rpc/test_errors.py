"""The table of errors, held against the contract row by row, and what a failure becomes on the wire."""

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from hypothesis import given
from hypothesis import strategies as st

from opsin_server.errors import Failure, Reason, quote
from opsin_server.rpc.errors import REFUSALS, RULES, as_failure, code_of, status_of, trailers_of

# The contract's table of errors, in its order: code, and the reasons that go with it.
CONTRACT = [
    ("INVALID_ARGUMENT", "MALFORMED_REQUEST"),
    ("INVALID_ARGUMENT", "OPTION_INVALID OPTION_UNSUPPORTED LABEL_UNKNOWN"),
    ("INVALID_ARGUMENT", "INPUT_MISSING"),
    ("INVALID_ARGUMENT", "IMAGE_UNDECODABLE IMAGE_TOO_LARGE FORMAT_UNSUPPORTED"),
    ("INVALID_ARGUMENT", "REGION_INVALID TEXT_TOO_LONG BATCH_TOO_LARGE"),
    ("INVALID_ARGUMENT", "STREAM_PROTOCOL SEQUENCE_NOT_INCREASING CODEC_UNSUPPORTED"),
    ("PERMISSION_DENIED", "URI_DISABLED URI_NOT_ALLOWED"),
    ("INVALID_ARGUMENT", "URI_FETCH_FAILED"),
    ("UNAVAILABLE", "URI_TIMEOUT"),
    ("NOT_FOUND", "MODEL_NOT_FOUND VERSION_NOT_FOUND"),
    ("FAILED_PRECONDITION", "TASK_UNSUPPORTED"),
    ("UNAVAILABLE", "MODEL_NOT_READY DRAINING"),
    ("RESOURCE_EXHAUSTED", "QUEUE_FULL STREAM_LIMIT QUOTA_EXCEEDED MEMORY_LIMIT"),
    ("RESOURCE_EXHAUSTED", "DEADLINE_UNMEETABLE"),
    ("DEADLINE_EXCEEDED", "DEADLINE_PASSED"),
    ("OUT_OF_RANGE", "RESUME_TOKEN_INVALID"),
    ("ABORTED", "STREAM_TAKEN_OVER"),
    ("INTERNAL", "DETECTOR_FAILED DETECTOR_BROKEN"),
    ("RESOURCE_EXHAUSTED", "DEVICE_MEMORY"),
    ("UNAVAILABLE", "LANE_LOST"),
    ("ALREADY_EXISTS", "MODEL_EXISTS"),
    ("FAILED_PRECONDITION", "MODEL_LOAD_FAILED"),
    ("UNAUTHENTICATED", "CREDENTIALS_MISSING CREDENTIALS_INVALID"),
    ("PERMISSION_DENIED", "SCOPE_MISSING"),
]
WITH_RETRY_INFO = {
    "MODEL_NOT_READY",
    "DRAINING",
    "QUEUE_FULL",
    "STREAM_LIMIT",
    "QUOTA_EXCEEDED",
    "MEMORY_LIMIT",
}
WITH_QUOTA = {"QUEUE_FULL", "STREAM_LIMIT", "QUOTA_EXCEEDED", "MEMORY_LIMIT"}
PUSHBACK_NEGATIVE = {"DEVICE_MEMORY", "LANE_LOST", "DEADLINE_UNMEETABLE"}


def details(status: status_pb2.Status) -> dict[type[Message], Message]:
    found: dict[type[Message], Message] = {}
    for packed in status.details:
        kind = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])
        assert kind not in found
        found[kind] = kind()
        packed.Unpack(found[kind])
    return found


def pushback(failure: Failure) -> int | None:
    value = dict(trailers_of(failure, "id")).get("grpc-retry-pushback-ms")
    return None if value is None else int(value)


def test_every_row_of_the_contract_is_in_the_table_and_nothing_else_is() -> None:
    contract = {Reason(name): code for code, names in CONTRACT for name in names.split()}
    assert {reason: rule.code.name for reason, rule in RULES.items()} == contract


def test_every_reason_has_a_rule() -> None:
    assert set(RULES) == set(Reason)


@pytest.mark.parametrize("reason", list(Reason))
def test_a_status_has_exactly_one_error_info_and_what_its_row_asks_for(reason: Reason) -> None:
    failure = Failure(reason, "No.", metadata={"variable": "1"})
    found = details(status_of(failure))
    info = found[ErrorInfo]
    assert (info.domain, info.reason, dict(info.metadata)) == ("opsin", reason.value, {"variable": "1"})
    assert (RetryInfo in found) == (reason in WITH_RETRY_INFO)
    assert (QuotaFailure in found) == (reason in WITH_QUOTA)
    assert BadRequest not in found


@pytest.mark.parametrize("reason", list(Reason))
def test_every_resource_exhausted_carries_a_pushback_and_no_other_asks_for_a_retry(reason: Reason) -> None:
    told = pushback(Failure(reason, "No."))
    if reason in PUSHBACK_NEGATIVE:
        assert told is not None
        assert told < 0
    elif RULES[reason].code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert told is not None
        assert told > 0
    else:
        assert told is None


def test_a_failure_that_names_a_time_is_told_with_it() -> None:
    failure = Failure(Reason.DEADLINE_UNMEETABLE, "Too busy.", retry_after=0.25)
    assert pushback(failure) == 250
    assert details(status_of(failure))[RetryInfo].retry_delay.ToMilliseconds() == 250


def test_a_time_that_rounds_to_nothing_is_still_a_time() -> None:
    assert pushback(Failure(Reason.QUEUE_FULL, "Full.", retry_after=0.0)) == 1


def test_never_retry_outweighs_everything() -> None:
    failure = Failure(Reason.QUEUE_FULL, "Never.", retry_after=1.0, never_retry=True)
    assert pushback(failure) == -1
    assert RetryInfo not in details(status_of(failure))


def test_a_field_becomes_a_field_violation() -> None:
    failure = Failure(Reason.OPTION_INVALID, "Wrong.", "options.min_score").within("requests[2]")
    (violation,) = details(status_of(failure))[BadRequest].field_violations
    assert (violation.field, violation.description) == ("requests[2].options.min_score", "Wrong.")


@given(st.text(), st.text(min_size=190, max_size=5000))
def test_whatever_is_quoted_the_trailers_stay_small_and_whole(message: str, name: str) -> None:
    failure = Failure(Reason.LABEL_UNKNOWN, message + quote(name), "options.labels[0]", {"label": name})
    status = status_pb2.Status.FromString(dict(trailers_of(failure, "id"))["grpc-status-details-bin"])
    assert len(status.message.encode()) <= 1000
    assert status.ByteSize() < 4000
    assert details(status)[ErrorInfo].reason == "LABEL_UNKNOWN"


def test_a_lone_surrogate_from_the_file_system_does_not_break_the_answer() -> None:
    failure = Failure(Reason.MODEL_LOAD_FAILED, "no file \udcff", metadata={"path": "\udcff"})
    assert details(status_of(failure))[ErrorInfo].metadata["path"] == "?"


def test_an_unexpected_exception_becomes_an_id() -> None:
    first, second = as_failure(ValueError("secret")), as_failure(ValueError("secret"))
    assert code_of(first) is grpc.StatusCode.INTERNAL
    assert first.metadata["error_id"] != second.metadata["error_id"]
    assert "secret" not in str(status_of(first))


def test_a_failure_is_told_as_it_is() -> None:
    failure = Failure(Reason.QUEUE_FULL, "Full.")
    assert as_failure(failure) is failure


def test_what_a_device_did_with_an_input_is_no_refusal() -> None:
    """A batch of which items ran and failed has outcomes; it is not refused as a whole."""
    after = {Reason.DETECTOR_FAILED, Reason.DETECTOR_BROKEN, Reason.DEVICE_MEMORY, Reason.LANE_LOST}
    assert not REFUSALS & (after | {Reason.DEADLINE_PASSED, Reason.IMAGE_UNDECODABLE})
